"""Criss-Cross Attention for Semantic Segmentation - Huang, Wang, Wei et al. 2020, https://arxiv.org/abs/1811.11721

Follows: speedinghzl/CCNet. The energies are not scaled by 1/sqrt(d), as in that code.
Differs: upstream's 3D form counts the position itself twice and permutes one axis wrongly; ``CrissCrossAttention3D``
attends along the three axes and counts the position once.
"""

import dataclasses
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from flax_attn.blocks.danet import PAM_Module
from flax_attn.blocks.inplace_abn import ABN, InPlaceABN
from flax_attn.layers import Conv2d, Conv3d, Dropout2d, Module, Sequential, einsum, require, require_floats, softmax
from flax_attn.layers.lines import check_line_block, in_blocks, needs_blocks, own_position, turn, weighted_lines
from flax_attn.shapes import Image, ScoreMap, Volume

Row = Float[Array, "n h w w"]
Column = Float[Array, "n h w h"]


def criss_cross_attention(
    query: Float[Array, "n h w d"],
    key: Float[Array, "n h w d"],
    value: Image,
    *,
    attention_weights: bool = False,
    mesh_axis: str | None = None,
    line_block: int | None = None,
) -> Image | tuple[Image, Row, Column]:
    """The weighted mean of ``value`` over the row and the column of each position, with weights softmax(query . key).

    A position counts itself once, in its row. Sums are float32 at least. Integers are refused. The gradient keeps the
    arguments and the weights, h * w * (h + w) numbers for each sample. Blocks of lines compute the weights again.

    Args:
        attention_weights: whether to return also the weights of each position for its row (n, h, w, w) and for its
            column (n, h, w, h). They need all lines at one time.
        mesh_axis: the mesh axis over which h is sharded. The column pass is then sharded over w, with an all-to-all
            before and after it. A mesh with explicit axes does not need it.
        line_block: how many rows, and then how many columns, are computed at one time; 0 for all. None: all where h or
            w is sharded, and where a pass has at most 2**24 weights; else as many as have 2**24 weights. ValueError if
            it is negative, or above 0 with ``attention_weights`` or a sharded h or w.
    """
    require_floats("criss_cross_attention", query, key, value)
    query, key, value = map(jnp.asarray, (query, key, value))
    if needs_blocks(query, line_block, attention_weights, mesh_axis):
        return in_blocks(query, key, value, line_block)
    out, row, column = with_weights(query, key, value, mesh_axis)
    return (out, row, column) if attention_weights else out


def with_weights(
    query: Float[Array, "n h w d"], key: Float[Array, "n h w d"], value: Image, mesh_axis: str | None
) -> tuple[Image, Row, Column]:
    """The weighted mean with all lines at one time, and the weights for the row and the column of each position."""
    turned = partial(turn, mesh_axis=mesh_axis)
    row = einsum("nhwd,nhvd->nhwv", query, key, wide=True)
    column = einsum("nwhd,nwgd->nwhg", turned(query), turned(key), wide=True)
    column += own_position(column.shape[-1])
    row, column = joint_softmax(row, column, value.dtype, mesh_axis)
    along_column = turned(weighted_lines(column, turned(value)))
    return along_column + weighted_lines(row, value), row, turned(column)


@partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def joint_softmax(
    row: Float[Array, "n h w w"], column: Float[Array, "n w h h"], dtype: DTypeLike, mesh_axis: str | None
) -> tuple[Float[Array, "n h w w"], Float[Array, "n w h h"]]:
    """Softmax over both last axes together, by one shared maximum and one shared denominator."""
    turned = partial(turn, mesh_axis=mesh_axis)
    top = jnp.maximum(row.max(-1), turned(column.max(-1)))
    row, column = jnp.exp(row - top[..., None]), jnp.exp(column - turned(top)[..., None])
    total = row.sum(-1) + turned(column.sum(-1))
    return (row / total[..., None]).astype(dtype), (column / turned(total)[..., None]).astype(dtype)


@joint_softmax.defjvp
def _joint_softmax_jvp(dtype, mesh_axis, primals, tangents):
    weights = joint_softmax(*primals, dtype, mesh_axis)

    @jax.checkpoint
    def tangent(row: Array, column: Array, d_row: Array, d_column: Array) -> tuple[Array, Array]:
        mean = (row * d_row).sum(-1) + turn((column * d_column).sum(-1), mesh_axis)
        d_row, d_column = row * (d_row - mean[..., None]), column * (d_column - turn(mean, mesh_axis)[..., None])
        return d_row.astype(dtype), d_column.astype(dtype)

    return weights, tangent(*weights, *tangents)


def ca_weight(query: Float[Array, "n h w d"], key: Float[Array, "n h w d"]) -> Float[Array, "n h w e"]:
    """Energies in the order of the published kernels: the w of the row, then the other h - 1 of the column."""
    row = einsum("nhwd,nhvd->nhwv", query, key)
    column = einsum("nhwd,ngwd->nhwg", query, key)
    return jnp.concatenate([row, jnp.take_along_axis(column, others(query.shape[1])[None, :, None], -1)], -1)


def ca_map(weight: Float[Array, "n h w e"], value: Image) -> Image:
    """The sum of ``value`` over row and column, weighted in the order of ``ca_weight``."""
    h, w = value.shape[1:3]
    column = einsum("nhwe,nhewc->nhwc", weight[..., w:], value[:, others(h)])
    return einsum("nhwv,nhvc->nhwc", weight[..., :w], value) + column


