"""Squeeze-and-Excitation Networks - Hu, Shen, Sun 2018, https://arxiv.org/abs/1709.01507

Follows: moskomule/senet.pytorch for ``SELayer`` and its key names, ``SEBasicBlock``, ``SEBottleneck`` and
``CifarSEBasicBlock``: gates without biases; implus/PytorchInsight for the blocks ``InsightSE...``: gates with biases,
as in the paper; Cadene/pretrained-models.pytorch, timm's legacy networks, for ``SEResNetBlock``,
``SEResNetBottleneck``, ``SEResNeXtBottleneck`` and ``SENetBottleneck`` (called SEBottleneck there): gates with biases.
Differs: moskomule's blocks ignore ``groups``, ``base_width``, ``dilation`` and ``norm_layer``; here the first three are
refused and the last one is used. The keys of Cadene's gates are moskomule's here: ``se.fc.0`` and ``se.fc.2`` for the
1x1 convolutions ``se_module.fc1`` and ``se_module.fc2``. ``dilation`` of Cadene's bottlenecks and ``reduction`` of the
blocks ``InsightSE...`` are ours. ``SEResNeXtBottleneck`` is also timm's Bottleneck with an SEModule: timm rounds the
hidden width to a multiple of 8, which changes nothing in its published networks. The keyword-only options of
``SELayer`` are ours. ``SqueezeExcitation`` is torchvision's; with ``norm_layer`` it has the layers of timm's SEModule.
Assumed: the ReLU in front of the gate of ``SEResNetBlock``.
"""

import dataclasses
from typing import Any, ClassVar

from flax_attn.blocks.cifar_resnet import CifarBasicBlock
from flax_attn.blocks.resnet import BasicBlock, Bottleneck, require_plain
from flax_attn.layers import Conv2d, Linear, Module, ReLU, Sequential, Sigmoid, relu, require
from flax_attn.shapes import ChannelMap, Features, Image


class _Gate(Module):
    def gate(self, x: Image, train: bool) -> ChannelMap:
        raise NotImplementedError

    def __call__(
        self, x: Image, train: bool = False, attention_weights: bool = False
    ) -> Image | tuple[Image, ChannelMap]:
        x = self.cast(x)
        gate = self.gate(x, train)
        y = x * gate
        return (y, gate) if attention_weights else y


class SELayer(_Gate):
    """Scale each channel of x by a gate in (0, 1) that is computed from the spatial mean of all channels.

    Args:
        reduction: the hidden layer has ``channel // reduction`` units. It may have none: the gate is then 1/2, as in
            PyTorch.
        bias: whether both linear layers have a bias.
        hidden: the number of hidden units, in place of ``reduction``.
        conv: 1x1 convolutions in place of linear layers; only the shape of their weights differs.
        norm_layer: a class such as BatchNorm1d, with ``conv`` BatchNorm2d, that follows the first layer.
        activation: the class that follows; ReLU when None.
        gate_layer: the class that makes the gate; Sigmoid when None.

    With ``attention_weights=True`` the call returns also the gate (n, 1, 1, c).
    """

    channel: int
    reduction: int = 16
    bias: bool = False
    hidden: int | None = dataclasses.field(default=None, kw_only=True)
    conv: bool = dataclasses.field(default=False, kw_only=True)
    norm_layer: type[Any] | None = dataclasses.field(default=None, kw_only=True)
    activation: type[Module] | None = dataclasses.field(default=None, kw_only=True)
    gate_layer: type[Module] | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.channel >= 1, f"SELayer: expected channel >= 1, got {self.channel}")
        require(self.reduction >= 1, f"SELayer: expected reduction >= 1, got {self.reduction}")

    def setup(self) -> None:
        hidden = self.channel // self.reduction if self.hidden is None else self.hidden
        norm = [self.norm_layer(hidden)] if self.norm_layer else []
        activation, gate = self.activation or ReLU, self.gate_layer or Sigmoid
        squeeze, excite = self.layer(self.channel, hidden), self.layer(hidden, self.channel)
        self.fc = Sequential([squeeze, *norm, activation(), excite, gate()])

    def layer(self, inputs: int, outputs: int) -> Module:
        return Conv2d(inputs, outputs, 1, bias=self.bias) if self.conv else Linear(inputs, outputs, self.bias)

    def gate(self, x: Image, train: bool) -> ChannelMap:
        self.check_channels(x, self.channel, [4])
        mean = x.mean((1, 2), keepdims=self.conv)
        return self.fc(mean, train).reshape(-1, 1, 1, self.channel)


class SqueezeExcitation(_Gate):
    """An SELayer of 1x1 convolutions with the key names of torchvision and timm: ``fc1`` and ``fc2``.

    Args:
        squeeze_channels: the number of hidden channels.
        bias: whether both convolutions have a bias.
        norm_layer: the class of a normalization ``bn`` behind ``fc1``, as timm has it.
        norm_both: a normalization behind each convolution, ``bn1`` and ``bn2``, as MiniFASNet has them.
        activation: the class that follows the first convolution; ReLU when None.
        scale_activation: the class that makes the gate; Sigmoid when None.

    With ``attention_weights=True`` the call returns also the gate (n, 1, 1, c).
    """

    input_channels: int
    squeeze_channels: int
    activation: type[Module] | None = None
    scale_activation: type[Module] | None = None
    bias: bool = dataclasses.field(default=True, kw_only=True)
    norm_layer: type[Any] | None = dataclasses.field(default=None, kw_only=True)
    norm_both: bool = dataclasses.field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes = (self.input_channels, self.squeeze_channels)
        require(min(sizes) >= 1, f"SqueezeExcitation: expected input_channels, squeeze_channels >= 1, got {sizes}")
        fits = self.norm_layer is not None or not self.norm_both
        require(fits, "SqueezeExcitation: expected a norm_layer with norm_both=True, got None")

    def setup(self) -> None:
        channels, hidden = self.input_channels, self.squeeze_channels
        self.fc1 = Conv2d(channels, hidden, 1, bias=self.bias)
        if self.norm_layer:
            setattr(self, "bn1" if self.norm_both else "bn", self.norm_layer(hidden))
        self.fc2 = Conv2d(hidden, channels, 1, bias=self.bias)
        if self.norm_layer and self.norm_both:
            self.bn2 = self.norm_layer(channels)
        self.act: Module = (self.activation or ReLU)()
        self.scale: Module = (self.scale_activation or Sigmoid)()

    def gate(self, x: Image, train: bool) -> ChannelMap:
        self.check_channels(x, self.input_channels, [4])
        y = self.fc1(x.mean((1, 2), keepdims=True))
        if self.norm_layer:
            y = (self.bn1 if self.norm_both else self.bn)(y, train=train)
        y = self.fc2(self.act(y))
        return self.scale(self.bn2(y, train=train) if self.norm_both else y)


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

    def setup_gate(self) -> None:
        self.se: Module = SELayer(self.planes, self.reduction)

    def gate(self, y: Features, train: bool) -> Features:
        return self.se(y, train=train)
