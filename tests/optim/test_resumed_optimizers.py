"""Each optimizer goes on from a state of torch.optim: after many steps, in float32 without x64, in half precision."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

torch = pytest.importorskip("torch")

from convert.comparing.tolerances import TOLERANCE, difference
from flax_attn import optim
from tests.helpers.optimizers import (
    array,
    assert_same_run,
    optax_steps,
    problem,
    tensor,
    torch_run,
    torch_state,
    torch_steps,
)

SETTINGS = {
    "SGD": {"momentum": 0.9, "dampening": 0.2},
    "Adam": {"amsgrad": True},
    "AdamW": {},
    "Adamax": {},
    "NAdam": {},
    "RAdam": {},
    "RMSprop": {"centered": True, "momentum": 0.9},
    "Adagrad": {"lr_decay": 1e-4},
    "Adadelta": {},
}
MANY = 42200


def optimizers(name, setting):
    """The optimizer of PyTorch, as a function of the parameters, and ours. Two of them move little in each step."""
    lr = {"Adadelta": 20.0, "Adagrad": 0.1}.get(name, 0.01)
    return lambda p: getattr(torch.optim, name)(p, lr=lr, **setting), getattr(optim, name.lower())(lr, **setting)


def filled(optimizer, params, state, count):
    """The state of ``optimizer`` with the tensors of PyTorch."""
    fields = {field: x if field != "mu_product" else next(iter(x.values())) for field, x in state.items()}
    fields = jax.tree.map(jnp.asarray, fields)
    return optax.tree.set(optimizer.init(params), count=jnp.asarray(count, jnp.int32), **fields)


@pytest.mark.parametrize("name", SETTINGS)
def test_goes_on_after_many_steps(name):
    make, ours = optimizers(name, SETTINGS[name])
    params, gradients = problem()
    tensors = {key: torch.nn.Parameter(tensor(x)) for key, x in params.items()}
    theirs = make(list(tensors.values()))
    torch_steps(theirs, tensors, {key: x[:20] for key, x in gradients.items()})
    for state in theirs.state.values():
        if "step" in state:
            state["step"] = torch.tensor(float(MANY))
    at_hand_over = {key: array(x) for key, x in tensors.items()}
    state = filled(ours, at_hand_over, torch_state(theirs, tensors), MANY)
    rest = {key: x[20:] for key, x in gradients.items()}
    expected = torch_steps(theirs, tensors, rest)
    assert_same_run(*optax_steps(ours, at_hand_over, rest, state), expected)


def float32_error(optimizer, make):
    """How far ten steps in float32 without x64 are from those of PyTorch in float64, relative to the way so far."""
    params, gradients = small_problem()
    exact = [{"float32": x["float32"].astype("float64")} for x in (params, gradients)]
    expected = torch_run(make, *exact).params["float32"]
    with jax.enable_x64(False):
        history, _ = optax_steps(optimizer, params, gradients)
        got = np.asarray(history["float32"])
    return (np.abs(got - expected).max(axis=(1, 2)) / np.abs(expected).max(axis=(1, 2))).max()


def small_problem():
    """Parameters of 0, so that no digit of a change is lost in the sum; the gradients have moderate sizes."""
    random = np.random.default_rng(1)
    gradients = {"float32": random.normal(size=(10, 3, 7)).astype("float32")}
    return {"float32": np.zeros((3, 7), "float32")}, gradients


SHORT = {"betas": (0.9, 0.9999)}
FLOAT32 = [
    *SETTINGS.items(),
    *((name, SHORT) for name in ("AdamW", "NAdam", "RAdam")),
    ("Adamax", {"betas": (0.999, 0.9)}),
]


@pytest.mark.parametrize(("name", "setting"), FLOAT32)
def test_first_steps_in_float32_without_x64_have_all_digits(name, setting):
    make, ours = optimizers(name, setting)
    assert float32_error(ours, make) < 1e-6


def test_bias_correction_of_optax_loses_digits_in_float32():
    assert float32_error(optax.adam(0.01), lambda p: torch.optim.Adam(p, lr=0.01)) > 4e-6


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", SETTINGS)
def test_half_precision(name, dtype):
    make, ours = optimizers(name, SETTINGS[name])
    random = np.random.default_rng(1)
    params = {"half": jnp.asarray(random.normal(size=(3, 7)), dtype)}
    gradients = {"half": jnp.asarray(random.normal(size=(20, 3, 7)), dtype)}
    expected = torch_run(make, params, gradients)
    history, state = optax_steps(ours, params, gradients)
    assert history["half"].dtype == dtype
    moved = difference(expected.params["half"][-1], np.asarray(params["half"], "float32"))
    assert moved > 2 * TOLERANCE["bfloat16"]
    assert difference(history["half"], expected.params["half"]) < TOLERANCE["bfloat16"]
    for field in expected.state.keys() - {"mu_product"}:
        assert optax.tree.get(state, field)["half"].dtype == dtype
    start = ours.init(params)
    assert jax.tree.map(jnp.result_type, state) == jax.tree.map(jnp.result_type, start)


@pytest.mark.parametrize("name", SETTINGS)
def test_no_gradient_changes_nothing_in_float16(name):
    _, ours = optimizers(name, SETTINGS[name] if name != "AdamW" else {"weight_decay": 0})
    params = {"half": jnp.ones(3, "float16")}
    updates, _ = jax.jit(ours.update)({"half": jnp.zeros(3, "float16")}, ours.init(params), params)
    assert np.array_equal(updates["half"], np.zeros(3, "float16"))
