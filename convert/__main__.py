"""The command line, ``flax-attn-convert`` or ``python -m convert``."""

import argparse
import ast
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

from flax import traverse_util
from rich.console import Console
from rich.table import Table

from convert import demo
from convert.checkpoint import Checkpoint, read
from convert.chosen import chosen_model
from convert.dialects import AUTO, DIALECTS, NATIVE, detect
from convert.listing import listing
from convert.recognition import Candidate, recognise
from convert.rules import dropped
from convert.variables_file import save
from convert.verify import add_options, report_of, table_of
from flax_attn.catalog import Entry, Published

OUTSIDE, REFUSED = 1, 2
"""Exit statuses: a difference is larger than the tolerance; the input cannot be used."""


class Terminal:
    """Prints results to standard output and progress to standard error; ``quiet`` leaves out progress and summaries."""

    def __init__(self, quiet: bool):
        self.quiet = quiet
        self.out = Console(highlight=False)
        if not self.out.is_terminal:
            self.out = Console(highlight=False, width=200)

    def progress(self, what: str) -> AbstractContextManager:
        """Show ``what`` with a spinner until the ``with`` block ends."""
        return nullcontext() if self.quiet else Console(stderr=True).status(what)

    def say(self, text: str) -> None:
        """Print a line of a summary, which ``--quiet`` leaves out."""
        if not self.quiet:
            self.out.print(text, soft_wrap=True)


def inspect(options: argparse.Namespace, terminal: Terminal) -> int:
    """List the keys, shapes and dtypes in a checkpoint file, and the published networks that the file fits."""
    with terminal.progress(f"reading {options.file}"):
        checkpoint = read(options.file)
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


def models(options: argparse.Namespace, terminal: Terminal) -> int:
    """List the models and the published networks that a checkpoint can be converted for."""
    for line in listing(options.word):
        terminal.out.print(line, markup=False, soft_wrap=True)
    return 0


def recognised(options: argparse.Namespace, checkpoint: Checkpoint) -> Candidate:
    """The one published network that the file fits. ValueError if the file fits none, or several."""
    if options.arg:
        raise ValueError("an argument needs a model: name the model with --model")
    found = recognise(checkpoint.arrays, options.dialect)
    if not found:
        raise ValueError(f"{options.file}: fits no published network; say what it is with --model")
    if len(found) > 1:
        several = "\n".join(candidate.options for candidate in found)
        raise ValueError(f"{options.file}: fits several networks; say which with\n{several}")
    return found[0]


def convert(options: argparse.Namespace, terminal: Terminal) -> int:
    """Convert a PyTorch checkpoint, and write the Flax variables to a safetensors file."""
    entry: Entry
    with terminal.progress(f"converting {options.file}"):
        if options.model is None:
            checkpoint = read(options.file)
            candidate = recognised(options, checkpoint)
            module, mapping, assumed = candidate.module, candidate.plan, assumptions(candidate.entry)
            terminal.say(f"recognised {candidate}")
        else:
            entry, module, mapping = chosen_model(options)
            checkpoint, assumed = read(options.file), assumptions(entry)
        save(options.out, traverse_util.unflatten_dict(mapping.leaves(checkpoint.arrays, options.dialect)), module)
    for line in assumed + describe(options.file, checkpoint):
        terminal.say(line)
    left = [key for key in checkpoint.arrays if dropped(key)]
    count = sum(row.transposed for row in mapping.rows)
    terminal.say(f"{type(module).__name__}: mapped {len(mapping.rows)} arrays, {count} of them transposed")
    terminal.say(f"dropped {len(left)}: {', '.join(left) or 'nothing'}")
    terminal.say(f"wrote {options.out}, {Path(options.out).stat().st_size:,} bytes")
    return 0


