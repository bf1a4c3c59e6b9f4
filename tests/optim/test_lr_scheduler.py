import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_attn import optim
from tests.helpers.schedulers import (
    CASES,
    CHAINS,
    LRS,
    STEPS,
    assert_lrs,
    lr_scheduler,
    lrs_of,
    optimizer_with,
    started,
)


@pytest.mark.parametrize("name", CASES)
def test_300_steps_equal_pytorch(name):
    schedules = [CASES[name].flax(lr) for lr in LRS]
    actual = jax.jit(lambda counts: [schedule(counts) for schedule in schedules])(jnp.arange(STEPS))
    assert_lrs(actual, lrs_of(started(CASES[name].torch), STEPS))


@pytest.mark.parametrize(
    "name",
    [
        "StepLR-7",
        "MultiStepLR-twice",
        "LinearLR-down",
        "PolynomialLR-0.9",
        "CosineAnnealingLR-150",
        "CosineAnnealingWarmRestarts-2",
        "OneCycleLR",
        "OneCycleLR-linear",
        "CyclicLR-2",
        "SequentialLR",
    ],
)
def test_float32_is_exact_too(name):
    expected = lrs_of(started(CASES[name].torch), STEPS)[0]
    with jax.enable_x64(False):
        actual = jax.jit(CASES[name].flax(LRS[0]))(np.arange(STEPS, dtype=np.int32))
        assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, expected, rtol=2e-6, atol=1e-8 * max(expected))


def test_the_count_may_be_a_plain_number():
    assert optim.step_lr(0.1, 3)(4) == pytest.approx(0.01, rel=1e-14)
    assert optim.cosine_annealing_lr(0.1, 10)(5) == pytest.approx(0.05, rel=1e-14)


def test_restarts_in_fractions_of_an_epoch_equal_pytorch():
    scheduler = lr_scheduler.CosineAnnealingWarmRestarts(optimizer_with(), 3, T_mult=2)
    epochs = np.arange(120) / 4
    expected = []
    for epoch in epochs:
        scheduler.step(epoch)
        expected.append(scheduler.get_last_lr()[0])
    schedule = optim.cosine_annealing_warm_restarts(LRS[0], 3, T_mult=2)
    np.testing.assert_allclose(schedule(epochs), expected, rtol=1e-12)


def test_a_chain_equals_pytorch():
    factors = [optim.constant_lr(1, 0.1, 20), optim.exponential_lr(1, 0.98), optim.multi_step_lr(1, [60, 61], 0.5)]
    actual = [optim.chained_lr(lr, factors)(jnp.arange(STEPS)) for lr in LRS]
    assert_lrs(actual, lrs_of(started(CHAINS["factors"]), STEPS))
    warm_up = optim.chained_lr(LRS[0], [optim.linear_lr(1, 0.01, total_iters=80), optim.cosine_annealing_lr(1, 300)])
    assert_lrs([warm_up(jnp.arange(STEPS))], lrs_of(started(CHAINS["warm-up"]), STEPS)[:1])


@pytest.mark.parametrize("adam", [False, True])
@pytest.mark.parametrize(
    ("make", "ours"),
    [
        (lambda o: lr_scheduler.OneCycleLR(o, 0.1, 300), lambda: optim.one_cycle_momentum(300)),
        (
            lambda o: lr_scheduler.OneCycleLR(o, 0.1, 300, three_phase=True, anneal_strategy="linear"),
            lambda: optim.one_cycle_momentum(300, three_phase=True, anneal_strategy="linear"),
        ),
        (
            lambda o: lr_scheduler.CyclicLR(o, 0.1, 0.2, 30, 40, mode="triangular2", base_momentum=0.5),
            lambda: optim.cyclic_momentum(0.5, 0.9, 30, 40, mode="triangular2"),
        ),
    ],
)
def test_momentum_equals_pytorch(make, ours, adam):
    scheduler = make(optimizer_with(adam=adam))
    scheduler.optimizer.step()
    expected = []
    for _ in range(300):
        group = scheduler.optimizer.param_groups[1]
        expected.append(group["betas"][0] if adam else group["momentum"])
        scheduler.step()
    np.testing.assert_allclose(ours()(jnp.arange(300)), expected, rtol=1e-12)


def test_own_scale_function_equals_pytorch():
    for scale_mode in ("cycle", "iterations"):
        arguments = dict(scale_fn=lambda x: 1 / (1 + 0.1 * x), scale_mode=scale_mode)
        scheduler = lr_scheduler.CyclicLR(optimizer_with(), 0.1, 0.2, 9, cycle_momentum=False, **arguments)
        scheduler.optimizer.step()
        actual = optim.cyclic_lr(0.1, 0.2, 9, **arguments)(jnp.arange(100))
        np.testing.assert_allclose(actual, lrs_of(scheduler, 100)[0], rtol=1e-12)


def test_one_cycle_stays_after_its_end():
    schedule = optim.one_cycle_lr(0.1, 20)
    assert schedule(500) == schedule(20)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: optim.step_lr(0.1, 0), "step_lr: expected step_size to be 1 or more, got 0"),
        (lambda: optim.exponential_lr(0.1, -0.5), "exponential_lr: expected gamma to be above 0, got -0.5"),
        (lambda: optim.constant_lr(0.1, 1.5), "constant_lr: expected factor to be above 0 and at most 1, got 1.5"),
        (lambda: optim.linear_lr(0.1, 0.0), "linear_lr: expected start_factor to be above 0"),
        (lambda: optim.linear_lr(0.1, end_factor=2.0), "linear_lr: expected end_factor to be 0 to 1, got 2.0"),
        (lambda: optim.polynomial_lr(0.1, power=-1.0), "polynomial_lr: expected power to be 0 or more"),
        (lambda: optim.cosine_annealing_lr(0.1, 0), "cosine_annealing_lr: expected T_max to be 1 or more"),
        (lambda: optim.cosine_annealing_warm_restarts(0.1, 0), "expected T_0 to be a whole number from 1, got 0"),
        (lambda: optim.one_cycle_lr(0.1), "expected total_steps, or epochs and steps_per_epoch, got neither"),
        (lambda: optim.one_cycle_lr(0.1, 10, pct_start=0.1), "expected phases of one step or more"),
        (lambda: optim.one_cycle_lr(0.1, 10, pct_start=2.0), "expected pct_start to be 0 to 1, got 2.0"),
        (lambda: optim.cyclic_lr(0.1, 0.2, 10, 0), "expected step_size_up and step_size_down above 0"),
        (lambda: optim.chained_lr(0.1, []), "chained_lr: expected one schedule or more, got none"),
        (lambda: optim.sequential_lr([optim.step_lr(0.1, 1)], [3]), "expected one milestone fewer than schedules"),
        (lambda: optim.sequential_lr([optim.step_lr(0.1, 1)] * 3, [3, 2]), "expected milestones that increase"),
    ],
)
def test_wrong_arguments_are_refused(call, words):
    with pytest.raises(ValueError, match=words.replace("(", r"\(")):
        call()
