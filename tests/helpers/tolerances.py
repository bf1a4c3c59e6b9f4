"""Asserts that two results are equal within ``convert.comparing.tolerances``, the one table."""

from convert.comparing.tolerances import TOLERANCE, difference


def assert_close(got, expected, dtype="float64", what="result", scale=0.0):
    """Fail with the difference when it is above ``TOLERANCE[dtype]``; see ``difference`` for ``scale``."""
    off = difference(got, expected, scale)
    assert off <= TOLERANCE[dtype], f"{what}: off by {off:.3g}, allowed {TOLERANCE[dtype]:.0e}"
