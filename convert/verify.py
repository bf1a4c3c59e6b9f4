"""Compares a converted checkpoint with its PyTorch twin, which is given the same numbers. Needs torch when it runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from convert.parity import in_eval_mode
from convert.state_dict import Plan
from convert.tolerances import TOLERANCE, absolute_difference, difference
from flax_attn.catalog import Entry
from flax_attn.layers import Module


@dataclass(frozen=True)
class Verdict:
    """How far the outputs of both sides are apart at most; ``relative`` is what ``convert.tolerances`` bounds."""

    dtype: str
    absolute: float
    relative: float

    @property
    def allowed(self) -> float:
        return TOLERANCE[self.dtype]

    @property
    def within(self) -> bool:
        return self.relative <= self.allowed


def compare_with_twin(
    entry: Entry,
    module: Module,
    mapping: Plan,
    state_dict: Mapping[str, np.ndarray],
    arguments: Mapping[str, Any],
    seed: int = 0,
) -> list[Verdict]:
    """Run ``module`` and its twin on the same random input, in float32 and in float64, both in eval mode.

    Args:
        arguments: what ``module`` was built with; the twin is built with the same.

    Raises:
        ImportError: where torch is not installed.
    """
    twin = import_module("torch_ref.twins").build_twin(entry.cls, arguments)
    verdicts = []
    for dtype in ("float32", "float64"):
        rng = np.random.default_rng(seed)
        pairs = in_eval_mode(entry, module, mapping, twin, state_dict, rng, dtype)
        absolute, relative = (max(f(*pair) for pair in pairs) for f in (absolute_difference, difference))
        verdicts.append(Verdict(dtype, absolute, relative))
    return verdicts
