"""Sums over groups of channels. Trap: a TPU pads the last axis of an array to 128, so that four channels in an axis of
their own take 32 times their size. There, the groups are columns of a matrix of zeros and ones."""

import functools

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from flax_attn.layers.module import accumulator, contract


def members(channels: int, groups: int) -> Float[Array, "c g"]:
    """1 where the channel is in the group, else 0."""
    return (jnp.arange(channels)[:, None] // (channels // groups) == jnp.arange(groups)).astype(jnp.float32)


def weighted_group_sums(
    x: Float[Array, "n h w c"], weights: Float[Array, "n c"], groups: int
) -> Float[Array, "n h w g"]:
    """The sum of x times ``weights`` over the channels of each group, in float32 at least."""
    n, c = weights.shape

    def split(x: Array, weights: Array) -> Array:
        wide = x.astype(accumulator(x.dtype))
        return (wide * weights[:, None, None]).reshape(*x.shape[:-1], groups, c // groups).sum(-1)

    def product(x: Array, weights: Array) -> Array:
        high = weights.astype(x.dtype)
        parts = [high] if x.dtype == weights.dtype else [high, (weights - high).astype(x.dtype)]
        columns = [part[..., None] * members(c, groups).astype(x.dtype) for part in parts]
        precise = functools.partial(jnp.einsum, "nhwc,ncg->nhwg", precision=lax.Precision.HIGHEST)
        return sum(contract(precise, x, column) for column in columns)

    return lax.platform_dependent(x, weights, cpu=split, default=product)


def scale_groups(x: Float[Array, "n h w c"], gate: Float[Array, "n h w g"]) -> Float[Array, "n h w c"]:
    """x with the channels of each group multiplied by the gate of the group; both of one dtype."""
    groups = gate.shape[-1]

    def split(x: Array, gate: Array) -> Array:
        return (x.reshape(*gate.shape, -1) * gate[..., None]).reshape(x.shape)

    def product(x: Array, gate: Array) -> Array:
        precise = functools.partial(jnp.einsum, "nhwg,cg->nhwc", precision=lax.Precision.HIGHEST)
        return x * contract(precise, gate, members(x.shape[-1], groups).astype(x.dtype)).astype(x.dtype)

    return lax.platform_dependent(x, gate, cpu=split, default=product)
