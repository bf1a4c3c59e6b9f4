import copy
import json

import jax.numpy as jnp
import numpy as np
import pytest

from convert import read
from convert.schedulers.schedules import momentum_of, schedule_of
from convert.schedulers.steps import state_after, stepped
from tests.helpers.schedulers import CASES, CHAINS, STEPS, assert_lrs, lr_scheduler, lrs_of, optimizer_with, started

torch = pytest.importorskip("torch")
MAKERS = {name: case.torch for name, case in CASES.items()} | CHAINS
POSITIONS = (1, 7, 57, 150)


def moves_momentum(name) -> bool:
    return name.startswith(("OneCycleLR", "CyclicLR"))


def groups_in(optimizer):
    return copy.deepcopy(optimizer.state_dict()["param_groups"])


def positioned(make, steps, adam=False):
    """A scheduler after ``steps`` steps, with its state dict and its groups as plain values."""
    scheduler = started(make, adam=adam)
    for _ in range(steps):
        scheduler.step()
    return scheduler, json.loads(json.dumps(scheduler.state_dict())), groups_in(scheduler.optimizer)


def values_of(schedules, count=0, steps=STEPS):
    return [np.asarray(schedule(count + jnp.arange(STEPS)))[:steps] for schedule in schedules]


@pytest.mark.parametrize("name", MAKERS)
def test_goes_on_from_a_state_dict(name):
    expected = lrs_of(started(MAKERS[name]), STEPS)
    for steps in POSITIONS:
        _, state, groups = positioned(MAKERS[name], steps)
        known = groups if name.startswith("OneCycleLR") else None
        schedules = schedule_of(state, count=steps, groups=known, lr_only=moves_momentum(name))
        assert_lrs(values_of(schedules, steps, STEPS - steps), [values[steps:] for values in expected])


@pytest.mark.parametrize("name", MAKERS)
def test_goes_on_from_a_learning_rate_set_by_hand(name):
    for steps, more in ((10, 0), (20, 1), (100, 3), (150, 0)):
        scheduler, _, _ = positioned(MAKERS[name], steps)
        for group in scheduler.optimizer.param_groups:
            group["lr"] *= 0.3
        for _ in range(more):
            scheduler.step()
        state, groups = copy.deepcopy(scheduler.state_dict()), groups_in(scheduler.optimizer)
        known = groups if name.startswith("OneCycleLR") or not more else None
        schedules = schedule_of(state, groups=known, lr_only=moves_momentum(name))
        left = STEPS - steps - more
        assert_lrs(values_of(schedules, steps=left), lrs_of(scheduler, left))


@pytest.mark.parametrize("steps", [100, 300, 99, 101])
def test_cosine_annealing_set_by_hand_near_its_low_point(steps):
    scheduler, state, groups = positioned(lambda o: lr_scheduler.CosineAnnealingLR(o, 100, eta_min=1e-4), steps)
    for group, known in zip(scheduler.optimizer.param_groups, groups, strict=True):
        group["lr"] = known["lr"] = 0.02
    assert_lrs(values_of(schedule_of(state, groups=groups)), lrs_of(scheduler, STEPS))


def test_cosine_annealing_keeps_the_rounding_of_its_low_point():
    scheduler, state, _ = positioned(lambda o: lr_scheduler.CosineAnnealingLR(o, 243, eta_min=1e-4), 130)
    assert_lrs(values_of(schedule_of(state)), lrs_of(scheduler, STEPS))


@pytest.mark.parametrize("name", MAKERS)
def test_goes_back_to_pytorch(name):
    scheduler, state, groups = positioned(MAKERS[name], 57)
    for _ in range(93):
        scheduler.step()
    result, present = stepped(state, groups, 93)
    assert result == scheduler.state_dict()
    assert [group["lr"] for group in present] == [group["lr"] for group in scheduler.optimizer.param_groups]

    fresh = started(MAKERS[name])
    saved = fresh.optimizer.state_dict()
    fresh.optimizer.load_state_dict({**saved, "param_groups": present})
    fresh.load_state_dict(result)
    assert lrs_of(fresh, 150) == lrs_of(scheduler, 150)


