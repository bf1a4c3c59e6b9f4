"""Squeeze-and-Excitation Networks - Hu, Shen, Sun 2018, https://arxiv.org/abs/1709.01507

Follows: moskomule/senet.pytorch for ``SELayer`` and its key names, ``SEBasicBlock``, ``SEBottleneck`` and
``CifarSEBasicBlock``: gates without biases; implus/PytorchInsight for the blocks ``InsightSE...``: gates with biases,
as in the paper; Cadene/pretrained-models.pytorch, timm's legacy networks, for ``SEResNetBlock``,
``SEResNetBottleneck``, ``SEResNeXtBottleneck`` and ``SENetBottleneck`` (called SEBottleneck there): gates with biases.
Differs: moskomule's blocks ignore ``groups``, ``base_width``, ``dilation`` and ``norm_layer``; here the first three are
refused and the last one is used. The keys of Cadene's gates are moskomule's here: ``se.fc.0`` and ``se.fc.2`` for the
1x1 convolutions ``se_module.fc1`` and ``se_module.fc2``. ``dilation`` of Cadene's bottlenecks and ``reduction`` of the
blocks ``InsightSE...`` are ours. ``SEResNeXtBottleneck`` is also timm's Bottleneck with an SEModule: timm rounds the
hidden width to a multiple of 8, which changes nothing in its published networks.
Assumed: the ReLU in front of the gate of ``SEResNetBlock``.
"""

import dataclasses
from typing import ClassVar

from flax_attn.blocks.cifar_resnet import CifarBasicBlock
from flax_attn.blocks.resnet import BasicBlock, Bottleneck, require_plain
from flax_attn.layers import Linear, Module, Sequential, relu, require, sigmoid
from flax_attn.shapes import ChannelMap, Features, Image


class SELayer(Module):
    """Scale each channel of x by a gate in (0, 1) that is computed from the spatial mean of all channels.

    Args:
        reduction: the hidden layer has ``channel // reduction`` units. It may have none: the gate is then 1/2, as in
            PyTorch.
        bias: whether both linear layers have a bias.

    With ``attention_weights=True`` the call returns also the gate (n, 1, 1, c).
    """

    channel: int
    reduction: int = 16
    bias: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.channel >= 1, f"SELayer: expected channel >= 1, got {self.channel}")
        require(self.reduction >= 1, f"SELayer: expected reduction >= 1, got {self.reduction}")

    def setup(self) -> None:
        hidden = self.channel // self.reduction
        squeeze = Linear(self.channel, hidden, self.bias)
        excite = Linear(hidden, self.channel, self.bias)
        self.fc = Sequential([squeeze, relu, excite, sigmoid])

    def __call__(
        self, x: Image, attention_weights: bool = False, train: bool = False
    ) -> Image | tuple[Image, ChannelMap]:
        self.check_channels(x, self.channel, [4])
        x = self.cast(x)
        gate = self.fc(x.mean((1, 2)), train)[:, None, None, :]
        y = x * gate
        return (y, gate) if attention_weights else y


class _SEGate(Module):
    """Mixed into a residual block: its residual branch ends in an SELayer."""

    reduction: int = dataclasses.field(default=16, kw_only=True)

    bias: ClassVar[bool] = False

    def setup(self) -> None:
        super().setup()
        self.se: Module = SELayer(self.planes * self.expansion, self.reduction, self.bias)

    def gate(self, y: Features, train: bool) -> Features:
        return self.se(y, train=train)


class SEBasicBlock(_SEGate, BasicBlock):
    """A BasicBlock whose residual branch ends in an SELayer."""


class SEBottleneck(_SEGate, Bottleneck):
    """A Bottleneck whose residual branch ends in an SELayer; ``groups``, ``base_width``, ``dilation`` are refused."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_plain(self)


class InsightSEBasicBlock(_SEGate, BasicBlock):
    """A BasicBlock whose residual branch ends in an SELayer with biases."""

    bias = True


class InsightSEBottleneck(_SEGate, Bottleneck):
    """A Bottleneck whose residual branch ends in an SELayer with biases."""

    bias = True


class SEResNetBlock(_SEGate, BasicBlock):
    """A BasicBlock whose residual branch ends in a third ReLU and an SELayer with biases."""

    bias = True

    def gate(self, y: Features, train: bool) -> Features:
        return super().gate(relu(y), train)


class SEResNetBottleneck(_SEGate, Bottleneck):
    """A bottleneck that strides in its first 1x1 convolution, as Caffe's, and ends in an SELayer with biases.

    The inner convolutions have ``planes`` channels, whatever ``groups``; a ``base_width`` is refused.
    """

    bias = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.base_width == 64, f"{type(self).__name__}: expected base_width 64, got {self.base_width}")

    @property
    def widths(self) -> tuple[int, int]:
        return self.planes, self.planes

    @property
    def strides(self) -> tuple[int, int]:
        return self.stride, 1


class SEResNeXtBottleneck(_SEGate, Bottleneck):
    """A Bottleneck with ``groups`` and ``base_width`` whose residual branch ends in an SELayer with biases."""

    bias = True


class SENetBottleneck(SEResNetBottleneck):
    """A bottleneck of 2 * ``planes`` channels, then 4 * ``planes``, that ends in an SELayer with biases.

    It strides in its 3x3 convolution; a ``base_width`` is refused.
    """

    @property
    def widths(self) -> tuple[int, int]:
        return 2 * self.planes, 4 * self.planes

    @property
    def strides(self) -> tuple[int, int]:
        return 1, self.stride


class CifarSEBasicBlock(CifarBasicBlock):
    """A CifarBasicBlock whose residual branch ends in an SELayer.

    It is also the block of upstream's CifarSEPreActResNet: upstream has no pre-activation block with a gate.
    """

    reduction: int = 16

    def setup(self) -> None:
        super().setup()
        self.se: Module = SELayer(self.planes, self.reduction)

    def gate(self, y: Features, train: bool) -> Features:
        return self.se(y, train=train)
