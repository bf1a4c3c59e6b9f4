"""CBAM: Convolutional Block Attention Module - Woo, Park, Lee, Kweon 2018, https://arxiv.org/abs/1807.06521

Follows: implus/PytorchInsight, the authors' code. The BatchNorm of the spatial gate has momentum 0.01.
Differs: the other kinds of pooling of that code (Lp, log-sum-exp) are left out. ``conv``, ``bias``, ``kernel_size``,
``norm`` and ``mean_first`` are ours, for other codes' gates.
"""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from flax_attn.blocks.resnet import BasicBlock, Bottleneck
from flax_attn.layers import (
    BatchNorm2d,
    Conv2d,
    Linear,
    Module,
    Sequential,
    adaptive_avg_pool,
    adaptive_max_pool,
    flatten,
    relu,
    require,
    sigmoid,
)
from flax_attn.shapes import ChannelMap, Features, Image, PixelMap


class ChannelGate(Module):
    """Scale each channel of x by a gate in (0, 1) that is computed from the spatial mean and maximum of all channels.

    Args:
        reduction_ratio: the hidden layer has ``gate_channels // reduction_ratio`` units. It may have none: the gate
            then does not depend on x.
        conv: 1x1 convolutions ``mlp.0`` and ``mlp.2`` in place of the linear layers ``mlp.1`` and ``mlp.3``.
        bias: whether both layers have a bias.

    With ``attention_weights=True`` the call returns also the gate (n, 1, 1, c).
    """

    gate_channels: int
    reduction_ratio: int = 16
    conv: bool = dataclasses.field(default=False, kw_only=True)
    bias: bool = dataclasses.field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.reduction_ratio >= 1, f"ChannelGate: expected reduction_ratio >= 1, got {self.reduction_ratio}")

    def setup(self) -> None:
        c, hidden, bias = self.gate_channels, self.gate_channels // self.reduction_ratio, self.bias
        if self.conv:
            self.mlp = Sequential([Conv2d(c, hidden, 1, bias=bias), relu, Conv2d(hidden, c, 1, bias=bias)])
        else:
            self.mlp = Sequential([flatten, Linear(c, hidden, bias), relu, Linear(hidden, c, bias)])

    def __call__(
        self, x: Image, train: bool = False, attention_weights: bool = False
    ) -> Image | tuple[Image, ChannelMap]:
        self.check_channels(x, self.gate_channels, [4])
        x = self.cast(x)
        gate = sigmoid(self.mlp(adaptive_avg_pool(x, 1)) + self.mlp(adaptive_max_pool(x, 1)))
        gate = gate.reshape(-1, 1, 1, self.gate_channels)
        y = x * gate
        return (y, gate) if attention_weights else y


class _BasicConv(Module):
    kernel_size: int
    bias: bool
    norm: bool

    def setup(self) -> None:
        self.conv = Conv2d(2, 1, self.kernel_size, padding=self.kernel_size // 2, bias=self.bias)
        if self.norm:
            self.bn = BatchNorm2d(1, momentum=0.01)

    def __call__(self, x: Float[Array, "n h w 2"], train: bool = False) -> PixelMap:
        y = self.conv(x)
        return self.bn(y, train=train) if self.norm else y


class SpatialGate(Module):
    """Scale each pixel of x by a gate in (0, 1): a convolution of the maximum and the mean over channels.

    Args:
        kernel_size: of the convolution; odd.
        bias: whether the convolution has a bias.
        norm: whether a BatchNorm follows.
        mean_first: the mean is the first channel of the convolution's input, the maximum the second.

    With ``attention_weights=True`` the call returns also the gate (n, h, w, 1).
    """

    kernel_size: int = dataclasses.field(default=7, kw_only=True)
    bias: bool = dataclasses.field(default=False, kw_only=True)
    norm: bool = dataclasses.field(default=True, kw_only=True)
    mean_first: bool = dataclasses.field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        odd = self.kernel_size >= 1 and self.kernel_size % 2 == 1
        require(odd, f"SpatialGate: expected an odd kernel_size, got {self.kernel_size}")

    def setup(self) -> None:
        self.spatial = _BasicConv(self.kernel_size, self.bias, self.norm)

    def __call__(
        self, x: Image, train: bool = False, attention_weights: bool = False
    ) -> Image | tuple[Image, PixelMap]:
        x = self.cast(x)
        highest = adaptive_max_pool(x[..., None], (None, None, 1))[..., 0]
        pooled = [highest, x.mean(-1, keepdims=True)]
        gate = sigmoid(self.spatial(jnp.concatenate(pooled[::-1] if self.mean_first else pooled, -1), train))
        y = x * gate
        return (y, gate) if attention_weights else y


class CBAM(Module):
    """Scale x by a ChannelGate and then, unless ``no_spatial``, by a SpatialGate.

    Args:
        conv, bias: of the ChannelGate.
        kernel_size, norm, mean_first: of the SpatialGate. Many codes have no BatchNorm and the mean first.

    With ``attention_weights=True`` the call returns also the gate of each, (n, 1, 1, c) and (n, h, w, 1).
    """

    gate_channels: int
    reduction_ratio: int = 16
    no_spatial: bool = False
    conv: bool = dataclasses.field(default=False, kw_only=True)
    bias: bool = dataclasses.field(default=True, kw_only=True)
    kernel_size: int = dataclasses.field(default=7, kw_only=True)
    norm: bool = dataclasses.field(default=True, kw_only=True)
    mean_first: bool = dataclasses.field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.reduction_ratio >= 1, f"CBAM: expected reduction_ratio >= 1, got {self.reduction_ratio}")

    def setup(self) -> None:
        self.ChannelGate = ChannelGate(self.gate_channels, self.reduction_ratio, conv=self.conv, bias=self.bias)
        if not self.no_spatial:
            self.SpatialGate = SpatialGate(kernel_size=self.kernel_size, norm=self.norm, mean_first=self.mean_first)

    def __call__(
        self, x: Image, train: bool = False, attention_weights: bool = False
    ) -> Image | tuple[Image, ChannelMap] | tuple[Image, ChannelMap, PixelMap]:
        x, *gates = self.ChannelGate(x, attention_weights=True, train=train)
        if not self.no_spatial:
            x, gate = self.SpatialGate(x, attention_weights=True, train=train)
            gates.append(gate)
        return (x, *gates) if attention_weights else x


class _CBAMGate(Module):
    """Mixed into a residual block: its residual branch ends in a CBAM."""

    registered_last: ClassVar[Sequence[str]] = ("downsample", "cbam")

    def setup(self) -> None:
        super().setup()
        self.cbam: Module = CBAM(self.planes * self.expansion)

    def gate(self, y: Features, train: bool) -> Features:
        return self.cbam(y, train=train)


class CBAMBasicBlock(_CBAMGate, BasicBlock):
    """A BasicBlock whose residual branch ends in a CBAM."""


class CBAMBottleneck(_CBAMGate, Bottleneck):
    """A Bottleneck whose residual branch ends in a CBAM."""
