"""PyTorch's initialisers for kernels whose last axes are (in, out): same distribution, other bits."""

import math

import jax
import jax.numpy as jnp
from flax.linen.initializers import constant, normal, ones, zeros  # noqa: F401
from jax.typing import DTypeLike
from jaxtyping import Array

from flax_attn.layers.module import Initializer


def uniform(low: float, high: float) -> Initializer:
    """U(low, high)."""

    def init(key: Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, low, high)

    return init


def fan_in_uniform(fan_in: int) -> Initializer:
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)): what torch's Linear and Conv do for weight and bias alike."""
    return uniform(-(fan_in**-0.5), fan_in**-0.5) if fan_in else zeros


def xavier_uniform() -> Initializer:
    """U(-b, b) with b = sqrt(6 / (fan_in + fan_out)): torch's ``xavier_uniform_``."""

    def init(key: Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Array:
        bound = math.sqrt(6 / (math.prod(shape[:-2]) * sum(shape[-2:])))
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def kaiming_uniform(a: float = 0.0) -> Initializer:
    """U(-b, b) with b = sqrt(6 / ((1 + a^2) fan_in)): torch's ``kaiming_uniform_`` for leaky ReLU of slope ``a``."""

    def init(key: Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Array:
        bound = math.sqrt(6 / ((1 + a**2) * math.prod(shape[:-1])))
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def kaiming_normal(mode: str = "fan_in") -> Initializer:
    """N(0, 2/fan), not truncated: torch's ``kaiming_normal_`` for relu; ``mode`` is "fan_in" or "fan_out"."""

    def init(key: Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Array:
        fan = math.prod(shape[:-2]) * shape[-2 if mode == "fan_in" else -1]
        return jax.random.normal(key, shape, dtype) * math.sqrt(2 / fan)

    return init
