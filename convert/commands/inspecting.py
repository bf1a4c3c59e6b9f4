"""The command ``inspect``: what a checkpoint file holds, and which published networks it fits."""

import argparse
from pathlib import Path

from rich.table import Table

from convert.checkpoint import Checkpoint, scan
from convert.commands.options import add_file
from convert.commands.terminal import Terminal
from convert.dialects import NATIVE, detect
from convert.recognition import recognise
from convert.rules import dropped
from flax_attn.catalog import Entry, Published


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the options of ``inspect``."""
    add_file(command)


def run(options: argparse.Namespace, terminal: Terminal) -> int:
    """List the keys, shapes and dtypes in a checkpoint file, and the published networks that the file fits."""
    with terminal.progress(f"reading {options.file}"):
        checkpoint = scan(options.file, options.wrapper, options.prefix, options.strict_pickle)
    table = Table("key", "shape", "dtype", box=None)
    for key, array in checkpoint.arrays.items():
        table.add_row(key, str(tuple(array.shape)), array.dtype.name)
    terminal.out.print(table)
    if not options.quiet:
        for line in describe(options.file, checkpoint) + guess(checkpoint):
            terminal.say(line)
    return 0


def guess(checkpoint: Checkpoint) -> list[str]:
    """The dialects that the keys may be of, and the published networks that they fit."""
    dialects = [f"{dialect.name} ({dialect.about})" for dialect in detect(checkpoint.arrays)]
    lines = [f"dialect: {' or '.join(dialects) or NATIVE}"]
    for candidate in (fitting := recognise(checkpoint.arrays)):
        lines += [f"fits {candidate.options}", *assumptions(candidate.entry)]
    return lines if fitting else [*lines, "fits no published network"]


def assumptions(entry: Entry) -> list[str]:
    """A line about what no checkpoint tells about the network, if there is such a thing."""
    return [f"assumed: {entry.assumed}"] if isinstance(entry, Published) and entry.assumed else []


def describe(path: Path, checkpoint: Checkpoint) -> list[str]:
    """What else the file holds, and what was done to its keys."""
    total = sum(array.size for key, array in checkpoint.arrays.items() if not dropped(key))
    lines = [f"{path}: {checkpoint.format}, {len(checkpoint.arrays)} arrays, {total:,} numbers"]
    if checkpoint.wrapper:
        beside = f", beside {', '.join(checkpoint.extras)}" if checkpoint.extras else ""
        lines.append(f"found under {checkpoint.wrapper!r}{beside}")
    if checkpoint.prefix:
        lines.append(f"stripped the prefix {checkpoint.prefix!r} from every key")
    return lines + [f"{key}: {value}" for key, value in checkpoint.metadata.items()]
