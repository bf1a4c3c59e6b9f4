"""The command ``verify``: runs a checkpoint in Flax and in PyTorch, and prints how far the results are apart."""

import argparse
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import numpy as np
from rich.table import Table

from convert.commands.certifying import add_certificate, certificate_of, repeated, require_target, written
from convert.commands.options import add_file, add_inputs, add_model, seed
from convert.commands.subject import compare_own, subject_of
from convert.commands.terminal import FEW, OUTSIDE, REFUSED, Terminal
from convert.comparing.diagnosis import without_numbers
from convert.comparing.movement import unmoved
from convert.comparing.parity import in_eval_mode, moved_in_eval_mode
from convert.comparing.provenance import bytes_of
from convert.comparing.report import KINDS, Report, Row, compared
from convert.comparing.whole import IN_FILE, compare_whole
from convert.state_dict import Plan
from flax_attn.catalog import Entry
from flax_attn.layers import Module

EXIT_STATUS = (
    "The file may be one that `convert` wrote. Exit status: 0 if the results agree; 1 if a difference is outside the "
    "tolerance, or worse than in the certificate of --check; 2 if the input cannot be used, or if the comparison "
    "proves nothing, because the output does not depend on its input, or not on the parameters."
)
UNPROVEN = "PROVES NOTHING"


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the options of ``verify``."""
    command.epilog = EXIT_STATUS
    add_file(command, required=False)
    add_model(command, required=False)
    command.add_argument("--seed", type=seed, default=0, help="the seed of the random input (default: 0)")
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
    add_certificate(command)


def run(options: argparse.Namespace, terminal: Terminal) -> int:
    """Run a checkpoint in Flax and in PyTorch on the same random input, and compare the results."""
    if options.check:
        return check(options, terminal)
    require_options(options)
    if options.certificate is None:
        with terminal.progress(f"running {options.file} on both sides"):
            report, _ = verified(options)
        return show(report, terminal)
    require_target(options)
    content = bytes_of(options.file)
    with terminal.progress(f"running and training {options.file} on both sides"):
        found = verified(options)
    status = show(found[0], terminal)
    if status:
        terminal.out.print(f"{options.certificate}: no certificate was written", soft_wrap=True)
        return status
    terminal.say(written(certificate_of(options, options.certificate, content, found), options.certificate))
    return 0


def check(options: argparse.Namespace, terminal: Terminal) -> int:
    """Run the comparison of a certificate again, and say in what it is worse now."""
    again, old = repeated(options)
    content = bytes_of(again.file)
    with terminal.progress(f"running and training {again.file} on both sides"):
        found = verified(again)
    status = show(found[0], terminal)
    new = certificate_of(again, options.check, content, found)
    for line in new.differences(old):
        terminal.say(f"note: {line}")
    wrong = new.worse_than(old)
    for line in wrong[:FEW]:
        terminal.out.print(line, soft_wrap=True)
    if len(wrong) > FEW:
        terminal.out.print(f"... and {len(wrong) - FEW} more", soft_wrap=True)
    if not wrong and not status:
        terminal.say(f"{options.check}: none of {len(new.results)} results is worse than in the certificate")
    return OUTSIDE if wrong else status


def show(report: Report, terminal: Terminal) -> int:
    """Print a report. The result is the exit status."""
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


def verified(options: argparse.Namespace) -> tuple[Report, dict[str, Any]]:
    """The comparison that the options ask for, and what was compared: plain values for JSON."""
    require_options(options)
    if options.torch:
        return compare_own(options)
    subject = subject_of(options)
    compared = compare_whole if options.certificate or options.check else compare_with_twin
    report = compared(
        subject.entry,
        subject.module,
        subject.plan,
        state_dict=subject.state,
        arguments=subject.arguments,
        seed=options.seed,
    )
    return report, subject.facts


def require_options(options: argparse.Namespace) -> None:
    """Refuse options that do not go together, and a Python without PyTorch."""
    try:
        import_module("torch_ref.twins")
    except ImportError as error:
        raise ValueError(f'verify needs PyTorch: pip install "flax_attn[torch]" ({error})') from error
    if options.file is None:
        raise ValueError("verify needs a FILE: the checkpoint")
    if options.torch and not options.model:
        raise ValueError("verify needs --model with --torch: your Flax class, as package.module:Class")
    if ":" in (options.model or "") and not options.torch:
        raise ValueError(f"verify needs --torch with {options.model}: its PyTorch class, as package.module:Class")
    if (options.input or options.layouts) and not options.torch:
        raise ValueError("--input and --layouts need --torch: the models of this package have example inputs")


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
