"""The command ``verify``: runs a checkpoint in Flax and in PyTorch, and prints how far the results are apart."""

import argparse
import dataclasses
from collections.abc import Mapping
from importlib import import_module
from typing import Any, cast

import numpy as np
from rich.table import Table

from convert.checkpoint import FORMAT, Checkpoint, scan
from convert.commands.chosen import (
    arguments_of,
    chosen_model,
    entry_of,
    own_modules,
    part,
    random_inputs,
    recognised,
)
from convert.commands.options import add_file, add_inputs, add_model
from convert.commands.terminal import OUTSIDE, REFUSED, Terminal
from convert.comparing.comparison import compare
from convert.comparing.diagnosis import without_numbers
from convert.comparing.movement import unmoved
from convert.comparing.parity import in_eval_mode, moved_in_eval_mode
from convert.comparing.report import KINDS, Report, Row, compared
from convert.dialects import choose
from convert.precision import KEEP
from convert.state_dict import Plan
from convert.tensors import as_numpy
from convert.variables_file import module_of, restore
from flax_attn.catalog import Entry
from flax_attn.layers import Module

EXIT_STATUS = (
    "The file may be one that `convert` wrote. Exit status: 0 if the results agree; 1 if a difference is outside the "
    "tolerance; 2 if the input cannot be used, or if the comparison proves nothing, because the output does not depend "
    "on its input, or not on the parameters."
)
UNPROVEN = "PROVES NOTHING"
IN_FILE = "Look at the numbers of the file: weights that are all 0, or a scale gamma that is 0, hide all others."


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the options of ``verify``."""
    command.epilog = EXIT_STATUS
    add_file(command)
    add_model(command, required=False)
    command.add_argument("--seed", type=int, default=0, help="the seed of the random input (default: 0)")
    command.add_argument(
        "--torch",
        metavar="CLASS",
        help="your PyTorch class, as package.module:Class, importable from the current directory; --model is your Flax "
        "class then, and --arg goes to both",
    )
    add_inputs(command, "with --torch")
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
    terminal.out.print(table_of(report))
    for line in str(report).splitlines() if report.wrong else report.movement():
        terminal.say(line)
    if report.wrong:
        return OUTSIDE
    for problem in report.problems:
        terminal.out.print(problem, soft_wrap=True)
    return REFUSED if report.problems else 0


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
    problems: list[str] = []
    for dtype in ("float32", "float64"):
        rng = np.random.default_rng(seed)
        pairs = in_eval_mode(entry, module, mapping, twin, state_dict, rng, dtype)
        ours, theirs = ({f"output {i}": pair[side] for i, pair in enumerate(pairs)} for side in (0, 1))
        rows += compared(ours, theirs, dtype, "eval")
        problems = without_numbers(theirs)
    moves = moved_in_eval_mode(entry, module, mapping, twin, state_dict, seed)
    return Report(
        title=f"{type(module).__name__} and its twin",
        rows=rows,
        problems=problems + unmoved(moves, IN_FILE, IN_FILE),
        moves_with_input=moves[0],
        moves_with_parameters=moves[1],
    )


def compare_own(options: argparse.Namespace) -> Report:
    """Run the classes of ``--model`` and ``--torch`` with the numbers of the file, and compare all results."""
    if not options.input:
        raise ValueError("verify needs --input with --torch: the shape of each input, such as --input 2,33,29,3")
    module, torch_module = own_modules(options.model, options.torch, dict(options.arg))
    checkpoint = scan(options.file, options.wrapper, options.prefix, options.strict_pickle)
    inputs = random_inputs(options.input, options.seed)
    numbers: dict[str, Any] = {"state_dict": {key: as_numpy(array) for key, array in checkpoint.arrays.items()}}
    if checkpoint.metadata.get("format") == FORMAT:
        numbers = {"variables": restore(options.file)}
    try:
        return compare(module, torch_module, *inputs, **numbers, seed=options.seed, layouts=options.layouts or None)
    except TypeError as error:
        raise ValueError(f"{options.model} cannot be called with these inputs: {error}") from error


def report_of(options: argparse.Namespace) -> Report:
    """The comparison that the options ask for."""
    try:
        import_module("torch_ref.twins")
    except ImportError as error:
        raise ValueError(f'verify needs PyTorch: pip install "flax_attn[torch]" ({error})') from error
    if options.torch and not options.model:
        raise ValueError("verify needs --model with --torch: your Flax class, as package.module:Class")
    if options.torch:
        return compare_own(options)
    if ":" in (options.model or ""):
        raise ValueError(f"verify needs --torch with {options.model}: its PyTorch class, as package.module:Class")
    if options.input or options.layouts:
        raise ValueError("--input and --layouts need --torch: the models of this package have example inputs")
    checkpoint = scan(options.file, options.wrapper, options.prefix, options.strict_pickle)
    if checkpoint.metadata.get("format") == FORMAT:
        return compare_converted(options, checkpoint)
    given: Mapping[str, Any]
    if options.model is None:
        candidate = recognised(options, checkpoint)
        checkpoint = part(checkpoint, candidate)
        entry, module, mapping, given = candidate.entry, candidate.module, candidate.plan, candidate.arguments
    else:
        entry, module, mapping, given = named(options)
    arrays = {key: as_numpy(array) for key, array in checkpoint.arrays.items()}
    if choose(options.dialect, arrays):
        arrays = mapping.to_torch(mapping.from_torch(arrays, options.dialect, dtype=KEEP))
    return compare_with_twin(entry, module, mapping, state_dict=arrays, arguments=given, seed=options.seed)


def named(options: argparse.Namespace) -> tuple[Entry, Module, Plan, Mapping[str, Any]]:
    """Entry, module, plan and arguments of the model that the options name."""
    entry, module, mapping = chosen_model(options)
    return entry, module, mapping, {name: getattr(module, name, value) for name, value in options.arg}


def compare_converted(options: argparse.Namespace, checkpoint: Checkpoint) -> Report:
    """Run a file that ``convert`` or ``save`` wrote: its module is in its metadata, unless the options name one."""
    if options.model is not None:
        entry, module, mapping, given = named(options)
    elif "module" not in checkpoint.metadata:
        raise ValueError(f"{options.file}: its metadata name no module; say what it is with --model")
    else:
        module = cast(Module, module_of(options.file).copy(dtype=None, param_dtype=None))
        given = arguments_of(module)
        entry, mapping = entry_of(module)
        entry = dataclasses.replace(entry, cls=type(module))
    state = mapping.to_torch(restore(options.file))
    return compare_with_twin(entry, module, mapping, state_dict=state, arguments=given, seed=options.seed)


def table_of(report: Report) -> Table:
    """The worst row of each kind of result, in each dtype. Nothing is "ok" in a comparison that proves nothing."""
    table = Table("dtype", "max abs difference", "relative", "allowed", "", "results", box=None)
    for dtype in sorted({row.dtype for row in report.rows}):
        for kind in KINDS:
            found = [row for row in report.rows if (row.dtype, row.kind) == (dtype, kind)]
            if not found:
                continue
            worst = max(found, key=lambda row: row.badness)
            absolute = max(row.absolute for row in found)
            verdict = "OUTSIDE" if not worst.ok else UNPROVEN if report.problems else "ok"
            numbers = (f"{absolute:.2e}", f"{worst.relative:.2e}", f"{worst.allowed:.0e}")
            table.add_row(dtype, *numbers, verdict, kind)
    return table
