"""Compares everything that a module of this package and its PyTorch twin compute from the numbers of a file."""

import dataclasses
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np

from convert.comparing.case import Step
from convert.comparing.comparison import DTYPES, rounding_allowed
from convert.comparing.diagnosis import without_gradient, without_numbers
from convert.comparing.movement import unmoved
from convert.comparing.pairing import precision
from convert.comparing.parity import Parity, moved_in_eval_mode
from convert.comparing.report import Report, Row, compared
from convert.state_dict import Plan
from flax_attn.catalog import Entry
from flax_attn.layers import Module

STEPS = 2
"""So many steps of gradient descent are compared in training mode."""

PHASES = ("eval", *(f"step {i + 1}" for i in range(STEPS)))

IN_FILE = "Look at the numbers of the file: weights that are all 0, or a scale gamma that is 0, hide all others."


def compare_whole(
    entry: Entry,
    module: Module,
    mapping: Plan,
    state_dict: Mapping[str, np.ndarray],
    arguments: Mapping[str, Any],
    seed: int = 0,
) -> Report:
    """Run ``module`` and its twin on the same random inputs, in float64 and in float32, in eval and training mode.

    Compared are all outputs, the gradients of every floating point input and of every parameter, and the running
    statistics: first in eval mode, then in two steps of gradient descent in training mode. Both sides share the masks
    of dropout. In float32, ten times PyTorch's own rounding error is allowed where that is more than the table in
    ``convert.comparing.tolerances``.

    Args:
        arguments: what ``module`` was built with; the twin is built with the same.

    Raises:
        ImportError: where torch is not installed.
    """
    entry = dataclasses.replace(entry, kwargs=arguments)
    rows: list[Row] = []
    reference: list[Step] = []
    notes: list[str] = []
    for dtype in DTYPES:
        with precision(dtype):
            parity = Parity(entry, mapping, dtype, seed=seed, state=state_dict, module=module)
            ours, theirs = both_modes(parity.flax_steps), both_modes(parity.torch_steps)
        allowed = rounding_allowed(theirs, reference) if reference else {}
        for phase, mine, expected in zip(PHASES, ours, theirs, strict=True):
            rows += [*compared(mine, expected, dtype, phase, allowed), *unpaired(mine, expected, dtype, phase)]
        if not reference:
            reference, notes = theirs, without_gradient(parity.case, theirs)
    twin = import_module("torch_ref.twins").build_twin(entry.cls, arguments)
    moves = moved_in_eval_mode(entry, module, mapping, twin, state_dict, seed)
    return Report(
        title=f"{type(module).__name__} and its twin",
        rows=rows,
        problems=without_numbers(reference[0]) + unmoved(moves, IN_FILE, IN_FILE),
        notes=notes,
        moves_with_input=moves[0],
        moves_with_parameters=moves[1],
    )


def both_modes(steps: Any) -> list[Step]:
    """The step in eval mode, then those in training mode."""
    return [*steps(train=False), *steps(train=True, count=STEPS)]


def unpaired(ours: Step, theirs: Step, dtype: str, phase: str) -> Sequence[Row]:
    """A row that is not ok for each result that only one of the sides has."""
    infinite = {"absolute": float("inf"), "relative": float("inf"), "allowed": 0.0}
    names = sorted(ours.keys() ^ theirs.keys())
    return [Row(dtype, f"{phase}: {name}, on one side only", "outputs", **infinite) for name in names]
