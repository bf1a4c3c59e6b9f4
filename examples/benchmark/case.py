"""The numbers that both sides of a measurement are given."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from convert import Plan
from convert.comparing.case import random_state
from convert.recognition import entry_plan
from flax_attn.catalog import Entry


@dataclass(frozen=True)
class Numbers:
    """Random weights and inputs for an entry of the benchmark, in float32.

    Args:
        dtype: what both sides compute in, "float32" or "bfloat16". Parameters and inputs are float32 in both cases.
        state: parameters and statistics by their PyTorch key.
        inputs: the inputs in Flax's layout.
    """

    entry: Entry
    dtype: str
    plan: Plan
    state: dict[str, np.ndarray]
    inputs: Sequence[np.ndarray]

    @property
    def sizes(self) -> list[str]:
        """The shape of each input: "8x56x56x256"."""
        return ["x".join(map(str, x.shape)) for x in self.inputs]


def with_word(entries: Sequence[Any], word: str) -> list[Any]:
    """The entries whose ``name`` contains ``word``. SystemExit if there is none."""
    chosen = [entry for entry in entries if word in entry.name]
    if not chosen:
        known = ", ".join(sorted({entry.name for entry in entries}))
        raise SystemExit(f"WORD: expected a part of the name of an entry, got {word!r}; known are: {known}")
    return chosen


def draw(entry: Entry, dtype: str) -> Numbers:
    """Random numbers for ``entry``."""
    module, rng = entry.module(), np.random.default_rng(0)
    plan = entry_plan(entry, module)
    state = random_state(plan, rng, "float32")
    return Numbers(entry, dtype, plan=plan, state=state, inputs=entry.draw(module, rng, np.float32))


def apart(ours: Sequence[Any], theirs: Sequence[Any]) -> float:
    """The largest difference of an output in norm, over the norm of the output; infinite where a number is not finite.

    Raises:
        ValueError: if the outputs are not of the same shapes.
    """
    if [np.shape(x) for x in ours] != [np.shape(x) for x in theirs]:
        raise ValueError(f"Flax gives {[np.shape(x) for x in ours]}, PyTorch {[np.shape(x) for x in theirs]}")
    smallest, worst = np.finfo(np.float64).tiny, 0.0
    for a, b in zip(ours, theirs, strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        value = float(np.linalg.norm(a - b) / max(float(np.linalg.norm(b)), smallest))
        worst = max(worst, value if np.isfinite(value) else np.inf)
    return worst
