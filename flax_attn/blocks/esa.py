"""Lesion-aware Dynamic Kernel for Polyp Segmentation - Zhang et al. 2022, https://arxiv.org/abs/2301.04904

Follows: ReaFly/LDNet, whose names are ``ESA_layer``, ``ESA_blcok``, ``LCA_layer`` and ``LCA_blcok``. As upstream, there
is no norm in front of the attention. The softmax of ``LCA`` runs over a single key, so that its weights are all 1: its
projections of queries and keys change nothing.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from flax_attn.blocks.non_local import tokens
from flax_attn.layers import (
    Conv2d,
    Dropout,
    LayerNorm,
    Linear,
    Module,
    Sequential,
    adaptive_avg_pool,
    check_query_block,
    einsum,
    gelu,
    require,
    sigmoid,
    softmax,
    weighted_sum,
)
from flax_attn.layers.layout import join_heads, split_heads
from flax_attn.shapes import Image, PixelMap, Tokens


def mask_pool(x: Image, weight: PixelMap) -> Float[Array, "n 1 c"]:
    """The mean of x over its pixels, weighted by ``weight``.

    The sum of the weights is increased by 0.0005, so that the result is close to 0 where all weights are.
    """
    total = einsum("nhwc,nhwi->nic", x, weight, wide=True)
    return (total / (weight.sum((1, 2), dtype=total.dtype)[:, None] + 0.0005)).astype(x.dtype)


class PPM(Module):
    """Average x over grids of size x size windows, for each size of ``pooling_sizes``; each window becomes a token."""

    pooling_sizes: Sequence[int] = (1, 3, 5)

    def __call__(self, x: Image, train: bool = False) -> Tokens:
        x = self.cast(x)
        return jnp.concatenate([tokens(adaptive_avg_pool(x, size)) for size in self.pooling_sizes], 1)


class _Attention(Module):
    dim: int
    heads: int = 8
    dim_head: int = 64
    dropout: float = 0.0
    query_block: int | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        got = f"{self.heads}, {self.dim_head}"
        require(min(self.heads, self.dim_head) >= 1, f"{type(self).__name__}: expected heads, dim_head >= 1, got {got}")
        check_query_block(type(self).__name__, self.query_block)

    def setup(self) -> None:
        inner = self.heads * self.dim_head
        same = self.heads == 1 and self.dim_head == self.dim
        self.to_qkv = Conv2d(self.dim, 3 * inner, 1, bias=False)
        layers = [] if same else [Linear(inner, self.dim), Dropout(self.dropout)]
        self.to_out = Sequential(layers)

    def attend(self, x: Image, pool: Callable[[Image], Tokens], train: bool, need: bool) -> tuple[Tokens, Any]:
        """Attention from every pixel of x to the tokens that ``pool`` makes of x, and its weights if ``need``.

        Keys and values are computed from these few tokens: a mean of projections is the projection of the mean.
        """
        x, inner = self.cast(x), self.heads * self.dim_head
        query = tokens(self.to_qkv(x, outputs=slice(inner)))
        key, value = jnp.split(self.to_qkv(pool(x)[:, None], outputs=slice(inner, None))[:, 0], 2, -1)
        q, k, v = (split_heads(t, self.heads) for t in (query, key, value))

        def weigh(q: Array) -> Array:
            logits = einsum("nhqd,nhkd->nhqk", q * self.dim_head**-0.5, k, wide=True)
            return softmax(logits, -1).astype(v.dtype)

        y, weights = weighted_sum(weigh, q, v, query_block=self.query_block, need_weights=need)
        return self.to_out(join_heads(y), train), weights


class ESA(_Attention):
    """Attention from every pixel of x to the 1 + 9 + 25 tokens of its ``PPM``; returns tokens, not an image.

    Args:
        query_block: of how many pixels the weights are in memory at a time: that of ``layers.weighted_sum``.

    With ``attention_weights=True`` the call returns also the weights (n, heads, h * w, 35) of each pixel for all
    tokens.
    """

    def setup(self) -> None:
        super().setup()
        self.ppm = PPM()

    def __call__(
        self, x: Image, train: bool = False, attention_weights: bool = False
    ) -> Tokens | tuple[Tokens, Float[Array, "n heads q k"]]:
        y, weights = self.attend(x, self.ppm, train, need=attention_weights)
        return (y, weights) if attention_weights else y


class LCA(_Attention):
    """Project the values of x and average them with the weights sigmoid(mask); every pixel gets the same average.

    Returns tokens, not an image. ``mask`` (n, h, w, 1) holds logits; another shape raises ValueError. With
    ``attention_weights=True`` the call returns also the weights sigmoid(mask), (n, h, w, 1).
    """

    def __call__(
        self, x: Image, mask: Array, train: bool = False, attention_weights: bool = False
    ) -> Tokens | tuple[Tokens, PixelMap]:
        expected = (*x.shape[:3], 1)
        require(mask.shape == expected, f"{type(self).__name__}: expected a mask of shape {expected}, got {mask.shape}")
        weight = sigmoid(self.cast(mask))
        y, _ = self.attend(x, lambda y: mask_pool(y, weight), train, need=False)
        return (y, weight) if attention_weights else y


class _FeedForward(Module):
    dim: int
    hidden: int
    dropout: float

    def setup(self) -> None:
        widen, narrow = Linear(self.dim, self.hidden), Linear(self.hidden, self.dim)
        self.net = Sequential([widen, gelu, Dropout(self.dropout), narrow, Dropout(self.dropout)])

    def __call__(self, x: Tokens, train: bool = False) -> Tokens:
        return self.net(x, train)


class _PreNorm(Module):
    dim: int
    hidden: int
    dropout: float

    def setup(self) -> None:
        self.norm = LayerNorm(self.dim)
        self.fn = _FeedForward(self.dim, self.hidden, self.dropout)

    def __call__(self, x: Tokens, train: bool = False) -> Tokens:
        return self.fn(self.norm(x), train)


class _Block(Module):
    dim: int
    heads: int = 8
    dim_head: int = 64
    mlp_dim: int = 512
    dropout: float = 0.0

    def add(self, attended: Tokens, x: Image, train: bool) -> Image:
        """Add the attended tokens to x, and a feed-forward network of the sum to the sum."""
        t = attended + tokens(self.cast(x))
        return (self.ff(t, train) + t).reshape(x.shape)


class ESABlock(_Block):
    """Add ``ESA`` of x to x; then add a feed-forward network of the sum's LayerNorm to the sum."""

    def setup(self) -> None:
        self.ESAlayer: Module = ESA(self.dim, self.heads, self.dim_head, dropout=self.dropout)
        self.ff = _PreNorm(self.dim, self.mlp_dim, self.dropout)

    def __call__(self, x: Image, train: bool = False) -> Image:
        return self.add(self.ESAlayer(x, train=train), x, train)


class LCABlock(_Block):
    """Add ``LCA`` of x and ``mask`` (n, h, w, 1) to x; then add a feed-forward network of the sum's LayerNorm to it."""

    def setup(self) -> None:
        self.LCAlayer: Module = LCA(self.dim, self.heads, self.dim_head, dropout=self.dropout)
        self.ff = _PreNorm(self.dim, self.mlp_dim, self.dropout)

    def __call__(self, x: Image, mask: Array, train: bool = False) -> Image:
        return self.add(self.LCAlayer(x, mask, train=train), x, train)
