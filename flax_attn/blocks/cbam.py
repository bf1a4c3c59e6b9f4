"""CBAM: Convolutional Block Attention Module - Woo, Park, Lee, Kweon 2018, https://arxiv.org/abs/1807.06521

Follows: implus/PytorchInsight, the authors' code. The BatchNorm of the spatial gate has momentum 0.01.
Differs: the other kinds of pooling of that code (Lp, log-sum-exp) are left out.
"""

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

    With ``attention_weights=True`` the call returns also the gate (n, 1, 1, c).
    """

    gate_channels: int
    reduction_ratio: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.reduction_ratio >= 1, f"ChannelGate: expected reduction_ratio >= 1, got {self.reduction_ratio}")

    def setup(self) -> None:
        hidden = self.gate_channels // self.reduction_ratio
        self.mlp = Sequential([flatten, Linear(self.gate_channels, hidden), relu, Linear(hidden, self.gate_channels)])

    def __call__(
        self, x: Image, attention_weights: bool = False, train: bool = False
    ) -> Image | tuple[Image, ChannelMap]:
        self.check_channels(x, self.gate_channels, [4])
        x = self.cast(x)
        gate = sigmoid(self.mlp(adaptive_avg_pool(x, 1)) + self.mlp(adaptive_max_pool(x, 1)))[:, None, None, :]
        y = x * gate
        return (y, gate) if attention_weights else y


class _BasicConv(Module):
    def setup(self) -> None:
        self.conv = Conv2d(2, 1, 7, padding=3, bias=False)
        self.bn = BatchNorm2d(1, momentum=0.01)

    def __call__(self, x: Float[Array, "n h w 2"], train: bool = False) -> PixelMap:
        return self.bn(self.conv(x), train)


class SpatialGate(Module):
    """Scale each pixel of x by a gate in (0, 1): a 7x7 convolution of the maximum and the mean over channels.

    With ``attention_weights=True`` the call returns also the gate (n, h, w, 1).
    """

    def setup(self) -> None:
        self.spatial = _BasicConv()

    def __call__(
        self, x: Image, attention_weights: bool = False, train: bool = False
    ) -> Image | tuple[Image, PixelMap]:
        x = self.cast(x)
        highest = adaptive_max_pool(x[..., None], (None, None, 1))[..., 0]
        pooled = jnp.concatenate([highest, x.mean(-1, keepdims=True)], -1)
        gate = sigmoid(self.spatial(pooled, train))
        y = x * gate
        return (y, gate) if attention_weights else y


class CBAM(Module):
    """Scale x by a ChannelGate and then, unless ``no_spatial``, by a SpatialGate.

    With ``attention_weights=True`` the call returns also the gate of each, (n, 1, 1, c) and (n, h, w, 1).
    """

    gate_channels: int
    reduction_ratio: int = 16
    no_spatial: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.reduction_ratio >= 1, f"CBAM: expected reduction_ratio >= 1, got {self.reduction_ratio}")

    def setup(self) -> None:
        self.ChannelGate = ChannelGate(self.gate_channels, self.reduction_ratio)
        if not self.no_spatial:
            self.SpatialGate = SpatialGate()

    def __call__(
        self, x: Image, attention_weights: bool = False, train: bool = False
    ) -> Image | tuple[Image, ChannelMap] | tuple[Image, ChannelMap, PixelMap]:
        x, *gates = self.ChannelGate(x, attention_weights=True, train=train)
        if not self.no_spatial:
            x, gate = self.SpatialGate(x, attention_weights=True, train=train)
            gates.append(gate)
        return (x, *gates) if attention_weights else x


class _CBAMGate(Module):
    """Mixed into a residual block: its residual branch ends in a CBAM."""

    def setup(self) -> None:
        super().setup()
        self.cbam: Module = CBAM(self.planes * self.expansion)

    def gate(self, y: Features, train: bool) -> Features:
        return self.cbam(y, train=train)


class CBAMBasicBlock(_CBAMGate, BasicBlock):
    """A BasicBlock whose residual branch ends in a CBAM."""


class CBAMBottleneck(_CBAMGate, Bottleneck):
    """A Bottleneck whose residual branch ends in a CBAM."""
