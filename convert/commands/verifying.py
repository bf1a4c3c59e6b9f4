"""The command ``verify``: runs a checkpoint in Flax and in PyTorch, and prints how far the results are apart."""

import argparse
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np
from rich.table import Table

from convert.checkpoint import read
from convert.commands.chosen import chosen_model, input_shape, own_modules, random_inputs
from convert.commands.options import add_file, add_model
from convert.commands.terminal import OUTSIDE, Terminal
from convert.comparing.comparison import compare
from convert.comparing.parity import in_eval_mode
from convert.comparing.report import KINDS, Report, Row, compared
from convert.dialects import choose
from convert.precision import KEEP
from convert.state_dict import Plan
from flax_attn.catalog import Entry
from flax_attn.layers import Module


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the options of ``verify``."""
    add_file(command)
    add_model(command, required=True)
    command.add_argument("--seed", type=int, default=0, help="the seed of the random input (default: 0)")
    command.add_argument(
        "--torch",
        metavar="CLASS",
        help="your PyTorch class, as package.module:Class, importable from the current directory; --model is your Flax "
        "class then, and --arg goes to both",
    )
    command.add_argument(
        "--input",
        type=input_shape,
        action="append",
        default=[],
        metavar="SHAPE",
        help="with --torch: the shape of an input, channels last, such as 2,33,29,3; 2,7:10 stands for integers below "
        "10; may be given several times",
    )
    command.add_argument(
        "--layouts",
        type=lambda text: text.split(","),
        metavar="NAMES",
        help="with --torch: image or plain for each input, such as image,plain; see convert.compare",
    )


def run(options: argparse.Namespace, terminal: Terminal) -> int:
    """Run a checkpoint in Flax and in PyTorch on the same random input, and compare the results."""
    with terminal.progress(f"running {options.file} on both sides"):
        report = report_of(options)
    terminal.out.print(table_of(report.rows))
    if not report.ok:
        terminal.say(str(report))
    return 0 if report.ok else OUTSIDE


def compare_with_twin(
    entry: Entry,
    module: Module,
    mapping: Plan,
    state_dict: Mapping[str, np.ndarray],
    arguments: Mapping[str, Any],
    seed: int = 0,
) -> Report:
    """Run ``module`` and its twin on the same random input, in float32 and in float64, both in eval mode.

    Args:
        arguments: what ``module`` was built with; the twin is built with the same.

    Raises:
        ImportError: where torch is not installed.
    """
    twin = import_module("torch_ref.twins").build_twin(entry.cls, arguments)
    rows: list[Row] = []
    for dtype in ("float32", "float64"):
        rng = np.random.default_rng(seed)
        pairs = in_eval_mode(entry, module, mapping, twin, state_dict, rng, dtype)
        ours, theirs = ({f"output {i}": pair[side] for i, pair in enumerate(pairs)} for side in (0, 1))
        rows += compared(ours, theirs, dtype, "eval")
    return Report(f"{type(module).__name__} and its twin", rows)


def compare_own(options: argparse.Namespace) -> Report:
    """Run the classes of ``--model`` and ``--torch`` with the numbers of the file, and compare all results."""
    if not options.input:
        raise ValueError("verify needs --input with --torch: the shape of each input, such as --input 2,33,29,3")
    module, torch_module = own_modules(options.model, options.torch, dict(options.arg))
    arrays = read(options.file).arrays
    inputs = random_inputs(options.input, options.seed)
    try:
        return compare(
            module, torch_module, *inputs, state_dict=arrays, seed=options.seed, layouts=options.layouts or None
        )
    except TypeError as error:
        raise ValueError(f"{options.model} cannot be called with these inputs: {error}") from error


def report_of(options: argparse.Namespace) -> Report:
    """The comparison that the options ask for."""
    try:
        import_module("torch_ref.twins")
    except ImportError as error:
        raise ValueError(f'verify needs PyTorch: pip install "flax_attn[torch]" ({error})') from error
    if options.torch:
        return compare_own(options)
    if ":" in options.model:
        raise ValueError(f"verify needs --torch with {options.model}: its PyTorch class, as package.module:Class")
    if options.input or options.layouts:
        raise ValueError("--input and --layouts need --torch: the models of this package have example inputs")
    entry, module, mapping = chosen_model(options)
    arrays = read(options.file).arrays
    if choose(options.dialect, arrays):
        arrays = mapping.to_torch(mapping.from_torch(arrays, options.dialect, dtype=KEEP))
    given = {name: getattr(module, name, value) for name, value in options.arg}
    return compare_with_twin(entry, module, mapping, arrays, given, options.seed)


def table_of(rows: Sequence[Row]) -> Table:
    """The worst row of each kind of result, in each dtype."""
    table = Table("dtype", "max abs difference", "relative", "allowed", "", "results", box=None)
    for dtype in sorted({row.dtype for row in rows}):
        for kind in KINDS:
            found = [row for row in rows if (row.dtype, row.kind) == (dtype, kind)]
            if not found:
                continue
            worst = max(found, key=lambda row: row.badness)
            absolute = max(row.absolute for row in found)
            verdict = "ok" if worst.ok else "OUTSIDE"
            numbers = (f"{absolute:.2e}", f"{worst.relative:.2e}", f"{worst.allowed:.0e}")
            table.add_row(dtype, *numbers, verdict, kind)
    return table
