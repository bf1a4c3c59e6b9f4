"""Each optimizer inside what optax, flax.nnx and jit wrap around it, and what it refuses."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from flax_attn import optim

FACTORIES = {
    "sgd": optim.sgd,
    "momentum": partial(optim.sgd, momentum=0.9, dampening=0.1),
    "adam": optim.adam,
    "amsgrad": partial(optim.adam, amsgrad=True),
    "adamw": optim.adamw,
    "adamax": optim.adamax,
    "nadam": optim.nadam,
    "radam": optim.radam,
    "rmsprop": optim.rmsprop,
    "centered": partial(optim.rmsprop, momentum=0.9, centered=True),
    "adagrad": optim.adagrad,
    "adadelta": optim.adadelta,
}
PARAMS = {"a": jnp.arange(1.0, 4.0), "b": {"c": jnp.full((2, 2), 0.5)}}
GRADIENTS = {"a": jnp.array([0.125, -0.25, 0.0]), "b": {"c": jnp.array([[1.0, 2.0], [-3.0, 0.5]])}}
every = pytest.mark.parametrize("name", FACTORIES)
each_rule = pytest.mark.parametrize(
    "name", ["momentum", "amsgrad", "adamax", "nadam", "radam", "centered", "adagrad", "adadelta"]
)


def steps(optimizer, params, *gradients):
    """(parameters, state) after the step of each of ``gradients``, three times over."""

    @jax.jit
    def step(params, state, gradient):
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for gradient in gradients * 3:
        params, state = step(params, state, gradient)
    return params, state


@cache
def alone(name):
    """The parameters after the steps of an optimizer with its defaults, and nothing around it."""
    return steps(FACTORIES[name](), PARAMS, GRADIENTS)[0]


def same(got, expected):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-12, strict=True), got, expected)


@each_rule
def test_partition_gives_each_leaf_its_own_learning_rate(name):
    make = FACTORIES[name]
    groups = {"slow": make(0.001, weight_decay=0.1), "default": make()}
    got, state = steps(optax.partition(groups, {"a": "slow", "b": "default"}), PARAMS, GRADIENTS)
    same(got["a"], steps(groups["slow"], {"a": PARAMS["a"]}, {"a": GRADIENTS["a"]})[0]["a"])
    same(got["b"], alone(name)["b"])
    assert all(count == 3 for _, count in optax.tree.get_all_with_path(state, "count"))


@each_rule
def test_masked_leaves_keep_their_gradient(name):
    got, _ = steps(optax.masked(FACTORIES[name](), {"a": True, "b": False}), PARAMS, GRADIENTS)
    same(got["b"], jax.tree.map(lambda p, g: p + 3 * g, PARAMS["b"], GRADIENTS["b"]))
    same(got["a"], alone(name)["a"])


@each_rule
def test_multi_steps_makes_one_step_of_the_mean(name):
    parts = [jax.tree.map(lambda g, share=share: share * g, GRADIENTS) for share in (0.5, 1.5)]
    optimizer = optax.MultiSteps(FACTORIES[name](), every_k_schedule=2)
    same(steps(optimizer, PARAMS, *parts)[0], alone(name))


@pytest.mark.parametrize("name", ["momentum", "nadam", "centered"])
def test_nnx_optimizer_makes_the_same_steps(name):
    class Net(nnx.Module):
        def __init__(self):
            self.a = nnx.Param(PARAMS["a"])

    net = Net()
    optimizer = nnx.Optimizer(net, FACTORIES[name](), wrt=nnx.Param)
    for _ in range(3):
        gradients = jax.tree.map(lambda x: GRADIENTS["a"], nnx.state(net, nnx.Param))
        optimizer.update(net, gradients)
    same(net.a[...], alone(name)["a"])


@each_rule
def test_learning_rate_can_be_injected(name):
    make = FACTORIES[name]
    optimizer = optax.inject_hyperparams(make)(lr=0.5)
    state = optimizer.init(PARAMS)
    state.hyperparams["lr"] = jnp.asarray(0.02)
    updates, _ = jax.jit(optimizer.update)(GRADIENTS, state, PARAMS)
    plain = make(0.02)
    same(updates, jax.jit(plain.update)(GRADIENTS, plain.init(PARAMS), PARAMS)[0])


def test_all_numbers_of_sgd_can_be_injected():
    optimizer = optax.inject_hyperparams(optim.sgd)(lr=0.5, momentum=0.9, weight_decay=0.1, nesterov=True)
    same(steps(optimizer, PARAMS, GRADIENTS)[0], steps(optim.sgd(0.5, 0.9, 0.0, 0.1, True), PARAMS, GRADIENTS)[0])


@every
def test_no_parameters(name):
    optimizer = FACTORIES[name](weight_decay=0.1)
    assert jax.jit(optimizer.update)({}, optimizer.init({}), {})[0] == {}


@every
def test_scan_carries_the_state(name):
    optimizer = FACTORIES[name](weight_decay=0.1)

    def step(carry, _):
        updates, state = optimizer.update(GRADIENTS, carry[1], carry[0])
        return (optax.apply_updates(carry[0], updates), state), None

    start = (PARAMS, optimizer.init(PARAMS))
    end, _ = jax.eval_shape(lambda start: jax.lax.scan(step, start, length=3), start)
    assert jax.tree.map(jnp.shape, end) == jax.tree.map(jnp.shape, start)


@every
def test_parameters_are_not_needed_without_weight_decay(name):
    optimizer = FACTORIES[name](**({"weight_decay": 0} if name == "adamw" else {}))
    state = optimizer.init(PARAMS)
    without = jax.jit(lambda state: optimizer.update(GRADIENTS, state)[0])(state)
    same(without, jax.jit(optimizer.update)(GRADIENTS, state, PARAMS)[0])


@every
def test_state_maps_over_its_parameters(name):
    optimizer = FACTORIES[name]()
    state = optimizer.init(PARAMS)
    doubled = optax.tree.map_params(optimizer, lambda x: x + 1, state)
    count = sum(x.shape in {(3,), (2, 2)} for x in jax.tree.leaves(state))
    moved = jax.tree.map(lambda x, y: bool((x != y).any()), doubled, state)
    assert sum(jax.tree.leaves(moved)) == count


@every
def test_state_of_float32_parameters_is_float32_under_x64(name):
    params, gradients = jax.tree.map(lambda x: x.astype(jnp.float32), (PARAMS, GRADIENTS))
    optimizer = FACTORIES[name](weight_decay=0.1)
    updates, new = jax.eval_shape(optimizer.update, gradients, optimizer.init(params), params)
    assert {str(x.dtype) for x in jax.tree.leaves((updates, new))} <= {"float32", "int32"}


REFUSED = [
    (optim.sgd, {"lr": -0.1}, "sgd: expected lr .* at least 0, got -0.1"),
    (optim.sgd, {"lr": float("nan")}, "sgd: expected lr .*, got nan"),
    (optim.sgd, {"momentum": -0.9}, "sgd: expected momentum .*, got -0.9"),
    (optim.sgd, {"weight_decay": -1}, "sgd: expected weight_decay .*, got -1"),
    (optim.sgd, {"nesterov": True}, "sgd: nesterov=True needs .* got momentum 0.0"),
    (optim.sgd, {"nesterov": True, "momentum": 0.9, "dampening": 0.1}, "sgd: nesterov=True needs .* dampening 0.1"),
    (optim.adam, {"lr": -1}, "adam: expected lr"),
    (optim.adam, {"betas": (1.0, 0.999)}, "adam: expected betas .* got \\(1.0, 0.999\\)"),
    (optim.adam, {"betas": (0.9, -0.1)}, "adam: expected betas"),
    (optim.adam, {"betas": 0.9}, "adam: expected betas .* two numbers .* got 0.9"),
    (optim.adam, {"betas": (0.9,)}, "adam: expected betas .* two numbers"),
    (optim.adam, {"eps": -1e-8}, "adam: expected eps"),
    (optim.adamw, {"betas": (0.9, 1.0)}, "adamw: expected betas"),
    (optim.adamw, {"weight_decay": -0.1}, "adamw: expected weight_decay"),
    (optim.adamax, {"betas": (0.9, 1.0)}, "adamax: expected betas"),
    (optim.adamax, {"eps": -1.0}, "adamax: expected eps"),
    (optim.nadam, {"momentum_decay": -0.1}, "nadam: expected momentum_decay"),
    (optim.nadam, {"betas": (-0.1, 0.9)}, "nadam: expected betas"),
    (optim.radam, {"betas": (0.9, 1.0)}, "radam: expected betas"),
    (optim.radam, {"eps": -1.0}, "radam: expected eps"),
    (optim.rmsprop, {"alpha": -0.1}, "rmsprop: expected alpha"),
    (optim.rmsprop, {"momentum": -0.1}, "rmsprop: expected momentum"),
    (optim.adagrad, {"lr": -0.1}, "adagrad: expected lr"),
    (optim.adagrad, {"lr_decay": -0.1}, "adagrad: expected lr_decay"),
    (optim.adagrad, {"initial_accumulator_value": -0.1}, "adagrad: expected initial_accumulator_value"),
    (optim.adadelta, {"rho": 1.1}, "adadelta: expected rho .* from 0 to 1, got 1.1"),
    (optim.adadelta, {"rho": -0.1}, "adadelta: expected rho"),
]


@pytest.mark.parametrize(("make", "arguments", "message"), REFUSED)
def test_refuses_what_torch_refuses(make, arguments, message, no_annotation_checks):
    with pytest.raises(ValueError, match=message):
        make(**arguments)


@pytest.mark.parametrize("dtype", ["complex64", "int32"])
def test_refuses_parameters_that_are_not_real(dtype):
    with pytest.raises(ValueError, match=f"adam: expected parameters of real floating point numbers, got .*{dtype}"):
        optim.adam().init({"a": jnp.ones(3, dtype)})


def test_names_are_functions_in_any_order_of_import():
    assert callable(optim.adamw)
    assert callable(optim.adam)
    assert callable(optim.sgd)
