"""Dual Attention Network for Scene Segmentation - Fu, Liu, Tian et al. 2019, https://arxiv.org/abs/1809.02983

Follows: junfu1115/DANet. Its channel attention subtracts the energy from its row maximum, so that channels that are NOT
alike get the larger weight; the paper does not do that. Neither attention is scaled.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

from jaxtyping import Array, Float

from flax_attn.blocks.non_local import tokens
from flax_attn.layers import (
    BatchNorm2d,
    Conv,
    Conv2d,
    Dropout2d,
    Module,
    Sequential,
    check_query_block,
    einsum,
    init,
    relu,
    require,
    softmax,
    weighted_sum,
)
from flax_attn.shapes import Image, ScoreMap, Tokens, Weights

ThreeScores = tuple[ScoreMap, ScoreMap, ScoreMap]


def pair(result: Any) -> tuple[Image, Any]:
    """The output of an attention, and its weights or None."""
    return result if isinstance(result, tuple) else (result, None)


class PAM_Module(Module):
    """Position attention: x plus ``gamma`` times the values of all pixels, weighted by a softmax of query . key.

    Args:
        query_block: of how many pixels the weights are in memory at a time: that of ``layers.weighted_sum``.

    With ``attention_weights=True`` the call returns also the weights (n, h * w, h * w) of each pixel for all pixels,
    which are then all in memory.
    """

    in_dim: int
    query_block: int | None = dataclasses.field(default=None, kw_only=True)

    conv: ClassVar[type[Conv]] = Conv2d

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.in_dim >= 8, f"{type(self).__name__}: expected in_dim >= 8, got {self.in_dim}")
        check_query_block(type(self).__name__, self.query_block)

    def setup(self) -> None:
        self.query_conv = self.conv(self.in_dim, self.in_dim // 8, 1)
        self.key_conv = self.conv(self.in_dim, self.in_dim // 8, 1)
        self.value_conv = self.conv(self.in_dim, self.in_dim, 1)
        self.gamma = self.parameter("gamma", init.zeros, (1,))

    def __call__(self, x: Image, train: bool = False, attention_weights: bool = False) -> Image | tuple[Image, Weights]:
        x, gamma = self.promote(x, self.gamma)
        query, key, value = (tokens(conv(x)) for conv in (self.query_conv, self.key_conv, self.value_conv))

        def weigh(query: Tokens) -> Weights:
            energy = einsum("nqc,nkc->nqk", query, key, wide=True)
            return softmax(energy, -1).astype(x.dtype)

        y, attention = weighted_sum(weigh, query, value, query_block=self.query_block, need_weights=attention_weights)
        y = gamma * y.reshape(x.shape) + x
        return (y, attention) if attention_weights else y


class CAM_Module(Module):
    """Channel attention: x plus ``gamma`` times all channels, weighted by a softmax of how little they are alike.

    With ``attention_weights=True`` the call returns also the weights (n, c, c) of each channel for all channels.
    """

    in_dim: int

    def setup(self) -> None:
        self.gamma = self.parameter("gamma", init.zeros, (1,))

    def __call__(self, x: Image, train: bool = False, attention_weights: bool = False) -> Image | tuple[Image, Weights]:
        self.check_channels(x, self.in_dim, [4])
        x, gamma = self.promote(x, self.gamma)
        energy = einsum("nhwc,nhwk->nck", x, x, wide=True)
        attention = softmax(energy.max(-1, keepdims=True) - energy).astype(x.dtype)
        y = gamma * einsum("nck,nhwk->nhwc", attention, x) + x
        return (y, attention) if attention_weights else y


class DANetHead(Module):
    """Class scores of each pixel of x (n, h, w, in_channels), three times.

    They come from the sum of both attentions, from the position attention and from the channel attention.

    Args:
        out_channels: the number of classes.
        norm_layer: the class of the normalisations; BatchNorm2d when None.
        dropout: the probability with which a channel in front of each classifier is dropped.

    With ``attention_weights=True`` the call returns the three scores as one tuple, then the weights of the position
    attention (n, h * w, h * w) and those of the channel attention (n, c, c), where c is ``in_channels // 4``.
    """

    in_channels: int
    out_channels: int
    norm_layer: Callable[[int], Module] | None = None
    dropout: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.in_channels >= 32, f"DANetHead: expected in_channels >= 32, got {self.in_channels}")

    def setup(self) -> None:
        inner = self.in_channels // 4
        self.conv5a = self.conv_bn(self.in_channels, inner)
        self.conv5c = self.conv_bn(self.in_channels, inner)
        self.sa = PAM_Module(inner)
        self.sc = CAM_Module(inner)
        self.conv51 = self.conv_bn(inner, inner)
        self.conv52 = self.conv_bn(inner, inner)
        self.conv6 = self.classify(inner)
        self.conv7 = self.classify(inner)
        self.conv8 = self.classify(inner)

    def conv_bn(self, inputs: int, outputs: int) -> Sequential:
        norm = self.norm_layer or BatchNorm2d
        return Sequential([Conv2d(inputs, outputs, 3, padding=1, bias=False), norm(outputs), relu])

    def classify(self, inputs: int) -> Sequential:
        return Sequential([Dropout2d(self.dropout), Conv2d(inputs, self.out_channels, 1)])

    def __call__(
        self, x: Image, train: bool = False, attention_weights: bool = False
    ) -> ThreeScores | tuple[ThreeScores, Float[Array, "n p p"], Float[Array, "n d d"]]:
        need = attention_weights
        position, of_pixels = pair(self.sa(self.conv5a(x, train), attention_weights=need, train=train))
        channel, of_channels = pair(self.sc(self.conv5c(x, train), attention_weights=need, train=train))
        position, channel = self.conv51(position, train), self.conv52(channel, train)
        both = self.conv8(position + channel, train)
        scores = both, self.conv6(position, train), self.conv7(channel, train)
        return (scores, of_pixels, of_channels) if attention_weights else scores
