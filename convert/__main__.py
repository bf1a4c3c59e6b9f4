"""The command line: ``flax-attn-convert``, or ``python -m convert``."""

import argparse
import ast
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from importlib.metadata import version
from inspect import Parameter
from pathlib import Path
from typing import Any

from flax import traverse_util
from rich.console import Console
from rich.table import Table

from convert import demo
from convert.checkpoint import Checkpoint, read, save
from convert.dialects import AUTO, DIALECTS, NATIVE, choose, detect
from convert.recognition import Candidate, entry_plan, recognise, suits
from convert.rules import dropped
from convert.state_dict import Plan
from convert.verify import compare_with_twin
from flax_attn import catalog
from flax_attn.catalog import CATALOG, PUBLISHED, Entry
from flax_attn.layers import Module

OUTSIDE, REFUSED = 1, 2
"""Exit statuses: numbers outside the tolerance; input that cannot be used."""


class Terminal:
    """Results go to standard output, progress to standard error; ``quiet`` leaves only what was asked for."""

    def __init__(self, quiet: bool):
        self.quiet = quiet
        self.out = Console(highlight=False)
        if not self.out.is_terminal:
            self.out = Console(highlight=False, width=200)

    def progress(self, what: str) -> AbstractContextManager:
        """Show that something is under way, until the block ends."""
        return nullcontext() if self.quiet else Console(stderr=True).status(what)

    def say(self, text: str) -> None:
        """A line that ``--quiet`` leaves out."""
        if not self.quiet:
            self.out.print(text, soft_wrap=True)


def inspect(options: argparse.Namespace, terminal: Terminal) -> int:
    """List the keys, shapes and dtypes in a checkpoint file, and tell what it may be."""
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
    """Whose names the keys are, and the published networks that they fit."""
    spoken = [f"{dialect.name} ({dialect.about})" for dialect in detect(checkpoint.arrays)]
    fitting = [candidate.options for candidate in recognise(checkpoint.arrays)]
    lines = [f"dialect: {' or '.join(spoken) or NATIVE}"]
    return lines + [f"fits {options}" for options in fitting or ["no published network"]]


def describe(path: Path, checkpoint: Checkpoint) -> list[str]:
    """What is known of a file apart from its arrays."""
    total = sum(array.size for key, array in checkpoint.arrays.items() if not dropped(key))
    lines = [f"{path}: {checkpoint.format}, {len(checkpoint.arrays)} arrays, {total:,} numbers"]
    if checkpoint.wrapper:
        beside = f", beside {', '.join(checkpoint.extras)}" if checkpoint.extras else ""
        lines.append(f"found under {checkpoint.wrapper!r}{beside}")
    if checkpoint.prefix:
        lines.append(f"stripped the prefix {checkpoint.prefix!r} from every key")
    return lines + [f"{key}: {value}" for key, value in checkpoint.metadata.items()]


def models(options: argparse.Namespace, terminal: Terminal) -> int:
    """List every model, and every published network, with its arguments."""
    if options.markdown:
        print(markdown())
        return 0
    table = Table("model", "arguments", "paper", box=None)
    for cls in dict.fromkeys(entry.cls for entry in CATALOG):
        table.add_row(cls.__name__, signature(cls), paper(cls.__module__)[0])
    terminal.out.print(table)
    table = Table("network", "arguments", "published files", box=None)
    for entry in PUBLISHED:
        table.add_row(entry.cls.__name__, signature(entry.cls), ", ".join(entry.files))
    terminal.out.print(table)
    return 0


def paper(module: str) -> tuple[str, str]:
    """Title, and authors with year and address, from the first line of a module."""
    title, _, source = (sys.modules[module].__doc__ or "").partition("\n")[0].partition(" - ")
    return title, source


def markdown() -> str:
    """The README's tables."""
    return classes() + "\n\n" + networks()


