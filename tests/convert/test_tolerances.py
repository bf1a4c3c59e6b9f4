"""``difference`` of two results: equal shapes, NaN where NaN is expected, and no scale that hides a difference."""

import jax.numpy as jnp
import numpy as np
import pytest

from convert.comparing.case import largest_gradient
from convert.comparing.report import compared
from convert.comparing.tolerances import absolute_difference, difference

NAN, INF = np.nan, np.inf


@pytest.mark.parametrize(
    ("got", "expected"),
    [((3, 1), (1, 4)), ((4,), (1, 4)), ((), (1,)), ((0,), ()), ((0, 3), (0, 4)), ((2, 3), (3, 2)), ((1,), (5,))],
)
def test_shapes_must_be_equal(got, expected):
    for kind in (float, int, bool, complex):
        with pytest.raises(ValueError, match=r"shape .*, expected"):
            difference(np.zeros(got, kind), np.zeros(expected, kind))


@pytest.mark.parametrize(
    ("got", "expected"),
    [
        ([NAN, 1.0], [0.0, 1.0]),
        ([0.0, 1.0], [NAN, 1.0]),
        ([NAN, NAN], [0.0, 1.0]),
        ([INF, 1.0], [-INF, 1.0]),
        ([INF, 1.0], [NAN, 1.0]),
        ([INF, 1.0], [3.0, 1.0]),
        ([3.0, 1.0], [INF, 1.0]),
        ([complex(0, NAN)], [complex(0, 0)]),
        ([complex(1, INF)], [complex(1, -INF)]),
        ([complex(NAN, 0)], [complex(0, NAN)]),
        ([NAN], [0]),
    ],
)
def test_what_is_not_finite_must_be_the_same(got, expected):
    assert difference(np.array(got), np.array(expected)) == INF
    assert difference(np.array(got), np.array(expected), scale=1e30) == INF
    assert difference(np.array(got), np.array(got)) == 0


@pytest.mark.parametrize(
    ("got", "expected", "off"),
    [
        (np.array([2 + 1j]), np.array([2 + 3j]), 2),
        (np.array([2.0]), np.array([2 + 3j]), 3),
        (np.array([True, False]), np.array([True, True]), 1),
        (np.array([2**53 + 1]), np.array([2**53]), 1),
        (np.array([-1]), np.array([2**64 - 1], np.uint64), 2.0**64),
        (np.array(3), np.array(5), 2),
        (np.array(5, np.uint8), np.array(7, np.uint8), 2),
        (np.zeros((0, 3)), np.zeros((0, 3)), 0),
        (np.zeros(0, int), np.zeros(0, int), 0),
        (np.array([1e308]), np.array([-1e308]), INF),
        (jnp.array([1.5], jnp.bfloat16), np.array([1.0]), 0.5),
        (jnp.array([1.5], jnp.float8_e4m3fn), np.array([1.0]), 0.5),
        (np.array([NAN, 2.0]), np.array([NAN, 1.0]), 1),
    ],
)
def test_numbers_of_every_kind(got, expected, off):
    assert absolute_difference(got, expected) == off
    assert absolute_difference(expected, expected) == 0


def test_integers_that_differ_by_less_than_float64_can_tell_are_not_equal():
    assert difference(np.array([2**60 + 1]), np.array([2**60])) > 0


@pytest.mark.parametrize("value", [np.array(["a"]), np.array([None]), np.array(["2020-01-01"], "M8[D]"), None])
def test_other_things_than_numbers_are_refused(value):
    with pytest.raises(ValueError, match="expected an array of numbers or bools, got"):
        difference(value, value)


@pytest.mark.parametrize("scale", [INF, NAN])
def test_a_scale_that_is_not_finite_hides_nothing(scale):
    assert difference(np.array([2.0]), np.array([1.0]), scale) == 1


def test_an_infinite_gradient_does_not_hide_a_difference_of_another_one():
    theirs = {"output 0": np.ones(2), "gradient of a": np.array([INF, 4.0]), "gradient of b": np.ones(2)}
    assert largest_gradient(theirs) == 4
    rows = compared({**theirs, "gradient of b": np.full(2, 5.0)}, theirs, "float64", "eval")
    assert [row.ok for row in rows] == [True, True, False]


def test_every_output_is_compared():
    theirs = {f"output {i}": np.ones(2) for i in range(3)}
    for i in range(3):
        for wrong in (np.full(2, NAN), np.ones((2, 1)), np.ones((1, 2))):
            rows = compared({**theirs, f"output {i}": wrong}, theirs, "float32", "eval")
            assert [not row.ok for row in rows] == [j == i for j in range(3)]
    assert compared({"output 0": np.array([1 + 1e-12j])}, {"output 0": np.array([1 + 0j])}, "float64", "eval")[0].ok
