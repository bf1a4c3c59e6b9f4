"""Activations. Trap: ``flax.linen.gelu`` is the tanh approximation, ``torch.nn.GELU`` is exact."""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.nn import log_softmax, relu, sigmoid  # noqa: F401
from jaxtyping import Array


def gelu(x: Array) -> Array:
    """x * Phi(x) with the error function, in float32 at least."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return (0.5 * wide * (1 + lax.erf(wide / math.sqrt(2)))).astype(x.dtype)


def leaky_relu(x: Array, negative_slope: float = 0.01) -> Array:
    """x where positive, ``negative_slope * x`` elsewhere."""
    return jax.nn.leaky_relu(x, negative_slope)
