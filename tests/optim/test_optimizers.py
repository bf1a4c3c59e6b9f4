"""Each optimizer does the arithmetic of torch.optim: every setting, 30 steps, parameters and state."""

import inspect

import jax.numpy as jnp
import numpy as np
import optax
import pytest

torch = pytest.importorskip("torch")

from flax_attn import optim
from tests.helpers.optimizers import RATES, STEPS, assert_same_run, optax_steps, problem, torch_run

EPS = {"eps": 1e-3}
DECAY = {"weight_decay": 0.1}
UP = {"maximize": True}
DECOUPLED = {"decoupled_weight_decay": True}
BETAS = {"betas": (0.8, 0.95)}
AMSGRAD = {"amsgrad": True}
MOMENTUM = {"momentum": 0.9}
DAMPED = {**MOMENTUM, "dampening": 0.4}
NESTEROV = {**MOMENTUM, "nesterov": True}
CENTERED = {"centered": True}
FADING = {"lr_decay": 0.1}
FILLED = {"initial_accumulator_value": 0.3}

SETTINGS = {
    "SGD": [{}, DECAY, MOMENTUM, DAMPED, NESTEROV, UP, DECAY | UP, DECAY | DAMPED | UP, DECAY | NESTEROV | UP],
    "Adam": [
        {},
        EPS,
        BETAS,
        {"betas": (0.0, 0.999)},
        {"betas": (0.9, 0.0)},
        DECAY,
        AMSGRAD,
        UP,
        DECAY | DECOUPLED,
        AMSGRAD | DECAY | BETAS | EPS | UP,
        AMSGRAD | DECAY | DECOUPLED | UP,
    ],
    "AdamW": [{}, AMSGRAD, DECAY | UP, AMSGRAD | DECAY | BETAS | EPS | UP, {"weight_decay": 0}],
    "Adamax": [{}, EPS, BETAS, DECAY, UP, DECAY | UP | EPS | BETAS],
    "NAdam": [
        {},
        EPS,
        BETAS,
        DECAY,
        UP,
        DECAY | DECOUPLED,
        {"momentum_decay": 0.1},
        {"momentum_decay": 0},
        DECAY | DECOUPLED | UP | BETAS | EPS,
        DECAY | UP | {"momentum_decay": 0.1},
    ],
    "RAdam": [
        {},
        EPS,
        BETAS,
        DECAY,
        UP,
        DECAY | DECOUPLED,
        DECAY | DECOUPLED | UP | BETAS | EPS,
        DECAY | UP,
        {"betas": (0.9, 0.6)},
        {"betas": (0.0, 0.0)},
        {"betas": (0.9, 0.9999)},
    ],
    "RMSprop": [
        {},
        EPS,
        {"alpha": 0.9},
        MOMENTUM,
        CENTERED,
        DECAY,
        UP,
        CENTERED | MOMENTUM | EPS,
        CENTERED | MOMENTUM | DECAY | UP,
        MOMENTUM | DECAY | UP | EPS,
    ],
    "Adagrad": [{}, EPS, FADING, FILLED, DECAY, UP, FADING | FILLED | DECAY | EPS | UP],
    "Adadelta": [{}, EPS, {"rho": 0.5}, {"rho": 1.0}, DECAY, UP, DECAY | UP | {"rho": 0.95}],
}
SCHEDULED = [(name, setting, True) for name, settings in SETTINGS.items() for setting in settings]
CONSTANT = [(name, setting, False) for name, settings in SETTINGS.items() for setting in (settings[0], settings[-1])]
IGNORED = {"params", "foreach", "capturable", "differentiable", "fused", "kwargs"}


@pytest.fixture(scope="module")
def drawn():
    return problem()


def named(value):
    if isinstance(value, bool):
        return "scheduled" if value else "constant"
    return value if isinstance(value, str) else ",".join(f"{k}={v}" for k, v in value.items()) or "defaults"


@pytest.mark.parametrize(("name", "setting", "scheduled"), CONSTANT + SCHEDULED, ids=named)
def test_steps_are_those_of_torch(name, setting, scheduled, drawn):
    rates = RATES if scheduled else np.full(STEPS, 0.03)
    expected = torch_run(lambda p: getattr(torch.optim, name)(p, lr=rates[0], **setting), *drawn, rates=rates)
    lr = (lambda count: jnp.asarray(rates)[count]) if scheduled else 0.03
    history, state = optax_steps(getattr(optim, name.lower())(lr, **setting), *drawn)
    assert_same_run(history, state, expected)
    counts = [count for _, count in optax.tree.get_all_with_path(state, "count")]
    assert counts
    assert all(count == STEPS for count in counts)


@pytest.mark.parametrize("name", SETTINGS)
def test_arguments_are_those_of_torch(name):
    theirs = inspect.signature(getattr(torch.optim, name)).parameters
    ours = inspect.signature(getattr(optim, name.lower())).parameters
    theirs = {key: value.default for key, value in theirs.items() if key not in IGNORED}
    assert {key: ours[key].default for key in theirs} == theirs
    assert [key for key in ours if key in theirs and key != "maximize"] == [key for key in theirs if key != "maximize"]
    assert ours.keys() - theirs.keys() == set()


PLANTED = {
    "amsgrad": (lambda p: torch.optim.Adam(p, lr=0.03, amsgrad=True), optax.amsgrad(0.03)),
    "rmsprop": (lambda p: torch.optim.RMSprop(p, lr=0.03, alpha=0.9), optax.rmsprop(0.03)),
    "centered": (lambda p: torch.optim.RMSprop(p, lr=0.03, centered=True), optax.rmsprop(0.03, 0.99, centered=True)),
    "adamw": (lambda p: torch.optim.AdamW(p, lr=0.03), optax.adamw(0.03)),
    "nadam": (lambda p: torch.optim.NAdam(p, lr=0.03), optax.nadam(0.03)),
    "radam": (lambda p: torch.optim.RAdam(p, lr=0.03), optax.radam(0.03)),
    "adagrad": (lambda p: torch.optim.Adagrad(p, lr=0.03), optax.adagrad(0.03, 0.0, eps=1e-10)),
    "dampening": (lambda p: torch.optim.SGD(p, lr=0.03, momentum=0.9, dampening=0.4), optim.sgd(0.03, 0.9)),
    "coupled": (lambda p: torch.optim.Adam(p, lr=0.03, weight_decay=0.1), optim.adamw(0.03, weight_decay=0.1)),
    "maximize": (lambda p: torch.optim.SGD(p, lr=0.03, maximize=True), optim.sgd(0.03)),
}


@pytest.mark.parametrize("name", PLANTED)
def test_comparison_finds_other_arithmetic(name, drawn):
    theirs, other = PLANTED[name]
    expected = torch_run(theirs, *drawn)
    history, state = optax_steps(other, *drawn)
    with pytest.raises(AssertionError):
        assert_same_run(history, state, expected._replace(state={}))