def classes() -> str:
    """A row a file, with its classes."""
    lines = ["| file | classes | paper |", "| --- | --- | --- |"]
    for module in sorted({entry.cls.__module__ for entry in CATALOG}):
        classes = dict.fromkeys(entry.cls.__name__ for entry in CATALOG if entry.cls.__module__ == module)
        title, source = paper(module)
        authors, _, url = source.rpartition(", ")
        cited = f"[{title}]({url}), {authors}" if url.startswith("http") else title
        path = module.replace(".", "/") + ".py"
        names = ", ".join(f"`{name}`" for name in classes)
        lines.append(f"| [{path.removeprefix('flax_attn/')}]({path}) | {names} | {cited} |")
    return "\n".join(lines)


def networks(figures: Mapping[str, float] | None = None) -> str:
    """A row a file, with the constructors of its published networks; ``figures`` of them make a column of the worst."""
    head = ["network", "constructors", "published files", "dialects", *(["float64 difference"] if figures else [])]
    rows = [head, ["---"] * len(head)]
    for module in dict.fromkeys(entry.cls.__module__ for entry in PUBLISHED):
        entries = [entry for entry in PUBLISHED if entry.cls.__module__ == module]
        path = module.replace(".", "/") + ".py"
        spoken = [d.name for d in DIALECTS if any(suits(d, entry) for entry in entries)]
        cells = [f"[{path.removeprefix('flax_attn/')}]({path})", listed(entry.name for entry in entries)]
        cells += [listed(file for entry in entries for file in entry.files), listed(spoken)]
        rows.append([*cells, *([f"{max(figures[entry.name] for entry in entries):.0e}"] if figures else [])])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def listed(names: Iterable[str]) -> str:
    """Names as code, with commas."""
    return ", ".join(f"`{name}`" for name in names)


def signature(cls: Callable[..., Module]) -> str:
    """The arguments of ``cls``, with their defaults."""
    shown = [(p.name, p.default) for p in catalog.arguments(cls).values()]
    return ", ".join(name if default is Parameter.empty else f"{name}={default!r}" for name, default in shown)


def build(options: argparse.Namespace) -> tuple[Entry, Module, Plan]:
    """The chosen module, an entry whose example inputs suit its arguments, and how it maps onto PyTorch's keys."""
    module = catalog.build(options.model, **dict(options.arg))
    refusals = []
    for entry in catalog.find(options.model):
        try:
            return entry, module, entry_plan(entry, module)
        except (TypeError, ValueError) as refusal:
            refusals.append(refusal)
    raise ValueError(str(refusals[0]).partition("\n")[0])


def recognised(options: argparse.Namespace, checkpoint: Checkpoint) -> Candidate:
    """The one published network that the file fits; ValueError where there are none or several."""
    if options.arg:
        raise ValueError("an argument needs a model to belong to: say which with --model")
    found = recognise(checkpoint.arrays, options.dialect)
    if not found:
        raise ValueError(f"{options.file}: fits no published network; say what it is with --model")
    if len(found) > 1:
        several = "\n".join(candidate.options for candidate in found)
        raise ValueError(f"{options.file}: fits several networks; say which with\n{several}")
    return found[0]


def convert(options: argparse.Namespace, terminal: Terminal) -> int:
    """Convert a PyTorch checkpoint and write the Flax variables as safetensors."""
    with terminal.progress(f"converting {options.file}"):
        if options.model is None:
            checkpoint = read(options.file)
            candidate = recognised(options, checkpoint)
            module, mapping = candidate.module, candidate.plan
            terminal.say(f"recognised {candidate}")
        else:
            _, module, mapping = build(options)
            checkpoint = read(options.file)
        save(options.out, traverse_util.unflatten_dict(mapping.leaves(checkpoint.arrays, options.dialect)), module)
    for line in describe(options.file, checkpoint):
        terminal.say(line)
    left = [key for key in checkpoint.arrays if dropped(key)]
    transposed = sum(row.transposed for row in mapping.rows)
    terminal.say(f"{module.__class__.__name__}: mapped {len(mapping.rows)} arrays, {transposed} of them transposed")
    terminal.say(f"dropped {len(left)}: {', '.join(left) or 'nothing'}")
    terminal.say(f"wrote {options.out}, {Path(options.out).stat().st_size:,} bytes")
    return 0


