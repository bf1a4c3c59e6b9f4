"""Flattening, and the order of axes. Trap: a Linear trained on a flattened NCHW tensor expects channel-major order."""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array

from flax_attn.layers.module import require


def flatten(x: Array) -> Array:
    """(n, *space, c) -> (n, c*space) in the order in which torch flattens (n, c, *space)."""
    return jnp.moveaxis(x, -1, 1).reshape(x.shape[0], -1)


def check_padding(expected: str, mask: Array | None, shape: Sequence[int], batch_first: bool = True) -> None:
    """Refuse a mask of padded tokens that is not (n, l).

    Args:
        expected: the begin of the message: who expected what.
        shape: the shape of the tokens: (n, l, c) with ``batch_first``, else (l, n, c).
    """
    if mask is None:
        return
    n, l = shape[:2] if batch_first else shape[1::-1]  # noqa: E741
    order, other = ("(n, l, c)", "(l, n, c)") if batch_first else ("(l, n, c)", "(n, l, c)")
    swapped = f"; the tokens {tuple(shape)} look like {other}, give them as {order}" if mask.shape == (l, n) else ""
    require(mask.shape == (n, l), f"{expected} of shape (n, l) = {(n, l)}, got {mask.shape}{swapped}")
