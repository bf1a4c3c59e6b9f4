"""The activation functions and layers where the table of ``test_against_torch.py`` does not reach."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
functional = torch.nn.functional

from flax_attn import layers
from tests.helpers.layer import array, check_function, check_layer, check_refusal, normal, trace
from tests.helpers.layer_cases import ACTIVATIONS, TWO
from tests.helpers.tolerances import assert_close

FUNCTIONS = {
    "celu": (0.5,),
    "elu": (0.7,),
    "gelu": (),
    "hardsigmoid": (),
    "hardswish": (),
    "hardtanh": (-3.0, 0.5),
    "leaky_relu": (0.2,),
    "log_sigmoid": (),
    "mish": (),
    "relu": (),
    "relu6": (),
    "selu": (),
    "sigmoid": (),
    "silu": (),
    "softplus": (2.0, 5.0),
    "softsign": (),
    "tanh": (),
}
"""Activation functions of one array, with arguments after it."""


def theirs(name):
    return getattr(functional, name.replace("log_sigmoid", "logsigmoid"))


def half_precision(x):
    return jnp.asarray(x, jnp.bfloat16)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name):
    """Values anywhere, also where exp overflows; NaN stays; half precision is that of float32, rounded."""
    args, ours = FUNCTIONS[name], getattr(layers, name)
    x = np.array([-np.inf, -1000, -30, -3, -1, -1e-3, -0.0, 0, 1e-3, 1, 3, 6, 30, 1000, np.inf])
    expected = theirs(name)(torch.tensor(x), *args).numpy()
    known = np.isfinite(expected)
    got = np.asarray(ours(jnp.asarray(x), *args))
    np.testing.assert_allclose(got[known], expected[known], rtol=1e-10, atol=1e-12)
    np.testing.assert_array_equal(got[~known][1:], expected[~known][1:])
    assert np.isnan(ours(jnp.array([np.nan]), *args)).all()
    x = half_precision(4 * normal(100))
    assert ours(x, *args).dtype == jnp.bfloat16
    wide = np.asarray(ours(x.astype(jnp.float32), *args))
    np.testing.assert_allclose(np.asarray(ours(x, *args), np.float32), wide, rtol=2**-8)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_are_finite_where_exp_overflows(name):
    x = np.array([-1000.0, -100.0, 100.0, 1000.0])
    t = torch.tensor(x, requires_grad=True)
    theirs(name)(t, *FUNCTIONS[name]).sum().backward()
    assert_close(jax.grad(lambda x: getattr(layers, name)(x, *FUNCTIONS[name]).sum())(jnp.asarray(x)), t.grad)


def test_hardsigmoid_in_float64():
    x = normal(3, 5, 4) * 3
    x[0, 0] = [-3, 3, 0, 5]
    check_function(layers.hardsigmoid, lambda t: functional.relu6(t + 3) / 6, x)


@pytest.mark.parametrize("size", [1, 4])
def test_prelu(size):
    x, weight = normal(2, 5, 4), normal(size, seed=1)
    x[0, 0, :2] = [0, -0.0]
    check_function(layers.prelu, functional.prelu, x, weight)


def test_prelu_starts_at_its_argument():
    for layer, value in ((layers.PReLU(), 0.25), (layers.PReLU(4, 0.1), 0.1)):
        weight = layer.init(jax.random.key(0), jnp.ones((2, 3, 4)))["params"]["weight"]
        np.testing.assert_array_equal(weight, np.full(layer.num_parameters, value, np.float32))


@pytest.mark.parametrize("name", ["Softmax", "LogSoftmax"])
def test_softmax_layers(name):
    """The default is the axis of the channels; ``dim`` counts the axes of the channels-last array."""
    x = normal(2, 5, 7, 4)
    for kwargs, dim in (({}, 1), ({"dim": 1}, 2), ({"dim": -2}, 3)):
        check_layer(getattr(layers, name)(**kwargs), getattr(torch.nn, name)(dim), x)


def test_gelu_by_tanh():
    x = 3 * array(2, 5, 4)
    ours = lambda x: layers.gelu(x, "tanh")  # noqa: E731
    check_function(ours, lambda t: functional.gelu(t, approximate="tanh"), x)
    assert np.abs(np.asarray(ours(x)) - np.asarray(layers.gelu(x))).max() > 1e-5


@pytest.mark.parametrize("name", [name for name in ACTIVATIONS if name != "PReLU"])
def test_layers_compute_in_their_dtype(name):
    layer = getattr(layers, name)(dtype=jnp.bfloat16)
    y = jax.eval_shape(lambda x: layer.apply({}, x), jax.ShapeDtypeStruct(TWO, jnp.float32))
    assert y.dtype == jnp.bfloat16


def test_an_activation_inside_a_network():
    ours = layers.Sequential([layers.Conv2d(3, 4, 3), layers.PReLU(4), layers.Flatten(), layers.Linear(60, 2)])
    nn = torch.nn
    twin = nn.Sequential(nn.Conv2d(3, 4, 3), nn.PReLU(4), nn.Flatten(), nn.Linear(60, 2))
    check_layer(ours, twin, normal(2, 5, 7, 3))


def test_bad_arguments():
    nn = torch.nn
    check_refusal(lambda: layers.PReLU(0), "PReLU: expected num_parameters >= 1, got 0")
    check_refusal(
        lambda: trace(layers.PReLU(3), 2, 5, 7, 4), "expected 3 channels", lambda: nn.PReLU(3)(torch.zeros(2, 4, 5))
    )
    check_refusal(lambda: layers.prelu(jnp.ones((2, 4)), jnp.ones(3)), r"shape \(1,\) or \(4,\), got shape \(3,\)")
    check_refusal(lambda: layers.Hardtanh(1.0, 1.0), "Hardtanh: expected min_val < max_val", lambda: nn.Hardtanh(1, 1))
    check_refusal(lambda: layers.CELU(0.0), "CELU: expected alpha other than 0", lambda: nn.CELU(0.0)(torch.zeros(2)))
    check_refusal(lambda: layers.celu(jnp.ones(2), 0.0), "celu: expected alpha other than 0")
    check_refusal(lambda: layers.Softplus(0.0), "Softplus: expected beta other than 0")
    for call in (lambda: layers.GELU("erf"), lambda: layers.gelu(jnp.ones(2), "erf")):
        check_refusal(call, "expected approximate 'none' or 'tanh', got 'erf'", lambda: nn.GELU("erf")(torch.zeros(2)))
