"""The command ``inspect``: what a checkpoint file holds, and which published networks and blocks it fits."""

import argparse
import math
import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from convert.checkpoint import FORMAT, Checkpoint, scan
from convert.commands.options import add_file
from convert.commands.terminal import Terminal, printable
from convert.dialects import NATIVE
from convert.parts import parts, spoken
from convert.recognition import Candidate, recognise, recognise_blocks
from convert.renaming import Dialect
from convert.rules import dropped
from flax_attn.catalog import Entry, Published

AVERAGE = re.compile(r"(?<![a-z])(ema|swa|averaged|polyak)(?![a-z])")
"""What the keys of averaged weights have in their names."""

MANY = 8
"""So many names are listed on one line."""

ROWS = 40
"""So many arrays are listed on a terminal without ``--all``."""

TEXT = 1000
"""Text of a file is cut to so many characters, but not in the table of keys."""


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the options of ``inspect``."""
    add_file(command)
    command.add_argument("--json", action="store_true", help="print one JSON object in place of text")
    command.add_argument("--all", action="store_true", help=f"list all arrays on a terminal, not only {ROWS}")


def run(options: argparse.Namespace, terminal: Terminal) -> int:
    """Say what a checkpoint file holds, and which published networks it fits, and list its keys."""
    with terminal.progress(f"reading {options.file}"):
        checkpoint = scan(options.file, options.wrapper, options.prefix, options.strict_pickle)
        found = Findings(options.file, checkpoint)
        lines = [] if options.quiet and not options.json else [*said(found)]
    if options.json:
        terminal.json(facts(found))
        return 0
    for line, style in lines:
        terminal.say(line, style)
    rows = [(key, str(tuple(array.shape)), array.dtype.name) for key, array in checkpoint.arrays.items()]
    kept = len(rows) if options.all or not terminal.out.is_terminal else ROWS
    terminal.table([("key", "shape", "dtype"), *rows[:kept]])
    if rows[kept:]:
        terminal.say(f"... and {len(rows) - kept} more: --all shows them")
    return 0


@dataclass(frozen=True)
class Findings:
    """What is known of the content of a file beyond what was read."""

    path: Path
    checkpoint: Checkpoint

    @property
    def own(self) -> bool:
        """Whether the file holds Flax variables that this package wrote."""
        return self.checkpoint.metadata.get("format") == FORMAT

    @cached_property
    def fits(self) -> list[Candidate]:
        """The published networks that the file, or a part of it, fits."""
        return [] if self.own else recognise(self.checkpoint.arrays)

    @cached_property
    def may_be(self) -> list[Candidate]:
        """The blocks that the file, or a part of it, may be, where it fits no network."""
        return [] if self.own or self.fits else recognise_blocks(self.checkpoint.arrays)

    @cached_property
    def dialects(self) -> list[Dialect]:
        """The dialects that the keys may be of."""
        fitting = [candidate.dialect for candidate in [*self.fits, *self.may_be]]
        found = [dialect for dialect in fitting if dialect]
        if not fitting:
            found = spoken(parts(self.checkpoint.arrays)).get("", [])
        return [*{dialect.name: dialect for dialect in found}.values()]

    @property
    def native(self) -> bool:
        """Whether keys have the names of this package."""
        return any(candidate.dialect is None for candidate in [*self.fits, *self.may_be])

    @property
    def averages(self) -> list[str]:
        """The options that choose averaged weights, which the file has beside those that were read."""
        inside = [key for key in self.checkpoint.wrappers if AVERAGE.search(key.lower())]
        first = {key.partition(".")[0] for key in self.checkpoint.arrays if "." in key}
        below = sorted(part for part in first if AVERAGE.search(part.lower()) and len(first) > 1)
        chosen = [key for key in inside if key != self.checkpoint.wrapper]
        return [f"--wrapper {shlex.quote(key)}" for key in chosen] + [f"--prefix {shlex.quote(key)}." for key in below]


def said(found: Findings) -> Iterable[tuple[str, str | None]]:
    """The lines about a file, each with its style; the most important first."""
    checkpoint = found.checkpoint
    first, *rest = describe(found.path, checkpoint)
    yield first, None
    if checkpoint.whole:
        yield (
            f"a whole module, {_text(checkpoint.whole)}; its state dict was read, and none of its code is needed",
            None,
        )
    dangers = [_text(sentence) for sentence in checkpoint.names.values() if sentence]
    yield from ((f"DANGER: {sentence}", "bold red") for sentence in dangers[:MANY])
    if dangers[MANY:]:
        yield f"DANGER: and {len(dangers) - MANY} more such names", "bold red"
    yield from ((line, None) for line in (_of_own(found) if found.own else guess(found)))
    yield from ((line, None) for line in _of_wrappers(found))
    yield from ((line, None) for line in rest)
    harmless = [_text(name) for name, sentence in checkpoint.names.items() if not sentence]
    if harmless:
        yield f"also named in the pickle, not needed, and not imported: {_listed(harmless)}", None


def guess(found: Findings) -> list[str]:
    """The dialects that the keys may be of, and the networks or blocks that they fit."""
    lines = [line for one in found.fits for line in [f"fits {printable(one.options)}", *assumptions(one.entry)]]
    for block in found.may_be:
        more = f" (and {block.more} more part{'s' * (block.more > 1)} with the same names)" if block.more else ""
        lines.append(f"may be {printable(block.options)}{more}")
    if found.may_be:
        asked = "; ? stands for one that the file does not tell" if any(one.open for one in found.may_be) else ""
        lines.append(f"a block may have other arguments too, which leave no trace in a file{asked}")
    if not found.fits:
        lines += _of_foreign(found)
    names = [NATIVE] * found.native + [f"{dialect.name} ({dialect.about})" for dialect in found.dialects]
    return [*lines, f"dialect: {' or '.join(names)}" if names else "no known dialect"]


def _of_foreign(found: Findings) -> list[str]:
    """What to do with a file that fits no published network."""
    return [
        "fits no published network" + ("" if found.may_be else ", and no block of the catalog with other sizes"),
        "for a network of the catalog, pass --model NAME to convert; `flax-attn-convert models` lists the names",
        "for a network of your own, convert.from_torch(module, convert.load(file), *inputs) converts the weights, and "
        "convert.compare(module, torch_module, *inputs) shows where the two differ",
    ]


def _of_own(found: Findings) -> list[str]:
    """What a file of Flax variables is for."""
    metadata, file = found.checkpoint.metadata, shlex.quote(str(found.path))
    cls = metadata.get("module", "").rpartition(":")[2]
    whose = f"of {_text(cls)}" if cls else "without the name of their module"
    return [
        f"Flax variables {whose}, as convert or save wrote them; convert.restore(file) reads them",
        f"compare them with PyTorch: flax-attn-convert verify {_text(file)}",
        f"write a PyTorch state dict: flax-attn-convert export {_text(file)} --out net.pth",
    ]


def _of_wrappers(found: Findings) -> list[str]:
    """The state dicts in the file, with the number of their tensors, and those of averaged weights."""
    wrappers, chosen = found.checkpoint.wrappers, found.checkpoint.wrapper
    counts = [f"{_text(key) or 'the outermost dict'} ({n} tensor{'s' * (n != 1)})" for key, n in wrappers.items()]
    lines = [f"state dicts in the file: {_listed(counts)}; --wrapper chooses one"] if len(wrappers) > 1 else []
    for option in found.averages[:MANY]:
        where = option.partition(" ")[2]
        lines.append(f"an exponential moving average of the weights is under {_text(where)}: pass {_text(option)}")
    if chosen and AVERAGE.search(chosen.lower()):
        lines.append(f"the weights under {_text(chosen)!r} are an exponential moving average")
    return lines


def assumptions(entry: Entry) -> list[str]:
    """A line about what no checkpoint tells about the network, if there is such a thing."""
    return [f"assumed: {entry.assumed}"] if isinstance(entry, Published) and entry.assumed else []


def describe(path: Path, checkpoint: Checkpoint) -> list[str]:
    """What the file holds, and what was done to its keys."""
    total = sum(math.prod(array.shape) for key, array in checkpoint.arrays.items() if not dropped(key))
    count = len(checkpoint.arrays)
    arrays = f"{count} array{'s' * (count != 1)}"
    lines = [f"{printable(str(path))}: {checkpoint.format}, {arrays}, {total:,} numbers"]
    if checkpoint.wrapper:
        beside = f", beside {_listed([_text(key) for key in checkpoint.beside])}" if checkpoint.beside else ""
        lines.append(f"found under '{_text(checkpoint.wrapper)}'{beside}")
    if checkpoint.prefix:
        lines.append(f"stripped the prefix '{_text(checkpoint.prefix)}' from every key")
    return lines + [f"{_text(key)}: {_text(value)}" for key, value in checkpoint.metadata.items()]


def facts(found: Findings) -> dict[str, Any]:
    """All of it as plain values."""
    checkpoint = found.checkpoint
    arrays = {key: {"shape": [*map(int, x.shape)], "dtype": x.dtype.name} for key, x in checkpoint.arrays.items()}
    return {
        "file": str(found.path),
        "format": checkpoint.format,
        "arrays": arrays,
        "numbers": sum(math.prod(array.shape) for key, array in checkpoint.arrays.items() if not dropped(key)),
        "wrapper": checkpoint.wrapper,
        "wrappers": dict(checkpoint.wrappers),
        "averages": found.averages,
        "prefix": checkpoint.prefix,
        "beside": list(checkpoint.beside),
        "whole_module": checkpoint.whole,
        "names": dict(checkpoint.names),
        "metadata": dict(checkpoint.metadata),
        "flax_variables": found.own,
        "dialects": [NATIVE] * found.native + [dialect.name for dialect in found.dialects],
        "fits": [candidate.facts() for candidate in found.fits],
        "may_be": [candidate.facts() for candidate in found.may_be],
    }


def _text(text: str) -> str:
    return printable(text[:TEXT]) + "..." * (len(text) > TEXT)


def _listed(names: list[str]) -> str:
    return ", ".join(names[:MANY]) + f" and {len(names) - MANY} more" * (len(names) > MANY)