@pytest.mark.parametrize("name", ["StepLR", "CosineAnnealingLR", "SequentialLR", "CyclicLR", "warm-up"])
def test_the_notes_of_the_scheduler_are_enough_to_go_back(name):
    scheduler, state, _ = positioned(MAKERS[name], 57)
    before = copy.deepcopy(state)
    for _ in range(93):
        scheduler.step()
    assert state_after(state, 93) == scheduler.state_dict()
    assert state == before


@pytest.mark.parametrize("step_in_epoch", [0, 1, 4, 5])
def test_a_scheduler_that_is_stepped_once_an_epoch(step_in_epoch):
    scheduler, state, _ = positioned(MAKERS["SequentialLR"], 15)
    by_epoch = lrs_of(scheduler, 70)
    expected = [np.repeat(values, 5)[step_in_epoch:][:STEPS] for values in by_epoch]
    schedules = schedule_of(state, steps_per_epoch=5, count=83, step_in_epoch=step_in_epoch)
    assert_lrs(values_of(schedules, 83), expected)


@pytest.mark.parametrize("adam", [False, True])
@pytest.mark.parametrize("name", [name for name in CASES if moves_momentum(name)])
def test_momentum_goes_on(name, adam):
    scheduler, state, groups = positioned(MAKERS[name], 57, adam=adam)
    known = groups if name.startswith("OneCycleLR") else None
    actual = values_of(momentum_of(state, count=57, groups=known), 57, 200)
    stepped_groups = stepped(state, groups, 199)[1]
    for values, group in zip(actual, scheduler.optimizer.param_groups, strict=True):
        assert values[0] == pytest.approx(group["betas"][0] if adam else group["momentum"], rel=1e-12)
    for _ in range(199):
        scheduler.step()
    for values, group, ours in zip(actual, scheduler.optimizer.param_groups, stepped_groups, strict=True):
        key = "betas" if adam else "momentum"
        assert ours[key] == group[key]
        assert values[-1] == pytest.approx(group["betas"][0] if adam else group["momentum"], rel=1e-12)


@pytest.mark.parametrize("name", ["MultiStepLR", "CosineAnnealingWarmRestarts-2", "OneCycleLR", "SequentialLR"])
def test_a_file_of_pytorch(name, tmp_path):
    scheduler, _, _ = positioned(MAKERS[name], 57)
    saved = {"model": {"weight": torch.zeros(2)}, "lr_scheduler": scheduler.state_dict()}
    torch.save({**saved, "optimizer": scheduler.optimizer.state_dict()}, tmp_path / "checkpoint.pth")
    extras = read(tmp_path / "checkpoint.pth").extras
    groups = extras["optimizer"]["param_groups"]
    schedules = schedule_of(extras["lr_scheduler"], groups=groups, lr_only=True)
    expected = lrs_of(scheduler, 200)
    assert_lrs(values_of(schedules, steps=200), expected)
    fresh = started(MAKERS[name])
    result, present = stepped(extras["lr_scheduler"], groups, 9)
    fresh.optimizer.load_state_dict({**fresh.optimizer.state_dict(), "param_groups": present})
    fresh.load_state_dict(result)
    assert lrs_of(fresh, 100) == [values[9:109] for values in expected]


def state_of(make):
    return started(make).state_dict()


def scaled(optimizer, **arguments):
    return lr_scheduler.CyclicLR(optimizer, 0.1, 0.2, 9, cycle_momentum=False, scale_fn=lambda x: 0.5, **arguments)


