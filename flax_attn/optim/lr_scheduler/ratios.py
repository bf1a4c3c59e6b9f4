"""How PyTorch's chainable schedulers change the learning rate that an optimizer has.

Most of PyTorch's schedulers do not compute the learning rate: they multiply the present one. So a ratio is a function
of two epochs. ``ratio(start, epoch)`` is the learning rate at ``epoch`` divided by the one at ``start``, for
0 <= ``start`` <= ``epoch``. All functions here work elementwise, and inside ``jax.jit``.
"""

import math
from collections.abc import Callable, Sequence

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from flax_attn.layers.module import require

Number = int | float
Schedule = Callable[[ArrayLike], Array]
Ratio = Callable[[ArrayLike, ArrayLike], Array]


def real(x: ArrayLike) -> Array:
    """``x`` as float64, or as float32 where JAX does not have float64."""
    return jnp.asarray(x).astype(float)


def require_count(who: str, name: str, value: Number, least: int = 1) -> None:
    """Refuse a number of epochs that is below ``least``."""
    require(value >= least, f"{who}: expected {name} to be {least} or more, got {value}")


def from_start(lr: Number, ratio: Ratio, start: int = 0) -> Schedule:
    """The schedule that is ``lr`` at the count 0, which is the epoch ``start`` of ``ratio``."""
    return lambda count: lr * ratio(start, start + jnp.asarray(count))


def geometric_ratio(who: str, gamma: Number, drops: Callable[[ArrayLike], Array]) -> Ratio:
    """``gamma`` to the power of the drops after ``start``; ``drops(epoch)`` counts those up to ``epoch``."""
    require(gamma > 0, f"{who}: expected gamma to be above 0, got {gamma}")
    return lambda start, epoch: jnp.exp(real(drops(epoch) - drops(start)) * math.log(gamma))


def step_ratio(step_size: Number, gamma: Number) -> Ratio:
    """StepLR: ``gamma`` at every multiple of ``step_size``."""
    require_count("step_lr", "step_size", step_size)
    return geometric_ratio("step_lr", gamma, lambda epoch: jnp.asarray(epoch) // step_size)


def multi_step_ratio(milestones: Sequence[int], gamma: Number) -> Ratio:
    """MultiStepLR: ``gamma`` at every milestone, twice where a milestone is given twice."""
    reached = jnp.asarray([epoch for epoch in milestones if epoch >= 0], dtype=int)
    return geometric_ratio("multi_step_lr", gamma, lambda epoch: (jnp.asarray(epoch)[..., None] >= reached).sum(-1))


def exponential_ratio(gamma: Number) -> Ratio:
    """ExponentialLR: ``gamma`` at every epoch."""
    return geometric_ratio("exponential_lr", gamma, jnp.asarray)


def constant_ratio(factor: Number, total_iters: Number) -> Ratio:
    """ConstantLR: 1 / ``factor`` at the epoch ``total_iters``."""
    require(0 < factor <= 1, f"constant_lr: expected factor to be above 0 and at most 1, got {factor}")

    def ratio(start: ArrayLike, epoch: ArrayLike) -> Array:
        ends = (jnp.asarray(start) < total_iters) & (jnp.asarray(epoch) >= total_iters)
        return jnp.where(ends, real(1.0 / factor), 1.0)

    return ratio


def linear_ratio(start_factor: Number, end_factor: Number, total_iters: Number) -> Ratio:
    """LinearLR: a straight line from ``start_factor`` to ``end_factor``; no change from ``total_iters`` on."""
    fits = 0 < start_factor <= 1
    require(fits, f"linear_lr: expected start_factor to be above 0 and at most 1, got {start_factor}")
    require(0 <= end_factor <= 1, f"linear_lr: expected end_factor to be 0 to 1, got {end_factor}")

    def line(epoch: ArrayLike) -> Array:
        done = jnp.minimum(epoch, total_iters)
        return start_factor * real(total_iters - done) + end_factor * real(done)

    def ratio(start: ArrayLike, epoch: ArrayLike) -> Array:
        ended = jnp.asarray(start) >= total_iters
        return jnp.where(ended, 1.0, line(epoch) / jnp.where(ended, 1.0, line(start)))

    return ratio


def polynomial_ratio(total_iters: Number, power: Number) -> Ratio:
    """PolynomialLR: the share of epochs left, to the power ``power``; no change from ``total_iters`` on."""
    require(power >= 0, f"polynomial_lr: expected power to be 0 or more, got {power}")

    def ratio(start: ArrayLike, epoch: ArrayLike) -> Array:
        ended = jnp.asarray(start) >= total_iters
        left = real(jnp.maximum(total_iters - jnp.asarray(epoch), 0))
        return jnp.where(ended, 1.0, (left / jnp.where(ended, 1, total_iters - jnp.asarray(start))) ** power)

    return ratio
