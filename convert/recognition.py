"""Finds the published networks, and the blocks, that a state dict or a part of it fits.

``digests.json`` holds a digest of the key names of every published network and of every block, so that none has to be
built to compare names. ``python -m convert.recognition`` writes this file again.
"""

import functools
import hashlib
import json
import shlex
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from convert.dialects import AUTO, NATIVE, find_dialect
from convert.parts import hollow, parts, select, spoken
from convert.renaming import Dialect
from convert.rules import dropped
from convert.solving import Solved, entry_plan, solvable, solve
from convert.state_dict import Plan, untranslated
from flax_attn.catalog import PUBLISHED, Entry, Published, arguments
from flax_attn.catalog.blocks import BLOCKS
from flax_attn.layers import Module

DIGESTS = Path(__file__).with_name("digests.json")

LARGE = 4000
"""Parts of a file with more keys are compared with the names here alone, and not in other dialects."""

HANDFUL = 5
"""So many kinds of blocks are told at most, and so many classes for each."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """A published network or a block that a state dict fits.

    Args:
        arguments: the arguments of its constructor that are not the default.
        dialect: the dialect of the state dict; None if its names are those here.
        prefix: the part of the state dict that fits: the keys below this prefix; empty where all of it fits.
        open: those of the arguments that the state dict does not tell.
        more: how many other parts of the state dict have the same names.
    """

    entry: Entry
    arguments: dict[str, Any]
    module: Module
    plan: Plan
    dialect: Dialect | None
    prefix: str = ""
    open: tuple[str, ...] = ()
    more: int = 0

    @property
    def options(self) -> str:
        """The same choice as options of the command line. An argument that is not known is a question mark."""
        given = [f"--arg {shlex.quote(f'{key}={value}')}" for key, value in self._spelled().items()]
        spoken = [f"--dialect {self.dialect.name}"] if self.dialect else []
        below = [f"--prefix {shlex.quote(self.prefix)}"] if self.prefix else []
        return " ".join([f"--model {self.entry.cls.__name__}", *given, *spoken, *below])

    def select(self, state_dict: Mapping[str, Any]) -> dict[str, Any]:
        """The part of ``state_dict`` that fits, without the prefix."""
        return select(state_dict, self.prefix)

    def facts(self) -> dict[str, Any]:
        """The same choice as plain values. An argument that is not known is None."""
        plain = {key: value.__name__ if isinstance(value, type) else value for key, value in self.arguments.items()}
        return {
            "model": self.entry.cls.__name__,
            "arguments": plain | dict.fromkeys(self.open),
            "dialect": self.dialect.name if self.dialect else NATIVE,
            "prefix": self.prefix,
            "options": self.options,
            "more": self.more,
        }

    def __str__(self) -> str:
        inside = ", ".join(f"{key}={value}" for key, value in self._spelled().items())
        return f"{self.entry.cls.__name__}({inside})"

    def _spelled(self) -> dict[str, str]:
        names = {
            key: value.__name__ if isinstance(value, type) else repr(value) for key, value in self.arguments.items()
        }
        return names | dict.fromkeys(self.open, "?")


def digest(keys: Iterable[str]) -> str:
    """A hash of a set of keys, without those that no network here holds."""
    names = "\n".join(sorted(key for key in keys if not dropped(key)))
    return hashlib.sha256(names.encode(errors="surrogatepass")).hexdigest()[:16]


@functools.cache
def digests() -> dict[str, str]:
    """The digest of every published network and of every block that has parameters."""
    return json.loads(DIGESTS.read_text())


@dataclass(frozen=True, eq=False)
class _Reading:
    """The part of a state dict below ``prefix``, read in ``dialect``: a digest and the shapes under the names here."""

    prefix: str
    dialect: Dialect | None
    name: str
    shapes: dict[str, tuple[int, ...]]


def recognise(state_dict: Mapping[str, Any], dialect: str = AUTO) -> list[Candidate]:
    """Every published network that ``state_dict`` fits, read in ``dialect``.

    "auto" stands for the names here, and for every dialect that the keys may be of. Where ``state_dict`` fits no
    network, the result is the networks that parts of it fit, the keys below a prefix. A part inside of another one
    that fits is left out.
    """
    found: list[Candidate] = []
    for reading in _readings(state_dict, dialect, {entry.name for entry in PUBLISHED}):
        if _is_new(reading, found):
            found += _fitting(reading)
    return found


def recognise_blocks(state_dict: Mapping[str, Any], dialect: str = AUTO) -> list[Candidate]:
    """Blocks of the catalog that ``state_dict`` may be, or parts of it, the keys below a prefix; at most a handful.

    The arguments are those that the shapes tell; others may differ. Of several classes, the one with the fewest
    arguments is first. Of parts with the same names, only the first and largest is told.
    """
    found: list[Candidate] = []
    groups: dict[tuple[str, Dialect | None], list[_Reading]] = defaultdict(list)
    for reading in _readings(state_dict, dialect, {entry.name for entry in BLOCKS}):
        if not (reading.prefix and _is_layer(reading.shapes)):
            groups[reading.name, reading.dialect].append(reading)
    for group in sorted(groups.values(), key=lambda group: (len(group[0].prefix) > 0, -len(group[0].shapes))):
        new = [reading for reading in group if _is_new(reading, found)]
        if len({candidate.prefix for candidate in found}) < HANDFUL:
            found += next((fits for reading in new[:2] if (fits := _solved(reading, len(new) - 1))), [])
    return found


def _is_new(reading: _Reading, found: Iterable[Candidate]) -> bool:
    """Whether the part is not inside of another one that was found."""
    return not any(reading.prefix.startswith(f.prefix) and reading.prefix != f.prefix for f in found)


def _is_layer(shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether these may be the arrays of one plain layer, which say nothing about the block that it is from."""
    return len({key.rpartition(".")[0] for key in shapes}) == 1 and all(
        len(shape) < 2 for key, shape in shapes.items() if not key.endswith("weight")
    )


