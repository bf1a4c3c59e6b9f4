"""Activations. Trap: ``flax.linen.gelu`` is the tanh approximation, ``torch.nn.GELU`` is exact."""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.nn import relu, sigmoid  # noqa: F401
from jaxtyping import Array

from flax_attn.layers.module import accumulator


def gelu(x: Array) -> Array:
    """x * Phi(x) with the error function, in float32 at least."""
    wide = x.astype(accumulator(x.dtype))
    return (0.5 * wide * (1 + lax.erf(wide / math.sqrt(2)))).astype(x.dtype)


def leaky_relu(x: Array, negative_slope: float = 0.01) -> Array:
    """x where positive, ``negative_slope * x`` elsewhere; the gradient at 0 is the slope, which in JAX's it is not."""
    return jnp.where(x > 0, x, negative_slope * x)


def log_softmax(x: Array, axis: int | tuple[int, ...] = -1) -> Array:
    """The logarithm of softmax over ``axis``, in float32 at least."""
    return jax.nn.log_softmax(x.astype(accumulator(x.dtype)), axis=axis).astype(x.dtype)
