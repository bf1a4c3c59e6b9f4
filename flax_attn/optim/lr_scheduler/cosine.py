"""PyTorch's cosine annealing: CosineAnnealingLR and CosineAnnealingWarmRestarts."""

import math

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from flax_attn.layers.module import require
from flax_attn.optim.lr_scheduler.ratios import Number, Schedule, real, require_count

LAST_COUNT = 2**31 - 1
"""The largest count of an optax state: an int32."""

PERIODS = 100
"""The periods whose height is known with PyTorch's rounding; the later ones have that of the last of these."""


def one_plus_cos(done: ArrayLike, total: ArrayLike) -> Array:
    """1 + cos(pi * done / total), elementwise, from 2 sin(pi / 2 * (total - done) / total)^2, which loses no digits.

    PyTorch adds 1 to a cosine near -1. In float64 the result is rounded as there: to a multiple of 1e-16.
    """
    left = jnp.mod(2 * total - jnp.asarray(done), 2 * total) - total
    exact = 2 * jnp.sin(math.pi / 2 * real(left) / total) ** 2
    return 1 + (exact - 1) if exact.dtype == jnp.float64 else exact


def annealed(lr: Number, base_lr: Number, T_max: Number, eta_min: Number = 0.0, *, start: int = 0) -> Schedule:
    """CosineAnnealingLR from an optimizer that has the learning rate ``lr`` at the epoch ``start``.

    PyTorch multiplies the distance of the present learning rate from ``eta_min``. Only after a low point, where that
    distance is 0, it starts anew from ``base_lr``. The low points are the epochs ``T_max``, 3 ``T_max``, 5 ``T_max``.

    Args:
        base_lr: the learning rate at the epoch 0.
        start: the epoch at the count 0.
    """
    require_count("cosine_annealing_lr", "T_max", T_max)
    rise = (base_lr - eta_min) * (1 - math.cos(math.pi / T_max)) / 2
    starts_low = (start - T_max) % (2 * T_max) == 0
    origin = start + 1 if starts_low else start
    height = lr - eta_min + rise if starts_low else lr - eta_min
    low = start + 2 * T_max if starts_low else start + (T_max - start) % (2 * T_max)
    heights = [
        1 + math.cos(math.pi * at / T_max) for at in (origin, *(low + 1 + 2 * T_max * k for k in range(PERIODS)))
    ]

    def schedule(count: ArrayLike) -> Array:
        epoch = start + jnp.asarray(count)
        period = jnp.maximum((epoch - low - 1) // (2 * T_max) + 1, 0)
        scale = one_plus_cos(epoch, T_max) / jnp.asarray(heights)[jnp.minimum(period, PERIODS).astype(int)]
        scale = jnp.where((period > 0) & ((epoch - low - 1) % (2 * T_max) == 0), 1.0, scale)
        value = eta_min + jnp.where(period == 0, height, rise) * scale
        return jnp.where(epoch == start, lr, value)

    return schedule


def cosine_annealing_lr(lr: Number, T_max: Number, eta_min: Number = 0.0) -> Schedule:
    """PyTorch's ``CosineAnnealingLR``: half a cosine from ``lr`` to ``eta_min`` in ``T_max`` steps, then back up.

    Shapes: the count and the learning rate are scalars, or arrays of one shape.

    Raises:
        ValueError: ``T_max`` is below 1.

    Source: ``torch.optim.lr_scheduler.CosineAnnealingLR``, in its recursive form.
    """
    return annealed(lr, lr, T_max, eta_min)


def cosine_annealing_warm_restarts(lr: Number, T_0: int, T_mult: int = 1, eta_min: Number = 0.0) -> Schedule:
    """PyTorch's ``CosineAnnealingWarmRestarts``: half a cosine from ``lr`` to ``eta_min``, again and again.

    The count may have a fraction, as where PyTorch's scheduler is called with ``step(epoch + i / iters)``.

    Args:
        T_0: the length of the first period.
        T_mult: each period is so many times as long as the one before.

    Shapes: the count and the learning rate are scalars, or arrays of one shape.

    Raises:
        ValueError: ``T_0`` or ``T_mult`` is below 1, or has a fraction.

    Source: ``torch.optim.lr_scheduler.CosineAnnealingWarmRestarts``.
    """
    for name, value in (("T_0", T_0), ("T_mult", T_mult)):
        whole = value >= 1 and value == int(value)
        require(whole, f"cosine_annealing_warm_restarts: expected {name} to be a whole number from 1, got {value}")
    lengths, starts = [T_0], [0]
    while T_mult > 1 and starts[-1] + lengths[-1] <= LAST_COUNT:
        starts.append(starts[-1] + lengths[-1])
        lengths.append(min(lengths[-1] * T_mult, LAST_COUNT))

    def schedule(count: ArrayLike) -> Array:
        period = (jnp.asarray(count)[..., None] >= jnp.asarray(starts)).sum(-1) - 1
        length = jnp.asarray(lengths)[jnp.maximum(period, 0)]
        done = (jnp.asarray(count) - jnp.asarray(starts)[jnp.maximum(period, 0)]) % length
        return eta_min + (lr - eta_min) * one_plus_cos(done, length) / 2

    return schedule
