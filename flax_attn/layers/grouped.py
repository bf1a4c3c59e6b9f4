"""Sums over groups of channels. Trap: a TPU pads the last axis of an array to 128, so that four channels in an axis of
their own take 32 times their size. There, the groups are columns of a matrix of zeros and ones."""

import functools
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from flax_attn.layers.conv import Conv2d
from flax_attn.layers.module import accumulator, contract, einsum


def members(channels: int, groups: int) -> Float[Array, "c g"]:
    """1 where the channel is in the group, else 0."""
    return (jnp.arange(channels)[:, None] // (channels // groups) == jnp.arange(groups)).astype(jnp.float32)


def weighted_group_sums(
    x: Float[Array, "n h w c"], weights: Float[Array, "n c"], groups: int
) -> Float[Array, "n h w g"]:
    """The sum of x times ``weights`` over the channels of each group, in float32 at least."""
    c = x.shape[-1]

    def split(x: Array, weights: Array) -> Array:
        wide = x.astype(accumulator(x.dtype))
        return (wide * weights[:, None, None]).reshape(*x.shape[:-1], groups, c // groups).sum(-1)

    def product(x: Array, weights: Array) -> Array:
        columns = weights.astype(x.dtype)[..., None] * members(c, groups).astype(x.dtype)
        precise = functools.partial(jnp.einsum, "nhwc,ncg->nhwg", precision=lax.Precision.HIGHEST)
        return contract(precise, x, columns)

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


class HeadMixer(Conv2d):
    """A 1x1 ``Conv2d`` that mixes the heads of each channel; its input has the channels head by head.

    A CPU brings the heads of a channel together. A TPU pads the array of that shape to 32 times its size: there the
    convolution is one matrix product, with zeros for all other channels.
    """

    def convolve(self, x: Array, kernel: Array, **geometry: Any) -> Array:
        def sorted_by_channel(x: Array, kernel: Array) -> Array:
            y = jnp.stack(jnp.split(x, x.shape[-1] // self.groups, -1), -1).reshape(x.shape)
            return super(HeadMixer, self).convolve(y, kernel, **geometry)

        def as_product(x: Array, kernel: Array) -> Array:
            own = members(self.out_channels, self.groups).T > 0
            each = jnp.where(own, kernel[0, 0][:, None], 0)  # (heads, groups, out_channels)
            return einsum("nhwi,io->nhwo", x, each.reshape(x.shape[-1], self.out_channels))

        return lax.platform_dependent(x, kernel, cpu=sorted_by_channel, default=as_product)
