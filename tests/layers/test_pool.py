"""Pooling gives torch's values and gradients, and refuses what torch refuses."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
functional = torch.nn.functional

from flax_attn import layers
from flax_attn.layers import pool
from tests.helpers.layer import (
    array,
    channels_first,
    channels_last,
    check_function,
    check_layer,
    check_refusal,
    check_values,
    normal,
    trace,
)
from tests.helpers.tolerances import assert_close

SIZES = {1: (11,), 2: (7, 10), 3: (5, 7, 6)}


def theirs(name, spatial):
    return getattr(functional, f"{name}{spatial}d")


def outcome(call):
    try:
        return call()
    except (ValueError, RuntimeError) as error:
        return error


def sample(grid, n=60):
    """``n`` of all combinations of the values in ``grid``."""
    cases = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    return [cases[i] for i in np.random.default_rng(0).permutation(len(cases))[:n]]


def check_outcome(ours, expected, case):
    """The same values on both sides, or an error on both."""
    ours = outcome(ours)
    assert isinstance(ours, ValueError) == isinstance(expected, RuntimeError), (case, ours, expected)
    if not isinstance(ours, ValueError):
        assert_close(ours, channels_last(expected), what=str(case))


def test_max_pool_geometries():
    x = normal(2, 7, 10, 3)
    t = torch.tensor(channels_first(x))
    grid = dict(
        kernel_size=[1, 2, 3, (2, 3), 5],
        stride=[None, 1, 2, 3],
        padding=[0, 1, 2],
        dilation=[1, 2],
        ceil_mode=[False, True],
    )
    for case in sample(grid):
        expected = outcome(lambda case=case: functional.max_pool2d(t, **case))
        check_outcome(lambda case=case: jax.jit(lambda x: layers.max_pool(x, **case))(x), expected, case)


def test_avg_pool_geometries():
    x = normal(2, 7, 10, 3)
    t = torch.tensor(channels_first(x))
    grid = dict(
        kernel_size=[1, 2, 3, (2, 3), 5],
        stride=[1, 2, 3],
        padding=[0, 1, 2],
        ceil_mode=[False, True],
        count_include_pad=[False, True],
        divisor_override=[None, 5],
    )
    for case in sample(grid):
        expected = outcome(lambda case=case: functional.avg_pool2d(t, **case))
        check_outcome(lambda case=case: jax.jit(lambda x: layers.avg_pool(x, **case))(x), expected, case)


@pytest.mark.parametrize("spatial", SIZES)
@pytest.mark.parametrize("kwargs", [{}, {"stride": 1, "padding": 1}, {"stride": 2, "padding": 1, "ceil_mode": True}])
@pytest.mark.parametrize("name", ["max_pool", "avg_pool"])
def test_gradients(name, spatial, kwargs):
    arguments = {"kernel_size": 3, **kwargs}
    ours = lambda x: getattr(layers, name)(x, **arguments)  # noqa: E731
    check_function(ours, lambda t: theirs(name, spatial)(t, **arguments), normal(2, *SIZES[spatial], 3))


def test_gradient_of_a_dilated_max_pool():
    arguments = dict(kernel_size=(2, 3), stride=(1, 2), padding=(1, 0), dilation=(3, 2))
    x = normal(2, 7, 10, 3)
    check_function(lambda x: layers.max_pool(x, **arguments), lambda t: functional.max_pool2d(t, **arguments), x)


def test_the_maxima_of_a_tpu_are_those_of_a_cpu(monkeypatch):
    x = np.random.default_rng(0).integers(0, 3, (2, 7, 10, 3)).astype("float64")
    cases = [
        dict(kernel_size=3, stride=2, padding=1),
        dict(kernel_size=3, stride=2, ceil_mode=True),
        dict(kernel_size=(2, 3), stride=(3, 1), padding=(1, 0)),
    ]

    def compute():
        def loss(x, case):
            y = layers.max_pool(x, **case)
            return (y * jnp.arange(y.size).reshape(y.shape)).sum(), y

        return [jax.grad(loss, has_aux=True)(x, case) for case in cases]

    expected = compute()
    monkeypatch.setattr(pool.lax, "platform_dependent", lambda *arrays, tpu, default: tpu(*arrays))
    jax.tree.map(np.testing.assert_array_equal, compute(), expected)


@pytest.mark.parametrize("name", ["max_pool", "adaptive_max_pool"])
def test_the_first_of_equal_maxima_gets_the_gradient(name):
    x = np.random.default_rng(0).integers(0, 2, (2, 7, 10, 3)).astype("float64")
    arguments = (3, 2, 1) if name == "max_pool" else ((3, 4),)
    ours = lambda x: getattr(layers, name)(x, *arguments)  # noqa: E731
    check_function(ours, lambda t: theirs(name, 2)(t, *arguments), x)


@pytest.mark.parametrize("output_size", [1, 4, 8])
@pytest.mark.parametrize("spatial", SIZES)
@pytest.mark.parametrize("name", ["adaptive_avg_pool", "adaptive_max_pool"])
def test_adaptive_pools(name, spatial, output_size):
    x = normal(2, *SIZES[spatial], 2)
    check_values(lambda x: getattr(layers, name)(x, output_size), lambda t: theirs(name, spatial)(t, output_size), x)


@pytest.mark.parametrize("output_size", [(3, 4), (None, 5), (7, None), (9, 2)])
@pytest.mark.parametrize("name", ["adaptive_avg_pool", "adaptive_max_pool"])
def test_gradients_of_adaptive_pools(name, output_size):
    ours = lambda x: getattr(layers, name)(x, output_size)  # noqa: E731
    check_function(ours, lambda t: theirs(name, 2)(t, output_size), normal(2, 7, 10, 3))


@pytest.mark.parametrize("name", ["max_pool", "avg_pool", "adaptive_max_pool", "adaptive_avg_pool"])
def test_nan_and_infinity_stay_in_their_windows(name):
    x = normal(1, 7, 10, 1)
    x[0, 2, 3], x[0, 5, 5], x[0, 6, 9] = np.nan, np.inf, -np.inf
    for argument in (2, 3):
        expected = theirs(name, 2)(torch.tensor(channels_first(x)), argument)
        got = jax.jit(getattr(layers, name), static_argnums=1)(x, argument)
        np.testing.assert_allclose(got, channels_last(expected), rtol=1e-10)


@pytest.mark.parametrize("name", ["avg_pool", "adaptive_avg_pool"])
def test_bfloat16_is_summed_in_float32(name):
    x = jnp.ones((1, 64, 64, 1), jnp.bfloat16)
    got = jax.jit(lambda x: getattr(layers, name)(x, 64 if name == "avg_pool" else 1))(x)
    assert got.dtype == jnp.bfloat16
    assert float(got.squeeze()) == 1


def test_integers_have_a_maximum():
    x = np.arange(-30, 0).reshape(1, 5, 6, 1)
    expected = functional.max_pool2d(torch.tensor(channels_first(x)), 3, 2, 1)
    np.testing.assert_array_equal(layers.max_pool(jnp.asarray(x), 3, 2, 1), channels_last(expected))


@pytest.mark.parametrize("name", ["max_pool", "avg_pool", "adaptive_avg_pool", "adaptive_max_pool"])
def test_jit_vmap_and_float32(name):
    pool = lambda x: getattr(layers, name)(x, 3)  # noqa: E731
    xs = array(2, 2, 4, 5, 3)
    for x, y in zip(xs, jax.jit(jax.vmap(pool))(xs), strict=True):
        assert_close(y, jax.jit(pool)(x))
    assert_close(jax.jit(pool)(xs[0]), pool(xs[0]))
    check_function(pool, lambda t: theirs(name, 2)(t, 3), normal(2, 4, 5, 3, dtype="float32"))


MODULES = [
    ("MaxPool", (3, 2, 1), {}),
    ("MaxPool", (2,), {"ceil_mode": True}),
    ("MaxPool", (2, 1, 0, 2), {}),
    ("AvgPool", (3, 2, 1, True, False), {}),
    ("AvgPool", (2,), {}),
    ("AdaptiveAvgPool", (3,), {}),
    ("AdaptiveMaxPool", (3,), {}),
]


@pytest.mark.parametrize("spatial", SIZES)
@pytest.mark.parametrize(("name", "args", "kwargs"), MODULES)
def test_modules(name, args, kwargs, spatial):
    name = f"{name}{spatial}d"
    layer, twin = getattr(layers, name)(*args, **kwargs), getattr(torch.nn, name)(*args, **kwargs)
    check_values(lambda x: layer.apply({}, x), twin, normal(2, *SIZES[spatial], 3))
    wrong = (2, *SIZES[spatial], 4, 3) if spatial < 3 else (2, 3)
    check_refusal(lambda: trace(layer, *wrong), f"{name}: expected a channels-last input of rank {spatial + 2}")


def test_a_pool_inside_a_network():
    ours = layers.Sequential([layers.Conv2d(3, 4, 3), layers.relu, layers.MaxPool2d(3, 2, 1)])
    twin = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(3, 2, 1))
    check_layer(ours, twin, normal(2, 7, 10, 3))


X = jnp.zeros((2, 7, 10, 3))
T = torch.zeros(2, 3, 7, 10)
BAD = [
    ("max_pool", (3, 1, 2), "padding from 0 to half of kernel_size=3, got 2"),
    ("max_pool", (3, 1, -1), "padding from 0 to half"),
    ("max_pool", (0,), "kernel_size"),
    ("max_pool", (3, 1, 0, 0), "dilation"),
    ("max_pool", (3, (1, 0)), "stride"),
    ("max_pool", (8,), "a window of 8"),
    ("max_pool", (3, 1, 0, 4), "a window of 9"),
    ("max_pool", ((3, 3, 3),), "kernel_size: expected an int or 2 ints"),
    ("avg_pool", (3, 1, 2), "padding from 0 to half of kernel_size=3, got 2"),
    ("avg_pool", (8,), "a window of 8"),
    ("avg_pool", (2, 2, 0, False, True, 0), "divisor_override other than 0"),
    ("adaptive_avg_pool", ((3, 3, 3),), "one output_size or 2"),
    ("adaptive_avg_pool", (-1,), "output_size >= 1"),
    ("adaptive_max_pool", ((3, 3, 3),), "one output_size or 2"),
]


@pytest.mark.parametrize(("name", "args", "match"), BAD)
def test_bad_arguments(name, args, match):
    check_refusal(lambda: getattr(layers, name)(X, *args), match, lambda: theirs(name, 2)(T, *args))


@pytest.mark.parametrize("name", ["max_pool", "avg_pool", "adaptive_avg_pool", "adaptive_max_pool"])
def test_bad_rank(name):
    check_refusal(lambda: getattr(layers, name)(jnp.zeros((2, 3)), 2), "rank 3, 4 or 5, got shape")
    check_refusal(lambda: getattr(layers, name)(jnp.zeros((2, 3, 3, 3, 3, 3)), 2), "rank 3, 4 or 5, got shape")


def test_modules_refuse_at_construction():
    check_refusal(lambda: layers.MaxPool2d(2, return_indices=True), "MaxPool2d: expected return_indices=False")
    check_refusal(lambda: layers.AdaptiveMaxPool1d(2, True), "AdaptiveMaxPool1d: expected return_indices=False")
    check_refusal(lambda: layers.MaxPool2d((2, 2, 2)), "MaxPool2d kernel_size: expected an int or 2 ints")
    check_refusal(lambda: layers.AvgPool1d(3, padding=2), "AvgPool1d: expected padding from 0 to half")
    check_refusal(lambda: layers.AdaptiveAvgPool2d((2, 2, 2)), "AdaptiveAvgPool2d: expected one output_size or 2")
    check_refusal(lambda: layers.AdaptiveMaxPool3d(0), "AdaptiveMaxPool3d: expected output_size >= 1")
