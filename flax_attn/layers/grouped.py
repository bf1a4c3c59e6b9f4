"""Sums over groups of channels. Traps: a TPU pads the last axis of an array to 128, so that four channels in an axis of
their own take 32 times their size. There, the groups are columns of a matrix of zeros and ones. A CPU takes longer
for a sum over an axis of four than for three additions."""

import functools
import operator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from flax_attn.layers.conv import Conv2d
from flax_attn.layers.convolution import convolution
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
        columns = weights.astype(x.dtype)[..., None] * members(c, groups).astype(x.dtype)
        precise = functools.partial(jnp.einsum, "nhwc,ncg->nhwg", precision=lax.Precision.HIGHEST)
        return contract(precise, x, columns)

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


@jax.custom_jvp
def mixed_heads(x: Float[Array, "n h w c"], kernel: Float[Array, "1 1 heads o"]) -> Float[Array, "n h w o"]:
    """The 1x1 convolution of ``HeadMixer``: heads are pixels side by side, and each channel has a kernel of its own."""
    n, h, w, c = x.shape
    heads, outputs = kernel.shape[2:]
    product = functools.partial(
        convolution,
        strides=(1, heads),
        pads=((0, 0), (0, 0)),
        dilation=(1, 1),
        lhs_dilation=(1, 1),
        groups=c // heads,
    )
    y = contract(product, x.reshape(n, h, w * heads, c // heads), kernel.reshape(1, heads, 1, outputs))
    return y.astype(x.dtype)


@mixed_heads.defjvp
def _mixed_heads_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    """The gradient of x is that of the matrix product: a CPU takes longer for that of the convolution."""
    (x, kernel), (dx, dkernel) = primals, tangents
    return mixed_heads(x, kernel), mixed_product(dx, kernel) + mixed_heads(x, dkernel)


def mixed_product(x: Float[Array, "n h w c"], kernel: Float[Array, "1 1 heads o"]) -> Float[Array, "n h w o"]:
    """``mixed_heads`` as one matrix product, with zeros for all other channels."""
    channels, (heads, outputs) = x.shape[-1], kernel.shape[2:]
    own = members(outputs, channels // heads).T > 0
    each = jnp.where(own, kernel[0, 0][:, None], 0)  # (heads, groups, outputs)
    return einsum("nhwi,io->nhwo", x, each.reshape(channels, outputs))


class HeadMixer(Conv2d):
    """A 1x1 ``Conv2d`` that mixes the heads of each channel; its input has the channels head by head.

    A TPU pads an array with an axis of heads to 32 times its size: it gets a matrix product. ``jax.checkpoint`` keeps
    only x and the kernel for the gradient on a CPU: all else that is kept would be zeros in the program of a TPU.
    """

    def convolve(self, x: Array, kernel: Array, **geometry: Any) -> Array:
        on_cpu = jax.checkpoint(mixed_heads, prevent_cse=False)
        return lax.platform_dependent(x, kernel, cpu=on_cpu, default=mixed_product)
