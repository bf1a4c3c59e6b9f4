"""How far two results may be apart, relative to max(1, the largest magnitude), by the dtype they were computed in."""

import numpy as np

TOLERANCE = {"float64": 1e-10, "float32": 1e-4, "bfloat16": 2e-2}


def difference(got, expected, scale=0.0):
    """The largest absolute difference over max(1, ``scale``, the largest expected magnitude); NaN must meet NaN.

    ``scale`` is for a gradient that is zero but for rounding, such as that of a bias in front of a BatchNorm: its
    rounding is that of the larger gradients it is the sum of.
    """
    got, expected = (np.asarray(a).astype(np.float64) for a in (got, expected))
    assert got.shape == expected.shape, f"shape {got.shape}, expected {expected.shape}"
    assert np.array_equal(np.isnan(got), np.isnan(expected)), "NaN on one side only"
    if np.isnan(expected).all():
        return 0.0
    return float(np.nanmax(np.abs(got - expected)) / max(1.0, scale, np.nanmax(np.abs(expected))))


def assert_close(got, expected, dtype="float64", what="result", scale=0.0):
    """Fail with the difference when it is above ``TOLERANCE[dtype]``."""
    off = difference(got, expected, scale)
    assert off <= TOLERANCE[dtype], f"{what}: off by {off:.3g}, allowed {TOLERANCE[dtype]:.0e}"
