"""PyTorch's schedulers that multiply the learning rate, and those that join other schedulers."""

import math
from collections.abc import Sequence

import jax.numpy as jnp
import optax

from flax_attn.layers.module import require
from flax_attn.optim.lr_scheduler.ratios import (
    Number,
    Schedule,
    constant_ratio,
    exponential_ratio,
    from_start,
    linear_ratio,
    multi_step_ratio,
    polynomial_ratio,
    step_ratio,
)


def step_lr(lr: Number, step_size: int, gamma: Number = 0.1) -> Schedule:
    """PyTorch's ``StepLR``: the learning rate is multiplied by ``gamma`` every ``step_size`` steps.

    Shapes: the count and the learning rate are scalars, or arrays of one shape.

    Raises:
        ValueError: ``step_size`` is below 1, or ``gamma`` is not above 0.

    Source: ``torch.optim.lr_scheduler.StepLR``.
    """
    return from_start(lr, step_ratio(step_size, gamma))


def multi_step_lr(lr: Number, milestones: Sequence[int], gamma: Number = 0.1) -> Schedule:
    """PyTorch's ``MultiStepLR``: the learning rate is multiplied by ``gamma`` at each milestone.

    Shapes: the count and the learning rate are scalars, or arrays of one shape.

    Raises:
        ValueError: ``gamma`` is not above 0.

    Source: ``torch.optim.lr_scheduler.MultiStepLR``.
    """
    first = gamma ** list(milestones).count(0)
    return from_start(lr * first, multi_step_ratio(milestones, gamma))


def constant_lr(lr: Number, factor: Number = 1.0 / 3, total_iters: int = 5) -> Schedule:
    """PyTorch's ``ConstantLR``: ``lr`` times ``factor`` for ``total_iters`` steps, then ``lr``.

    Shapes: the count and the learning rate are scalars, or arrays of one shape.

    Raises:
        ValueError: ``factor`` is not above 0, or is above 1.

    Source: ``torch.optim.lr_scheduler.ConstantLR``.
    """
    return from_start(lr * factor, constant_ratio(factor, total_iters))


def linear_lr(lr: Number, start_factor: Number = 1.0 / 3, end_factor: Number = 1.0, total_iters: int = 5) -> Schedule:
    """PyTorch's ``LinearLR``: ``lr`` times a factor that goes from ``start_factor`` to ``end_factor``.

    Shapes: the count and the learning rate are scalars, or arrays of one shape.

    Raises:
        ValueError: ``start_factor`` is not above 0, or is above 1; ``end_factor`` is not 0 to 1.

    Source: ``torch.optim.lr_scheduler.LinearLR``.
    """
    return from_start(lr * start_factor, linear_ratio(start_factor, end_factor, total_iters))


def exponential_lr(lr: Number, gamma: Number) -> Schedule:
    """PyTorch's ``ExponentialLR``: the learning rate is multiplied by ``gamma`` at each step.

    Shapes: the count and the learning rate are scalars, or arrays of one shape.

    Raises:
        ValueError: ``gamma`` is not above 0.

    Source: ``torch.optim.lr_scheduler.ExponentialLR``.
    """
    return from_start(lr, exponential_ratio(gamma))


def polynomial_lr(lr: Number, total_iters: int = 5, power: Number = 1.0) -> Schedule:
    """PyTorch's ``PolynomialLR``: ``lr`` times (1 - count / ``total_iters``) to the power ``power``, then 0.

    Shapes: the count and the learning rate are scalars, or arrays of one shape.

    Raises:
        ValueError: ``power`` is below 0.

    Source: ``torch.optim.lr_scheduler.PolynomialLR``.
    """
    return from_start(lr, polynomial_ratio(total_iters, power))


def sequential_lr(schedules: Sequence[Schedule], milestones: Sequence[int]) -> Schedule:
    """PyTorch's ``SequentialLR``: one schedule after the other. Each begins at its milestone with the count 0.

    Shapes: the count and the learning rate are scalars, or arrays of one shape.

    Raises:
        ValueError: the milestones are not one fewer than the schedules, or do not increase.

    Source: ``torch.optim.lr_scheduler.SequentialLR``.
    """
    fits = len(milestones) == len(schedules) - 1
    require(fits, f"sequential_lr: expected one milestone fewer than schedules, got {len(milestones)} milestones")
    rises = list(milestones) == sorted(milestones)
    require(rises, f"sequential_lr: expected milestones that increase, got {list(milestones)}")
    return optax.join_schedules(list(schedules), list(milestones))


def chained_lr(lr: Number, schedules: Sequence[Schedule]) -> Schedule:
    """PyTorch's ``ChainedScheduler``: ``lr`` times all ``schedules``, each of which was made for a learning rate of 1.

    The schedules are those that multiply: ``step_lr``, ``multi_step_lr``, ``constant_lr``, ``linear_lr``,
    ``exponential_lr`` and ``polynomial_lr``. A ``cosine_annealing_lr`` fits until its ``T_max``, if its ``eta_min``
    is 0. The other schedules of PyTorch set the learning rate, whatever came before them in the chain.

    Shapes: the count and the learning rate are scalars, or arrays of one shape.

    Raises:
        ValueError: there are no schedules.

    Source: ``torch.optim.lr_scheduler.ChainedScheduler``.
    """
    require(len(schedules) > 0, "chained_lr: expected one schedule or more, got none")
    return lambda count: math.prod((schedule(count) for schedule in schedules), start=jnp.asarray(lr))