def _readings(state_dict: Mapping[str, Any], dialect: str, entries: set[str]) -> Iterator[_Reading]:
    """The parts of ``state_dict`` with the names of one of ``entries``; all of it first, and then larger ones first."""
    known = {name for entry, name in digests().items() if entry in entries}
    arrays, found = hollow(state_dict), parts(state_dict)
    dialects = _dialects(dialect, found)
    for prefix, keys in found.items():
        part: dict[str, Any] = {}
        for one in dialects(prefix):
            if one is None and digest(keys) not in known:
                continue
            part = part or {key: arrays[prefix + key] for key in keys}
            read, problems = one.read(part) if one else (untranslated(part), [])
            name = digest(read)
            if name in known and not problems:
                shapes = {key: tuple(entry.value.shape) for key, entry in read.items()}
                yield _Reading(prefix, one, name, shapes=shapes)


def _dialects(dialect: str, found: Mapping[str, list[str]]) -> Callable[[str], list[Dialect | None]]:
    """The dialects in which to read the part below a prefix, by that prefix."""
    if dialect == NATIVE:
        return lambda prefix: [None]
    if dialect == AUTO:
        detected = spoken(found)
        return lambda prefix: [None, *(detected.get(prefix, []) if len(found[prefix]) <= LARGE else [])]
    chosen = find_dialect(dialect)
    first = [prefix for prefix, keys in found.items() if len(keys) <= LARGE][:HANDFUL]
    spoken_in = {prefix for prefix, those in spoken(found).items() if chosen in those} if chosen.signature else first
    return lambda prefix: [chosen] if prefix in spoken_in or not prefix else []


def _fitting(reading: _Reading) -> list[Candidate]:
    """The published networks with the names and shapes of ``reading``."""
    found = [
        _candidate(entry, reading)
        for entry in PUBLISHED
        if digests().get(entry.name) == reading.name and (reading.dialect is None or suits(reading.dialect, entry))
    ]
    return [candidate for candidate in found if candidate]


def _solved(reading: _Reading, more: int) -> list[Candidate]:
    """The blocks with the names and shapes of ``reading``; those with the fewest arguments first."""
    found: dict[str, Candidate] = {}
    for entry in BLOCKS:
        if digests().get(entry.name) != reading.name or not solvable(entry):
            continue
        solved = solve(entry, reading.shapes)
        if solved:
            blocks = [_block(other, solved, reading, more=more) for other in _relatives(entry)]
            found |= {str(block): block for block in blocks if block and str(block) not in found}

    def length(candidate: Candidate) -> tuple[int, int]:
        return len(candidate.arguments), len(arguments(candidate.entry.cls))

    return sorted(found.values(), key=length)[:HANDFUL]


def _relatives(entry: Entry) -> list[Entry]:
    """``entry``, and an entry of each class of the same file that takes the same arguments."""
    names = arguments(entry.cls).keys()
    others = {other.cls: other for other in BLOCKS if other.cls.__module__ == entry.cls.__module__}
    return [entry, *(e for c, e in others.items() if c is not entry.cls and arguments(c).keys() == names)]


def _block(entry: Entry, solved: Solved, reading: _Reading, more: int) -> Candidate | None:
    """The block with the arguments ``solved``, if its state dict has exactly the shapes of ``reading``."""
    try:
        module = entry.cls(**solved.given)
        mapping = entry_plan(entry, module)
    except (ValueError, TypeError):
        return None
    shapes = {key: shape for key, shape in mapping.shapes.items() if not dropped(key)}
    if shapes != {key: shape for key, shape in reading.shapes.items() if not dropped(key)}:
        return None
    return Candidate(
        entry,
        solved.given,
        module,
        plan=mapping,
        dialect=reading.dialect,
        prefix=reading.prefix,
        open=solved.open,
        more=more,
    )


def suits(dialect: Dialect, entry: Published) -> bool:
    """Whether there are files of the network ``entry`` in this dialect."""
    return any(fnmatch(entry.cls.__name__, pattern) for pattern in dialect.networks)


def _candidate(entry: Published, reading: _Reading) -> Candidate | None:
    """The network with the arguments that follow from the shapes, if its state dict has exactly these shapes."""
    shapes = reading.shapes
    if any(shapes[key] == () for key, _ in entry.lengths.values()):
        return None
    told = {name: shapes[key][0] - less for name, (key, less) in entry.lengths.items()}
    given = {**entry.kwargs, **told}
    try:
        module = entry.cls(**given)
        mapping = entry_plan(entry, module)
    except ValueError:
        return None
    if mapping.shapes != shapes:
        return None
    known = arguments(entry.cls)
    different = {key: value for key, value in given.items() if value != known[key].default}
    return Candidate(entry, different, module, plan=mapping, dialect=reading.dialect, prefix=reading.prefix)


def main() -> None:
    """Write the digests of all published networks, and of all blocks that have parameters."""
    shapes = {entry.name: entry_plan(entry, entry.module()).shapes for entry in [*PUBLISHED, *BLOCKS]}
    found = {name: digest(keys) for name, keys in shapes.items() if keys}
    DIGESTS.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
