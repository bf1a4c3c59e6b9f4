"""Sums over groups of channels. Traps: a TPU pads the last axis of an array to 128, so that four channels in an axis of
their own take 32 times their size. There, the groups are columns of a matrix of zeros and ones. A CPU takes 8 times as
long for a sum over an axis of four as for three additions."""

import functools
import operator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from flax_attn.layers.conv import Conv2d
from flax_attn.layers.module import accumulator, contract, einsum

FEW = 8
"""The length of the last axis up to which ``sum_last`` adds slices."""


@jax.custom_jvp
def sum_last(x: Array) -> Array:
    """The sum over the last axis, as a CPU computes it best."""
    if not 1 <= x.shape[-1] <= FEW:
        return x.sum(-1)
    return functools.reduce(operator.add, (x[..., i] for i in range(x.shape[-1])))


@sum_last.defjvp
def _sum_last_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    """The transpose of a sum is a broadcast; that of slices would be a sum of padded arrays."""
    return sum_last(*primals), tangents[0].sum(-1)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def repeat_last(x: Array, times: int) -> Array:
    """x (...) in a new last axis ``times`` long."""
    return jnp.broadcast_to(x[..., None], (*x.shape, times))


@repeat_last.defjvp
def _repeat_last_jvp(times: int, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    """The transpose of a stack adds slices, as ``sum_last`` does; that of a broadcast would be a sum."""
    (x,), (dx,) = primals, tangents
    y = repeat_last(x, times)
    return y, jnp.stack([dx] * times, -1) if 1 <= times <= FEW else jnp.broadcast_to(dx[..., None], y.shape)


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
        return sum_last((wide * weights[:, None, None]).reshape(*x.shape[:-1], groups, c // groups))

    def product(x: Array, weights: Array) -> Array:
        high = weights.astype(x.dtype)
        parts = [high] if x.dtype == weights.dtype else [high, (weights - high).astype(x.dtype)]
        columns = [part[..., None] * members(c, groups).astype(x.dtype) for part in parts]
        precise = functools.partial(jnp.einsum, "nhwc,ncg->nhwg", precision=lax.Precision.HIGHEST)
        return functools.reduce(jnp.add, [contract(precise, x, column) for column in columns])

    return lax.platform_dependent(x, weights, cpu=split, default=product)


def scale_groups(x: Float[Array, "n h w c"], gate: Float[Array, "n h w g"]) -> Float[Array, "n h w c"]:
    """x with the channels of each group multiplied by the gate of the group; both of one dtype."""
    groups = gate.shape[-1]

    def split(x: Array, gate: Array) -> Array:
        each = x.shape[-1] // groups
        return (x.reshape(*gate.shape, each) * repeat_last(gate, each)).reshape(x.shape)

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
