"""PyTorch's learning rate schedulers with several settings each, and the schedules that must equal them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

from flax_attn import optim

torch = pytest.importorskip("torch")
lr_scheduler = torch.optim.lr_scheduler

LRS = (0.1, 0.00037)
"""The learning rates of two parameter groups."""

STEPS = 301
"""The steps from 0 to 300."""


class Case(NamedTuple):
    """A scheduler of PyTorch for an optimizer, and ours for the learning rate of a group."""

    torch: Callable[[Any], Any]
    flax: Callable[[float], Any]


def plain(ours, theirs, *args, **kwargs) -> Case:
    return Case(lambda optimizer: theirs(optimizer, *args, **kwargs), lambda lr: ours(lr, *args, **kwargs))


def sequence(optimizer):
    parts = [
        lr_scheduler.LinearLR(optimizer, 0.01, total_iters=20),
        lr_scheduler.CosineAnnealingLR(optimizer, 60, eta_min=1e-5),
        lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 9, T_mult=2),
        lr_scheduler.MultiStepLR(optimizer, [0, 7, 30]),
    ]
    return lr_scheduler.SequentialLR(optimizer, parts, milestones=[20, 120, 200])


def our_sequence(lr):
    parts = [
        optim.linear_lr(lr, 0.01, total_iters=20),
        optim.cosine_annealing_lr(lr, 60, eta_min=1e-5),
        optim.cosine_annealing_warm_restarts(lr, 9, T_mult=2),
        optim.multi_step_lr(lr, [0, 7, 30]),
    ]
    return optim.sequential_lr(parts, [20, 120, 200])


def at_the_start(optimizer):
    parts = [
        lr_scheduler.ConstantLR(optimizer),
        lr_scheduler.ConstantLR(optimizer, factor=0.5, total_iters=4),
        lr_scheduler.ExponentialLR(optimizer, 0.97),
    ]
    return lr_scheduler.SequentialLR(optimizer, parts, milestones=[0, 10])


def our_start(lr):
    parts = [optim.constant_lr(lr), optim.constant_lr(lr, 0.5, 4), optim.exponential_lr(lr, 0.97)]
    return optim.sequential_lr(parts, [0, 10])


def one_cycle(**arguments) -> Case:
    return Case(
        lambda optimizer: lr_scheduler.OneCycleLR(optimizer, list(LRS), **arguments),
        lambda lr: optim.one_cycle_lr(lr, **arguments),
    )


def cyclic(**arguments) -> Case:
    tops = {lr: 7 * lr for lr in LRS}
    return Case(
        lambda optimizer: lr_scheduler.CyclicLR(optimizer, list(LRS), list(tops.values()), **arguments),
        lambda lr: optim.cyclic_lr(lr, tops[lr], **arguments),
    )


CASES = {
    "StepLR": plain(optim.step_lr, lr_scheduler.StepLR, 30),
    "StepLR-7": plain(optim.step_lr, lr_scheduler.StepLR, 7, gamma=0.83),
    "StepLR-up": plain(optim.step_lr, lr_scheduler.StepLR, 50, gamma=1.5),
    "MultiStepLR": plain(optim.multi_step_lr, lr_scheduler.MultiStepLR, [30, 80, 150]),
    "MultiStepLR-twice": plain(optim.multi_step_lr, lr_scheduler.MultiStepLR, [0, 9, 9, 57, 58], gamma=0.3),
    "MultiStepLR-none": plain(optim.multi_step_lr, lr_scheduler.MultiStepLR, []),
    "ConstantLR": plain(optim.constant_lr, lr_scheduler.ConstantLR),
    "ConstantLR-57": plain(optim.constant_lr, lr_scheduler.ConstantLR, 0.01, 57),
    "LinearLR": plain(optim.linear_lr, lr_scheduler.LinearLR),
    "LinearLR-down": plain(optim.linear_lr, lr_scheduler.LinearLR, 1.0, 0.05, 200),
    "LinearLR-zero": plain(optim.linear_lr, lr_scheduler.LinearLR, 0.001, 0.5, 0),
    "ExponentialLR": plain(optim.exponential_lr, lr_scheduler.ExponentialLR, 0.95),
    "ExponentialLR-fast": plain(optim.exponential_lr, lr_scheduler.ExponentialLR, 0.1),
    "PolynomialLR": plain(optim.polynomial_lr, lr_scheduler.PolynomialLR),
    "PolynomialLR-0.9": plain(optim.polynomial_lr, lr_scheduler.PolynomialLR, 250, power=0.9),
    "PolynomialLR-2": plain(optim.polynomial_lr, lr_scheduler.PolynomialLR, 301, power=2.0),
    "CosineAnnealingLR": plain(optim.cosine_annealing_lr, lr_scheduler.CosineAnnealingLR, 100),
    "CosineAnnealingLR-300": plain(optim.cosine_annealing_lr, lr_scheduler.CosineAnnealingLR, 300),
    "CosineAnnealingLR-150": plain(optim.cosine_annealing_lr, lr_scheduler.CosineAnnealingLR, 150),
    "CosineAnnealingLR-7": plain(optim.cosine_annealing_lr, lr_scheduler.CosineAnnealingLR, 7, eta_min=1e-3),
    "CosineAnnealingLR-1": plain(optim.cosine_annealing_lr, lr_scheduler.CosineAnnealingLR, 1),
    "CosineAnnealingWarmRestarts": plain(
        optim.cosine_annealing_warm_restarts, lr_scheduler.CosineAnnealingWarmRestarts, 50
    ),
    "CosineAnnealingWarmRestarts-2": plain(
        optim.cosine_annealing_warm_restarts, lr_scheduler.CosineAnnealingWarmRestarts, 10, T_mult=2, eta_min=1e-5
    ),
    "CosineAnnealingWarmRestarts-1": plain(
        optim.cosine_annealing_warm_restarts, lr_scheduler.CosineAnnealingWarmRestarts, 1, T_mult=3
    ),
    "OneCycleLR": one_cycle(total_steps=300),
    "OneCycleLR-three": one_cycle(epochs=10, steps_per_epoch=31, three_phase=True, pct_start=0.21),
    "OneCycleLR-linear": one_cycle(total_steps=300, anneal_strategy="linear", div_factor=10.0, final_div_factor=1e3),
    "OneCycleLR-no-rise": one_cycle(total_steps=333, pct_start=0.0),
    "CyclicLR": cyclic(step_size_up=20),
    "CyclicLR-2": cyclic(step_size_up=13, step_size_down=29, mode="triangular2"),
    "CyclicLR-exp": cyclic(step_size_up=31, mode="exp_range", gamma=0.99),
    "SequentialLR": Case(sequence, our_sequence),
    "SequentialLR-0": Case(at_the_start, our_start),
}


def chain(*makers) -> Callable[[Any], Any]:
    """A ChainedScheduler: it has no function here, only a state dict."""
    return lambda optimizer: lr_scheduler.ChainedScheduler([make(optimizer) for make in makers], optimizer)


CHAINS = {
    "factors": chain(
        lambda o: lr_scheduler.ConstantLR(o, 0.1, 20),
        lambda o: lr_scheduler.ExponentialLR(o, 0.98),
        lambda o: lr_scheduler.MultiStepLR(o, [60, 61], gamma=0.5),
    ),
    "warm-up": chain(lambda o: lr_scheduler.LinearLR(o, 0.01, total_iters=80), lambda o: cosine(o, 300)),
    "many periods": chain(
        lambda o: lr_scheduler.StepLR(o, 28, gamma=0.7),
        lambda o: cosine(o, 27),
        lambda o: lr_scheduler.StepLR(o, 28, gamma=0.9),
        lambda o: lr_scheduler.PolynomialLR(o, 280),
    ),
}


def cosine(optimizer, period):
    return lr_scheduler.CosineAnnealingLR(optimizer, period)


def optimizer_with(lrs=LRS, adam=False):
    """An optimizer with a parameter group for each learning rate, that has taken a step."""
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in lrs]
    optimizer = torch.optim.Adam(groups) if adam else torch.optim.SGD(groups, lr=0.5, momentum=0.9)
    optimizer.step()
    return optimizer


def started(make, adam=False):
    """PyTorch's scheduler, at its start."""
    scheduler = make(optimizer_with(adam=adam))
    scheduler.optimizer.step()
    return scheduler


def lrs_of(scheduler, steps: int) -> list[list[float]]:
    """The learning rates of each group: the present ones, and those after each of ``steps - 1`` steps."""
    rows = []
    for index in range(steps):
        if index:
            scheduler.step()
        rows.append([float(group["lr"]) for group in scheduler.optimizer.param_groups])
    return [list(row) for row in zip(*rows, strict=True)]


def assert_lrs(actual, expected, rtol=1e-12):
    """Each group has its learning rates. Where PyTorch's rounding leaves almost 0, that is compared with the base."""
    assert len(actual) == len(expected)
    for ours, theirs, lr in zip(actual, expected, LRS, strict=False):
        np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=1e-15 * lr)
