"""LSTM, GRU and the cells have torch's outputs, states, leaves and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from convert import plan
from flax_attn import layers
from tests.helpers.layer import check_refusal, normal, tensor, trace
from tests.helpers.parity import randomise
from tests.helpers.tolerances import assert_close

N, LENGTH, INPUTS, HIDDEN = 2, 5, 3, 4


def check_recurrent(layer, twin, x, states=(), train=False, dtype="float64"):
    """Outputs, final states, and the gradients of x, of the given states and of every parameter."""
    twin.to(getattr(torch, dtype)).train(train)
    randomise(twin, np.random.default_rng(2))
    leaves = plan(layer, x)
    variables = leaves.from_torch({key: value.clone() for key, value in twin.state_dict().items()})
    pack = lambda states: None if not states else states[0] if len(states) == 1 else tuple(states)  # noqa: E731
    twin.zero_grad()
    tensors = [tensor(a) for a in (x, *states)]
    expected = flat(twin(tensors[0], pack(tensors[1:])))
    cotangents = [normal(*out.shape, dtype=dtype, seed=seed) for seed, out in enumerate(expected, 5)]
    sum((out * torch.tensor(c)).sum() for out, c in zip(expected, cotangents, strict=True)).backward()

    @jax.jit
    def step(variables, arrays):
        def loss(variables, arrays):
            got = flat(layer.apply(variables, arrays[0], pack(arrays[1:]), train))
            return sum((out * c).sum() for out, c in zip(got, cotangents, strict=True)), got

        (_, got), grads = jax.value_and_grad(loss, (0, 1), has_aux=True)(variables, arrays)
        return got, grads

    got, (param_grads, grads) = step(variables, [jnp.asarray(a) for a in (x, *states)])
    for i, (ours, theirs) in enumerate(zip(got, expected, strict=True)):
        assert ours.dtype == x.dtype
        assert_close(ours, theirs.detach(), dtype, f"output {i}")
    for i, (ours, t) in enumerate(zip(grads, tensors, strict=True)):
        assert_close(ours, t.grad, dtype, f"gradient of input {i}")
    named = leaves.to_torch(param_grads)
    assert list(named) == list(leaves.parameters) == [name for name, _ in twin.named_parameters()]
    for key, parameter in twin.named_parameters():
        assert_close(named[key], parameter.grad, dtype, f"gradient of {key}")


def flat(outputs):
    """The arrays in (output, (h, c)), (output, h), (h, c) or h."""
    return [leaf for part in outputs for leaf in flat(part)] if isinstance(outputs, tuple) else [outputs]


CELLS = [
    ("LSTMCell", {}, 2),
    ("LSTMCell", {"bias": False}, 2),
    ("GRUCell", {}, 1),
    ("GRUCell", {"bias": False}, 1),
    ("RNNCell", {}, 1),
    ("RNNCell", {"nonlinearity": "relu", "bias": False}, 1),
]


@pytest.mark.parametrize(("name", "kwargs", "count"), CELLS)
def test_cells(name, kwargs, count):
    layer, twin = getattr(layers, name)(INPUTS, HIDDEN, **kwargs), getattr(torch.nn, name)(INPUTS, HIDDEN, **kwargs)
    check_recurrent(layer, twin, normal(N, INPUTS), [normal(N, HIDDEN, seed=i) for i in range(count)])
    check_recurrent(layer, twin, normal(INPUTS))


LAYERS = [
    {"num_layers": 2, "bidirectional": True},
    {"num_layers": 2, "batch_first": True, "bias": False, "dropout": 1.0},
]


@pytest.mark.parametrize("name", ["LSTM", "GRU"])
@pytest.mark.parametrize("kwargs", LAYERS, ids=str)
def test_layers(name, kwargs):
    """Random states at the start; with ``dropout=1`` both sides drop every output between the layers."""
    layer, twin = getattr(layers, name)(INPUTS, HIDDEN, **kwargs), getattr(torch.nn, name)(INPUTS, HIDDEN, **kwargs)
    runs = kwargs.get("num_layers", 1) * (1 + kwargs.get("bidirectional", False))
    states = [normal(runs, N, HIDDEN, seed=i) for i in range(2 if name == "LSTM" else 1)]
    x = normal(N, LENGTH, INPUTS) if kwargs.get("batch_first") else normal(LENGTH, N, INPUTS)
    check_recurrent(layer, twin, x, states, train="dropout" in kwargs)


def test_projected_lstm():
    kwargs = dict(num_layers=2, proj_size=2)
    layer, twin = layers.LSTM(INPUTS, HIDDEN, **kwargs), torch.nn.LSTM(INPUTS, HIDDEN, **kwargs)
    check_recurrent(layer, twin, normal(LENGTH, N, INPUTS), [normal(2, N, 2), normal(2, N, HIDDEN)])


@pytest.mark.parametrize("name", ["LSTM", "GRU"])
def test_a_single_sequence(name):
    """With given states in one layer, without in the other."""
    layer, twin = (getattr(m, name)(INPUTS, HIDDEN, batch_first=True) for m in (layers, torch.nn))
    states = [normal(1, HIDDEN, seed=i) for i in range(2)] if name == "LSTM" else []
    check_recurrent(layer, twin, normal(LENGTH, INPUTS), states)


def test_float32():
    layer, twin = layers.LSTM(INPUTS, HIDDEN), torch.nn.LSTM(INPUTS, HIDDEN)
    check_recurrent(layer, twin, normal(LENGTH, N, INPUTS, dtype="float32"), dtype="float32")


@pytest.mark.parametrize("name", ["LSTM", "GRUCell"])
def test_half_precision(name):
    cls = getattr(layers, name)
    x = jnp.asarray(normal(LENGTH, INPUTS, dtype="float32"))
    expected, variables = cls(INPUTS, HIDDEN).init_with_output(jax.random.key(0), x)
    got = cls(INPUTS, HIDDEN, dtype=jnp.bfloat16).apply(variables, x)
    for ours, wide in zip(flat(got), flat(expected), strict=True):
        assert ours.dtype == jnp.bfloat16
        assert_close(ours.astype("float32"), wide, "bfloat16")


def test_dropout_is_between_the_layers_only():
    layer, x = layers.GRU(INPUTS, HIDDEN, 2, dropout=0.5), jnp.asarray(normal(LENGTH, N, INPUTS))
    variables = jax.jit(layer.init)(jax.random.key(0), x)
    calm, h = layer.apply(variables, x)
    run = jax.jit(lambda key: layer.apply(variables, x, train=True, rngs={"dropout": key}))
    (first, states), (second, _) = run(jax.random.key(0)), run(jax.random.key(1))
    assert (first != second).any()
    assert (first != calm).any()
    assert (first != 0).all()
    np.testing.assert_allclose(states[0], h[0], rtol=1e-5)


@pytest.mark.parametrize("name", ["LSTMCell", "GRUCell", "RNNCell"])
def test_fresh_parameters_are_uniform_within_the_root_of_the_width(name):
    layer, bound = getattr(layers, name)(30, 25), 0.2
    variables = jax.jit(layer.init)(jax.random.key(0), jnp.ones((2, 30)))
    for leaf in jax.tree.leaves(variables):
        assert 0.85 * bound < np.abs(leaf).max() <= bound
        assert abs(np.std(leaf) - bound / np.sqrt(3)) < 5 * bound / np.sqrt(leaf.size)


def test_bad_arguments():
    nn, zeros = torch.nn, torch.zeros
    for ours, match, theirs in (
        (lambda: layers.LSTM(3, 0), "LSTM: expected hidden_size >= 1, got 0", lambda: nn.LSTM(3, 0)),
        (lambda: layers.GRU(3, 4, 0), "GRU: expected num_layers >= 1, got 0", lambda: nn.GRU(3, 4, 0)),
        (lambda: layers.GRU(3, 4, dropout=2.0), r"dropout in \[0, 1\], got 2.0", lambda: nn.GRU(3, 4, 2, dropout=2.0)),
        (lambda: layers.LSTM(3, 4, proj_size=4), "proj_size < hidden_size=4", lambda: nn.LSTM(3, 4, proj_size=4)),
        (lambda: layers.LSTMCell(0, 4), "LSTMCell: expected input_size >= 1, got 0", None),
        (lambda: layers.RNNCell(3, 4, nonlinearity="elu"), "'tanh' or 'relu', got 'elu'", None),
        (lambda: trace(layers.LSTM(3, 4), 5, 2, 6), "3 channels", lambda: nn.LSTM(3, 4)(zeros(5, 2, 6))),
        (lambda: trace(layers.GRU(3, 4), 5, 2, 2, 3), "rank 2 or 3", lambda: nn.GRU(3, 4)(zeros(5, 2, 2, 3))),
        (lambda: trace(layers.GRUCell(3, 4), 5, 2, 3), "rank 1 or 2", lambda: nn.GRUCell(3, 4)(zeros(5, 2, 3))),
    ):
        check_refusal(ours, match, theirs)


def test_bad_states():
    ones, zeros = jnp.ones, torch.zeros
    check_refusal(
        lambda: layers.GRU(3, 4).init(jax.random.key(0), ones((5, 2, 3)), ones((2, 2, 4))),
        r"GRU: expected states hx of shapes \[\(1, 2, 4\)\], got \[\(2, 2, 4\)\]",
        lambda: torch.nn.GRU(3, 4)(zeros(5, 2, 3), zeros(2, 2, 4)),
    )
    check_refusal(
        lambda: layers.LSTMCell(3, 4).init(jax.random.key(0), ones((2, 3)), (ones((2, 4)), ones((2, 3)))),
        r"LSTMCell: expected states hx of shapes \[\(2, 4\), \(2, 4\)\]",
        lambda: torch.nn.LSTMCell(3, 4)(zeros(2, 3), (zeros(2, 4), zeros(2, 3))),
    )
