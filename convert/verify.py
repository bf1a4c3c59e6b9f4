"""Holds a converted checkpoint against its PyTorch twin, which is given the same file; torch_ref brings torch in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import jax
import numpy as np

from convert.state_dict import Plan
from flax_attn.catalog import Entry, channels_first, channels_last
from flax_attn.layers import Module

TOLERANCE = {"float32": 1e-4, "float64": 1e-10}


@dataclass(frozen=True)
class Difference:
    """How far the outputs of both sides are apart; ``relative`` is to the largest magnitude, or 1 if that is less."""

    dtype: str
    absolute: float
    relative: float

    @property
    def allowed(self) -> float:
        return TOLERANCE[self.dtype]

    @property
    def within(self) -> bool:
        return self.relative <= self.allowed


def compare(
    entry: Entry,
    module: Module,
    mapping: Plan,
    state_dict: Mapping[str, np.ndarray],
    arguments: Mapping[str, Any],
    seed: int = 0,
) -> list[Difference]:
    """Run ``module`` and its twin on the same random input, in float32 and in float64, both in eval mode.

    Args:
        arguments: what ``module`` was built with; the twin is built with the same.

    Raises:
        ImportError: where torch is not installed.
    """
    twins = import_module("torch_ref.twins")
    twin = twins.twin(entry.cls)(**arguments)
    differences = []
    for dtype in TOLERANCE:
        cast = {key: as_dtype(value, dtype) for key, value in state_dict.items()}
        inputs = entry.draw(module, np.random.default_rng(seed), dtype)
        with jax.enable_x64(True), jax.default_matmul_precision("highest"):
            ours = jax.tree.leaves(jax.jit(lambda v, xs: entry.apply(module, v, xs))(mapping.from_torch(cast), inputs))
        nchw = [channels_first(x, i.layout) for x, i in zip(inputs, entry.inputs, strict=True)]
        args, call = entry.arguments(nchw)
        theirs = jax.tree.leaves(twins.outputs(twin, cast, args, **call))
        theirs = [channels_last(t.numpy(), layout) for t, layout in zip(theirs, entry.outputs, strict=True)]
        differences.append(difference(dtype, ours, theirs))
    return differences


def difference(dtype: str, ours: Sequence[Any], theirs: Sequence[np.ndarray]) -> Difference:
    """The largest over all outputs."""
    absolute = [float(np.max(np.abs(np.asarray(a) - b), initial=0)) for a, b in zip(ours, theirs, strict=True)]
    scale = [max(1.0, float(np.max(np.abs(b), initial=0))) for b in theirs]
    return Difference(dtype, max(absolute), max(a / s for a, s in zip(absolute, scale, strict=True)))


def as_dtype(value: np.ndarray, dtype: str) -> np.ndarray:
    """Floating point arrays in ``dtype``; integers as they are."""
    return value if value.dtype.kind in "iub" else value.astype(dtype)