def others(h: int) -> np.ndarray:
    """(h, h - 1): row y holds all numbers below h except y."""
    return np.array([[i for i in range(h) if i != y] for y in range(h)], dtype=int).reshape(h, h - 1)


class CrissCrossAttention(PAM_Module):
    """x plus ``gamma`` times the values of each pixel's row and column, weighted by a softmax of query . key.

    Args:
        mesh_axis, line_block: those of ``criss_cross_attention``. A call with ``attention_weights=True`` computes all
            lines at one time.

    With ``attention_weights=True`` the result is x and what each pixel gives to its row (n, h, w, w) and to its column
    (n, h, w, h).
    """

    query_block: ClassVar[None] = None  # type: ignore[misc]
    mesh_axis: str | None = dataclasses.field(default=None, kw_only=True)
    line_block: int | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_line_block("CrissCrossAttention", self.line_block, self.mesh_axis)

    def __call__(  # type: ignore[override]
        self, x: Image, train: bool = False, attention_weights: bool = False
    ) -> Image | tuple[Image, Row, Column]:
        x, gamma = self.promote(x, self.gamma)
        projected = self.query_conv(x), self.key_conv(x), self.value_conv(x)
        if attention_weights:
            mean, row, column = with_weights(*projected, self.mesh_axis)
            return gamma * mean + x, row, column
        out: Any = criss_cross_attention(*projected, mesh_axis=self.mesh_axis, line_block=self.line_block)
        return gamma * out + x


class CrissCrossAttention3D(PAM_Module):
    """x (n, d, h, w, c) plus ``gamma`` times the values along each voxel's three axes, weighted as in 2D.

    With ``attention_weights=True`` the call returns also what each voxel gives to its row (n, d, h, w, w), to its
    column (n, d, h, w, h) and to its line along the depth (n, d, h, w, d).
    """

    conv = Conv3d
    query_block: ClassVar[None] = None  # type: ignore[misc]

    def __call__(  # type: ignore[override]
        self, x: Volume, train: bool = False, attention_weights: bool = False
    ) -> Volume | tuple[Volume, Float[Array, "n d h w w"], Float[Array, "n d h w h"], Float[Array, "n d h w d"]]:
        x, gamma = self.promote(x, self.gamma)
        query, key, value = self.query_conv(x), self.key_conv(x), self.value_conv(x)
        d, h = x.shape[1:3]
        depth = einsum("ndhwc,nehwc->ndhwe", query, key, wide=True)
        depth += own_position(d)[:, None, None]
        column = einsum("ndhwc,ndgwc->ndhwg", query, key, wide=True)
        column += own_position(h)[:, None]
        row = einsum("ndhwc,ndhvc->ndhwv", query, key, wide=True)
        weights = softmax(jnp.concatenate([depth, column, row], -1)).astype(x.dtype)
        depth, column, row = jnp.split(weights, (d, d + h), -1)
        out = einsum("ndhwe,nehwc->ndhwc", depth, value)
        out += einsum("ndhwg,ndgwc->ndhwc", column, value)
        out += einsum("ndhwv,ndhvc->ndhwc", row, value)
        y = gamma * out + x
        return (y, row, column, depth) if attention_weights else y


class RCCAModule(Module):
    """Class scores of each pixel of x (n, h, w, in_channels): convolutions around criss-cross attention.

    ``recurrence`` of the call says how often the attention is applied, with the same weights.

    Args:
        inplace_abn: whether the normalisations scale by |weight| + eps, as InPlaceABN does; False for a checkpoint of
            plain BatchNorm, and for one whose weights were replaced by |weight| + eps.
        activation: "leaky_relu"; "relu", with ``inplace_abn=False``, for mmseg's CCHead.
        dropout: the probability with which a channel in front of the classifier is dropped.

    With ``attention_weights=True`` the call returns also, for each time that the attention is applied, a pair: what
    each pixel gives to its row (n, h, w, w) and to its column (n, h, w, h).
    """

    in_channels: int
    out_channels: int
    num_classes: int
    inplace_abn: bool = True
    activation: str = "leaky_relu"
    dropout: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.in_channels >= 32, f"RCCAModule: expected in_channels >= 32, got {self.in_channels}")

    def setup(self) -> None:
        inner = self.in_channels // 4
        norm = partial(InPlaceABN if self.inplace_abn else ABN, activation=self.activation)
        self.conva = Sequential([Conv2d(self.in_channels, inner, 3, padding=1, bias=False), norm(inner)])
        self.cca = CrissCrossAttention(inner)
        self.convb = Sequential([Conv2d(inner, inner, 3, padding=1, bias=False), norm(inner)])
        self.bottleneck = Sequential(
            [
                Conv2d(self.in_channels + inner, self.out_channels, 3, padding=1, bias=False),
                norm(self.out_channels),
                Dropout2d(self.dropout),
                Conv2d(self.out_channels, self.num_classes, 1),
            ]
        )

    def __call__(
        self, x: Image, recurrence: int = 1, train: bool = False, attention_weights: bool = False
    ) -> ScoreMap | tuple[ScoreMap | tuple[Row, Column], ...]:
        x = self.cast(x)
        y: Any = self.conva(x, train)
        maps = []
        for _ in range(max(recurrence, self.is_initializing())):
            y = self.cca(y, attention_weights=attention_weights)
            if attention_weights:
                y, *weights = y
                maps.append(tuple(weights))
        y = self.convb(y, train)
        y = self.bottleneck(jnp.concatenate([x, y], -1), train)
        return (y, *maps) if attention_weights else y
