"""Finds the published networks that a state dict fits, by the names and shapes of its keys.

``digests.json`` holds a digest of the key names of every published network, so that no network has to be built to
compare names. ``python -m convert.recognition`` writes this file again.
"""

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from convert.dialects import AUTO, choose, detect
from convert.renaming import Dialect
from convert.rules import dropped
from convert.state_dict import Plan, plan, untranslated
from flax_attn.catalog import PUBLISHED, Entry, Published, arguments
from flax_attn.layers import Module

DIGESTS = Path(__file__).with_name("digests.json")


@dataclass(frozen=True, eq=False)
class Candidate:
    """A published network that a state dict fits.

    Args:
        arguments: the arguments of its constructor that are not the default.
        dialect: the dialect of the state dict; None if its names are those here.
    """

    entry: Published
    arguments: dict[str, Any]
    module: Module
    plan: Plan
    dialect: Dialect | None

    @property
    def options(self) -> str:
        """The same choice as options of the command line."""
        given = [f"--arg {key}={value!r}" for key, value in self.arguments.items()]
        spoken = [f"--dialect {self.dialect.name}"] if self.dialect else []
        return " ".join([f"--model {self.entry.cls.__name__}", *given, *spoken])

    def __str__(self) -> str:
        inside = ", ".join(f"{key}={value!r}" for key, value in self.arguments.items())
        return f"{self.entry.cls.__name__}({inside})"


def digest(keys: Iterable[str]) -> str:
    """A hash of a set of keys, without those that no network here holds."""
    names = "\n".join(sorted(key for key in keys if not dropped(key)))
    return hashlib.sha256(names.encode()).hexdigest()[:16]


@functools.cache
def digests() -> dict[str, str]:
    """The digest of every published network."""
    return json.loads(DIGESTS.read_text())


def recognise(state_dict: Mapping[str, Any], dialect: str = AUTO) -> list[Candidate]:
    """Every published network that ``state_dict`` fits, read in ``dialect``.

    "auto" stands for every dialect that the keys may be of, and for the names here if there is none.
    """
    spoken: list[Dialect | None] = [*detect(state_dict)] if dialect == AUTO else [choose(dialect, state_dict)]
    return [candidate for one in spoken or [None] for candidate in _fitting(one, state_dict)]


def _fitting(dialect: Dialect | None, state_dict: Mapping[str, Any]) -> list[Candidate]:
    entries, problems = dialect.read(state_dict) if dialect else (untranslated(state_dict), [])
    if problems:
        return []
    shapes = {key: tuple(entry.value.shape) for key, entry in entries.items()}
    name = digest(shapes)
    found = [
        _candidate(entry, dialect, shapes)
        for entry in PUBLISHED
        if digests().get(entry.name) == name and (dialect is None or suits(dialect, entry))
    ]
    return [candidate for candidate in found if candidate]


def suits(dialect: Dialect, entry: Published) -> bool:
    """Whether there are files of the network ``entry`` in this dialect."""
    return any(fnmatch(entry.cls.__name__, pattern) for pattern in dialect.networks)


def _candidate(entry: Published, dialect: Dialect | None, shapes: Mapping[str, tuple[int, ...]]) -> Candidate | None:
    """The network with the arguments that follow from ``shapes``, if its state dict has exactly these shapes."""
    if any(shapes[key] == () for key, _ in entry.lengths.values()):
        return None
    told = {name: shapes[key][0] - less for name, (key, less) in entry.lengths.items()}
    given = {**entry.kwargs, **told}
    try:
        module = entry.cls(**given)
        mapping = entry_plan(entry, module)
    except ValueError:
        return None
    known = arguments(entry.cls)
    different = {key: value for key, value in given.items() if value != known[key].default}
    return Candidate(entry, different, module, plan=mapping, dialect=dialect) if mapping.shapes == shapes else None


def entry_plan(entry: Entry, module: Module) -> Plan:
    """The plan of ``module`` for the example inputs of ``entry``. ValueError if they do not fit the module."""
    structs = entry.structs(module)
    if any(size is None for struct in structs for size in struct.shape):
        raise ValueError(
            f"{type(module).__name__}: the example inputs of {entry.name} need an argument that is not given"
        )
    args, kwargs = entry.arguments(structs)
    return plan(module, *args, **kwargs)


def main() -> None:
    """Write the digests of all published networks."""
    found = {entry.name: digest(entry_plan(entry, entry.module()).shapes) for entry in PUBLISHED}
    DIGESTS.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
