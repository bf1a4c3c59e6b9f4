"""How far two results may be apart, by the dtype they were computed in. The one table: tests and commands use it."""

from typing import Any

import jax.numpy as jnp
import numpy as np

TOLERANCE = {"float64": 1e-10, "float32": 1e-4, "bfloat16": 2e-2}
"""The largest ``difference`` that counts as equal."""


def absolute_difference(got: Any, expected: Any) -> float:
    """The largest |got - expected|; infinite where the two do not have the same NaNs and infinities.

    The difference of complex numbers is the larger one of their real and imaginary parts. It is 0 where there are no
    numbers.

    Raises:
        ValueError: if the shapes differ, even where one would broadcast to the other; or for arrays of other things
            than numbers and bools.
    """
    got, expected = numeric(got), numeric(expected)
    if got.shape != expected.shape:
        raise ValueError(f"shape {got.shape}, expected {expected.shape}")
    if integers(got) and integers(expected):
        exact = got != expected
        return float(np.max(np.abs(as_float64(got) - as_float64(expected)), initial=1.0, where=exact) * exact.any())
    is_complex = "c" in (got.dtype.kind, expected.dtype.kind)
    got, expected = parts(got, is_complex), parts(expected, is_complex)
    finite = np.isfinite(expected)
    if not np.array_equal(got[~finite], expected[~finite], equal_nan=True) or not np.isfinite(got[finite]).all():
        return float("inf")
    with np.errstate(over="ignore"):
        return float(np.max(np.abs(got[finite] - expected[finite]), initial=0.0))


def difference(got: Any, expected: Any, scale: float = 0.0) -> float:
    """``absolute_difference`` over max(1, ``scale``, the largest expected magnitude).

    ``scale`` is for a gradient that is zero but for rounding, such as that of a bias in front of a BatchNorm. Its
    rounding error is that of the larger gradients that it is the sum of. A scale that is not finite counts as 0.
    """
    absolute = absolute_difference(got, expected)
    return absolute / max(1.0, scale if np.isfinite(scale) else 0.0, largest(numeric(expected)))


def largest(x: np.ndarray) -> float:
    """The largest finite magnitude in ``x``; 0 where there is none."""
    x = parts(x, x.dtype.kind == "c")
    return float(np.max(np.abs(x), initial=0.0, where=np.isfinite(x)))


def numeric(x: Any) -> np.ndarray:
    """``x`` as an array of numbers or bools. ValueError for other things."""
    x = np.asarray(x)
    if not (x.dtype.kind in "biufc" or jnp.issubdtype(x.dtype, jnp.number)):
        raise ValueError(f"expected an array of numbers or bools, got {x.dtype}")
    return x


def integers(x: np.ndarray) -> bool:
    """Whether ``x`` holds integers or bools of numpy."""
    return x.dtype.kind in "biu"


def parts(x: np.ndarray, is_complex: bool) -> np.ndarray:
    """``x`` in float64; of complex numbers the real parts, then the imaginary parts."""
    return np.stack([as_float64(x.real), as_float64(x.imag)]) if is_complex else as_float64(x)


def as_float64(x: Any) -> np.ndarray:
    """``x`` as a float64 array; bfloat16 has no arithmetic of its own in numpy."""
    return np.asarray(x).astype(np.float64)