def verify(options: argparse.Namespace, terminal: Terminal) -> int:
    """Run a checkpoint in Flax and in its PyTorch twin on the same random input, and compare the outputs."""
    try:
        import_module("torch_ref.twins")
    except ImportError as error:
        raise ValueError(f'verify needs PyTorch: pip install "flax_attn[torch]" ({error})') from error
    with terminal.progress(f"running {options.file} on both sides"):
        entry, module, mapping = build(options)
        arrays = read(options.file).arrays
        if choose(options.dialect, arrays):
            arrays = mapping.to_torch(mapping.from_torch(arrays, options.dialect))
        given = {name: getattr(module, name, value) for name, value in options.arg}
        rows = compare_with_twin(entry, module, mapping, arrays, given, options.seed)
    table = Table("dtype", "max abs difference", "relative", "allowed", "", box=None)
    for row in rows:
        verdict = "ok" if row.within else "OUTSIDE"
        table.add_row(row.dtype, f"{row.absolute:.2e}", f"{row.relative:.2e}", f"{row.allowed:.0e}", verdict)
    terminal.out.print(table)
    return 0 if all(row.within for row in rows) else OUTSIDE


def run_demo(options: argparse.Namespace, terminal: Terminal) -> int:
    """Convert the checkpoint that travels with this package, and hold it against PyTorch's numbers."""
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
    """``planes=64`` -> ("planes", 64); a value that is no Python literal stays a string."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"expected name=value, got {text!r}")
    try:
        return key, ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return key, value


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    top = argparse.ArgumentParser(prog="flax-attn-convert", description="PyTorch checkpoints <-> Flax variables")
    top.add_argument("--version", action="version", version=version("flax_attn"))
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, function: Callable[..., int]) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=function.__doc__, description=function.__doc__)
        added.add_argument("--quiet", action="store_true", help="no progress and no summary")
        added.set_defaults(run=function)
        return added

    def with_model(added: argparse.ArgumentParser, required: bool) -> argparse.ArgumentParser:
        added.add_argument("file", type=Path, help="a .pth, .pt, .pkl, .tar or .safetensors file")
        default = "" if required else "; left out, the published network that the file fits, if it is one"
        added.add_argument("--model", required=required, help=f"a name that `models` lists{default}")
        added.add_argument(
            "--dialect",
            choices=[AUTO, NATIVE, *(dialect.name for dialect in DIALECTS)],
            default=AUTO,
            metavar="NAME",
            help="whose names the keys are: %(choices)s",
        )
        added.add_argument(
            "--arg", type=key_value, action="append", default=[], metavar="NAME=VALUE", help="an argument of the model"
        )
        return added

    command("inspect", inspect).add_argument("file", type=Path, help="a .pth, .pt, .pkl, .tar or .safetensors file")
    command("models", models).add_argument("--markdown", action="store_true", help="the tables in the README")
    converting = with_model(command("convert", convert), required=False)
    converting.add_argument("--out", type=Path, required=True, help="the file to write")
    verifying = with_model(command("verify", verify), required=True)
    verifying.add_argument("--seed", type=int, default=0, help="of the random input")
    command("demo", run_demo).add_argument("--out", type=Path, default=Path("flax_attn_demo.png"), help="the picture")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 when all is well, 1 when numbers are outside the tolerance, 2 when input cannot be used."""
    options = parser().parse_args(arguments)
    try:
        return options.run(options, Terminal(options.quiet))
    except (ValueError, OSError) as error:
        print(f"flax-attn-convert: {error}", file=sys.stderr)
        return REFUSED


if __name__ == "__main__":
    sys.exit(main())