def with_inside(outer, inner) -> dict:
    """The state dict of the scheduler ``outer``, with that of ``inner`` in place of its first one."""
    state = state_of(MAKERS[outer])
    return state | {"_schedulers": [state_of(MAKERS[inner]), *state["_schedulers"][1:]]}


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (lambda: state_of(lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 1.0)), "got a LambdaLR or MultiplicativeLR"),
        (lambda: state_of(lambda o: lr_scheduler.MultiplicativeLR(o, lambda epoch: 1.0)), "write the schedule as a Py"),
        (lambda: state_of(lambda o: torch.optim.swa_utils.SWALR(o, 0.1)), "got an SWALR"),
        (lambda: {"param_group_field": "lr", "base_values": [0.1]}, "got a scheduler of timm"),
        (lambda: {"param_name": "lr", "base_values": [0.1], "last_step": 3}, "got a parameter scheduler of mmengine"),
        (lambda: state_of(lambda o: lr_scheduler.ReduceLROnPlateau(o)), r"call plateau_of\(state\)"),
        (lambda: state_of(MAKERS["CyclicLR"]), "got cycle_momentum=True, which moves the momentum"),
        (lambda: state_of(MAKERS["StepLR"]) | {"warmup": 5}, "the keys gamma, step_size, warmup; .* StepLR, .* kind"),
        (lambda: state_of(MAKERS["StepLR"]) | {"milestones": {3: 1}}, "MultiStepLR, ExponentialLR, pass kind"),
        (lambda: {"base_lrs": [0.1], "last_epoch": 3, "_last_lr": [0.1]}, "got one with the keys none; write the sch"),
        (lambda: positioned(scaled, 5)[1], "CyclicLR: expected the learning rates of mode 'triangular', got others"),
        (lambda: state_of(lambda o: scaled(o, scale_mode="iterations")), "as with a scale_fn"),
        (lambda: with_inside("SequentialLR", "factors"), "schedulers without others inside, got a ChainedScheduler"),
        (
            lambda: with_inside("warm-up", "SequentialLR"),
            "ChainedScheduler: .* others inside, got a Sequential",
        ),
        (lambda: with_inside("factors", "CyclicLR"), "got cycle_momentum=True"),
        (lambda: with_inside("factors", "CosineAnnealingWarmRestarts"), "got CosineAnnealingWarmRestarts, Exponential"),
        (lambda: positioned(MAKERS["many periods"], 27)[1] | {"_last_lr": [0.1, 0.0]}, "got 0.1; write the schedule"),
        (
            lambda: state_of(lambda o: lr_scheduler.ChainedScheduler([lr_scheduler.CosineAnnealingLR(o, 9, 0.01)], o)),
            "and one CosineAnnealingLR with eta_min 0",
        ),
        (
            lambda: state_of(MAKERS["StepLR"]) | {"base_lrs": [0.1]},
            "base_lrs with a number for each of 2 groups",
        ),
        (lambda: [0.1], "expected its state dict, got a list"),
    ],
)
def test_what_cannot_be_taken_over_is_refused(state, words):
    with pytest.raises(ValueError, match=words):
        schedule_of(state())


def test_one_cycle_needs_the_groups():
    state = state_of(lambda o: lr_scheduler.OneCycleLR(o, 0.1, 20, cycle_momentum=False))
    with pytest.raises(ValueError, match="expected initial_lr in each group of the optimizer, got none"):
        schedule_of(state)
    with pytest.raises(ValueError, match="expected at most total_steps, 20, scheduler steps, got 21"):
        stepped(state, positioned(lambda o: lr_scheduler.OneCycleLR(o, 0.1, 20), 0)[2], 21)


def test_fractions_of_an_epoch_are_refused():
    scheduler = lr_scheduler.CosineAnnealingWarmRestarts(optimizer_with(), 10)
    scheduler.step(3.25)
    with pytest.raises(ValueError, match=r"expected T_cur to be a whole number, got 3\.25"):
        schedule_of(scheduler.state_dict())


def test_kind_tells_what_the_keys_do_not():
    state = state_of(MAKERS["StepLR"]) | {"warmup": 5}
    assert schedule_of(state, kind="StepLR")[0](30) == pytest.approx(0.01)
    with pytest.raises(ValueError, match=r"expected kind to be one of StepLR, .* got 'Step'"):
        schedule_of(state, kind="Step")
    with pytest.raises(ValueError, match="expected the state dict of a LinearLR, got one without end_factor, start"):
        schedule_of(state, kind="LinearLR")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"steps_per_epoch": 0}, "expected steps_per_epoch to be 1 or more, got 0"),
        ({"steps_per_epoch": 5, "step_in_epoch": 6}, "expected step_in_epoch to be 0 to 5, got 6"),
    ],
)
def test_wrong_positions_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        schedule_of(state_of(MAKERS["StepLR"]), **arguments)
    with pytest.raises(ValueError, match="StepLR: expected 0 or more steps, got -1"):
        state_after(state_of(MAKERS["StepLR"]), -1)