def verify(options: argparse.Namespace, terminal: Terminal) -> int:
    """Run a checkpoint in Flax and in PyTorch on the same random input, and compare the results."""
    with terminal.progress(f"running {options.file} on both sides"):
        report = report_of(options)
    terminal.out.print(table_of(report.rows))
    if not report.ok:
        terminal.say(str(report))
    return 0 if report.ok else OUTSIDE


def run_demo(options: argparse.Namespace, terminal: Terminal) -> int:
    """Convert the checkpoint that is part of this package, and compare the result with PyTorch's logits."""
    with terminal.progress("converting and running DigitsNet"):
        result = demo.run()
        demo.picture(result, options.out)
    right = round(result.accuracy * len(result.labels))
    terminal.out.print("DigitsNet: a PyTorch checkpoint, converted without PyTorch", soft_wrap=True)
    terminal.out.print(
        f"largest difference from PyTorch's logits: {result.difference:.1e}, {'ok' if result.within else 'OUTSIDE'}"
    )
    terminal.out.print(f"held-out digits: {right} of {len(result.labels)} right, {result.accuracy:.2%}")
    terminal.out.print(f"attention maps: {options.out}", soft_wrap=True)
    return 0 if result.within else OUTSIDE


def key_value(text: str) -> tuple[str, Any]:
    """``planes=64`` -> ("planes", 64). A value that is no Python literal stays a string."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"expected name=value, got {text!r}")
    try:
        return key, ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return key, value


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    about = "Convert PyTorch checkpoints into Flax variables, without PyTorch."
    top = argparse.ArgumentParser(prog="flax-attn-convert", description=about)
    top.add_argument("--version", action="version", version=version("flax_attn"))
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, function: Callable[..., int]) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=function.__doc__, description=function.__doc__)
        added.add_argument("--quiet", action="store_true", help="print no progress and no summary")
        added.set_defaults(run=function)
        return added

    add_file(command("inspect", inspect))
    word = command("models", models)
    filtering = "list only models with WORD in their name, a file or the title of the paper; * is a wildcard"
    word.add_argument("word", nargs="?", default="", metavar="WORD", help=filtering)
    converting = command("convert", convert)
    add_model(converting, required=False)
    converting.add_argument("--out", type=Path, required=True, help="the safetensors file to write")
    verifying = command("verify", verify)
    add_model(verifying, required=True)
    add_options(verifying)
    picture = Path("flax_attn_demo.png")
    shown = "the picture of the attention maps to write (default: %(default)s)"
    command("demo", run_demo).add_argument("--out", type=Path, default=picture, help=shown)
    return top


def add_file(command: argparse.ArgumentParser) -> None:
    """Add the checkpoint file to a command."""
    command.add_argument("file", type=Path, help="the checkpoint: a .pth, .pt, .pkl, .tar or .safetensors file")


def add_model(command: argparse.ArgumentParser, required: bool) -> None:
    """Add the checkpoint file to a command, and the options that say which model it is for."""
    add_file(command)
    default = "" if required else " (default: the one published network that the file fits)"
    command.add_argument("--model", required=required, help=f"the model, by its name in the list of `models`{default}")
    command.add_argument(
        "--dialect",
        choices=[AUTO, NATIVE, *(dialect.name for dialect in DIALECTS)],
        default=AUTO,
        metavar="NAME",
        help=f"the code whose names the keys are: {AUTO} (the default) finds it out from the keys, {NATIVE} stands for "
        "the names that this package uses; one of %(choices)s",
    )
    command.add_argument(
        "--arg",
        type=key_value,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an argument of the model, as `models` lists it; may be given several times",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns 0, or 1 if a difference exceeds the tolerance, or 2 if the input cannot be used."""
    options = parser().parse_args(arguments)
    try:
        return options.run(options, Terminal(options.quiet))
    except (ValueError, OSError) as error:
        print(f"flax-attn-convert: {error}", file=sys.stderr)
        return REFUSED


if __name__ == "__main__":
    sys.exit(main())
