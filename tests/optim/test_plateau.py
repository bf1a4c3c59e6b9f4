import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from convert.schedulers.schedules import plateau_after, plateau_of
from flax_attn.optim import ReduceLROnPlateau
from tests.helpers.schedulers import LRS, lr_scheduler, optimizer_with

SETTINGS = {
    "default": {},
    "patient": dict(patience=3, factor=0.7, cooldown=4, min_lr=1e-3),
    "max": dict(mode="max", patience=1, factor=0.5, threshold=0.05),
    "absolute": dict(threshold_mode="abs", threshold=0.02, patience=2, factor=0.9, min_lr=(0.01, 1e-4)),
    "absolute max": dict(mode="max", threshold_mode="abs", threshold=0.02, patience=0, factor=0.8, eps=1e-4),
}


def metrics(steps=300):
    """A noisy curve with falls and rises, and an epoch that diverged."""
    noise = np.random.default_rng(0).normal(size=steps)
    curve = np.cos(np.arange(steps) / 20) + 0.3 * noise - 0.01 * np.arange(steps)
    curve[40] = np.nan
    return curve


def torch_plateau(min_lr=0.0, **arguments):
    bounds = list(min_lr) if isinstance(min_lr, tuple) else min_lr
    return lr_scheduler.ReduceLROnPlateau(optimizer_with(), min_lr=bounds, **arguments)


def torch_lrs(scheduler, values):
    rows = []
    for value in values:
        scheduler.step(value)
        rows.append(scheduler.get_last_lr())
    return np.asarray(rows)


def our_lrs(plateau, state, values):
    def advance(state, value):
        state = plateau.step(state, value)
        return state, state.lr

    return jax.lax.scan(advance, state, jnp.asarray(values))


@pytest.mark.parametrize("name", SETTINGS)
def test_300_epochs_equal_pytorch(name):
    plateau = ReduceLROnPlateau(**SETTINGS[name])
    expected = torch_lrs(torch_plateau(**SETTINGS[name]), metrics())
    assert len(np.unique(expected)) > 4
    np.testing.assert_allclose(our_lrs(plateau, plateau.init(LRS), metrics())[1], expected, rtol=1e-12)


@pytest.mark.parametrize("name", SETTINGS)
def test_goes_on_from_a_state_dict_and_back(name):
    scheduler, values = torch_plateau(**SETTINGS[name]), metrics()
    for first, last in ((0, 1), (1, 7), (7, 57), (57, 150)):
        torch_lrs(scheduler, values[first:last])
        plateau, state = plateau_of(json.loads(json.dumps(scheduler.state_dict())))
    before = scheduler.state_dict() | {}
    expected = torch_lrs(scheduler, values[150:])
    result, ours = our_lrs(plateau, state, values[150:])
    np.testing.assert_allclose(ours, expected, rtol=1e-12)

    halfway = our_lrs(plateau, state, values[150:200])[0]
    fresh = torch_plateau(**SETTINGS[name])
    fresh.load_state_dict(plateau_after(before, halfway))
    for group, lr in zip(fresh.optimizer.param_groups, fresh.get_last_lr(), strict=True):
        group["lr"] = lr
    np.testing.assert_allclose(torch_lrs(fresh, values[200:]), expected[50:], rtol=1e-12)
    after, now = plateau_after(before, result), scheduler.state_dict()
    assert after.keys() == now.keys()
    assert {key: after[key] for key in now if key != "_last_lr"} == {key: now[key] for key in now if key != "_last_lr"}


def test_the_groups_win_over_the_notes():
    state = plateau_of(torch_plateau().state_dict(), groups=[{"lr": 0.3}, {"lr": 0.4}])[1]
    assert state.lr.tolist() == [0.3, 0.4]


def test_it_sets_the_learning_rate_of_an_optimizer():
    optimizer = optax.inject_hyperparams(lambda lr: optax.sgd(lr))(lr=0.1)
    plateau = ReduceLROnPlateau(patience=0)
    params, state = jnp.ones(()), plateau.init(0.1)
    opt_state = optimizer.init(params)
    for metric in (1.0, 2.0):
        state = jax.jit(plateau.step)(state, metric)
        opt_state = optax.tree_utils.tree_set(opt_state, lr=state.lr)
    assert optimizer.update(jnp.ones(()), opt_state, params)[0] == pytest.approx(-0.01)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"factor": 1.0}, "ReduceLROnPlateau: expected factor to be below 1, got 1.0"),
        ({"mode": "least"}, "ReduceLROnPlateau: expected mode 'min' or 'max', got 'least'"),
        ({"threshold_mode": "both"}, "expected threshold_mode 'rel' or 'abs', got 'both'"),
    ],
)
def test_wrong_arguments_are_refused(arguments, words, no_annotation_checks):
    with pytest.raises(ValueError, match=words):
        ReduceLROnPlateau(**arguments)
