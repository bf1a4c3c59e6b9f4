"""Flattening. Trap: a Linear trained on a flattened NCHW tensor expects channel-major order."""

import jax.numpy as jnp
from jaxtyping import Array


def flatten(x: Array) -> Array:
    """(n, *space, c) -> (n, c*space) in the order in which torch flattens (n, c, *space)."""
    return jnp.moveaxis(x, -1, 1).reshape(x.shape[0], -1)
