"""How far two results may be apart, by the dtype they were computed in. The one table: tests and commands use it."""

from typing import Any

import numpy as np

TOLERANCE = {"float64": 1e-10, "float32": 1e-4, "bfloat16": 2e-2}
"""The largest ``difference`` that counts as equal."""


def absolute_difference(got: Any, expected: Any) -> float:
    """The largest |got - expected|; infinite where the two do not have the same NaNs and infinities.

    It is 0 where there are no numbers.
    """
    got, expected = as_float64(got), as_float64(expected)
    if got.shape != expected.shape:
        raise ValueError(f"shape {got.shape}, expected {expected.shape}")
    finite = np.isfinite(expected)
    if not np.array_equal(got[~finite], expected[~finite], equal_nan=True) or not np.isfinite(got[finite]).all():
        return float("inf")
    return float(np.max(np.abs(got[finite] - expected[finite]), initial=0.0))


def difference(got: Any, expected: Any, scale: float = 0.0) -> float:
    """``absolute_difference`` over max(1, ``scale``, the largest expected magnitude).

    ``scale`` is for a gradient that is zero but for rounding, such as that of a bias in front of a BatchNorm. Its
    rounding error is that of the larger gradients that it is the sum of.
    """
    absolute, expected = absolute_difference(got, expected), as_float64(expected)
    return absolute / max(1.0, scale, float(np.max(np.abs(expected), initial=0.0, where=np.isfinite(expected))))


def as_float64(x: Any) -> np.ndarray:
    """``x`` as a float64 array; bfloat16 has no arithmetic of its own in numpy."""
    return np.asarray(x).astype(np.float64)
