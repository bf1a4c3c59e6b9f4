"""Squeeze-and-Excitation Networks - Hu, Shen, Sun 2018, https://arxiv.org/abs/1709.01507

Status: moskomule/senet.pytorch. Its gate has no biases, unlike the paper's and PytorchInsight's (``bias=True``).
Upstream ignores ``groups``, ``base_width`` and ``dilation`` other than the defaults; here they are refused.
``norm_layer`` is ignored on both sides. ``CifarSEBasicBlock`` is also the block of upstream's CifarSEPreActResNet,
whose forward forgets to return its result: upstream has no pre-activation block with a gate.
"""

import dataclasses
from typing import Any, ClassVar

from flax_attn.blocks.resnet import BasicBlock, Bottleneck, CifarBasicBlock, add_shortcut
from flax_attn.layers import BatchNorm2d, Conv2d, Linear, Module, Sequential, relu, require, sigmoid
from flax_attn.shapes import Features, Image


class SELayer(Module):
    """Scale each channel of x by a gate in (0, 1) that is computed from the spatial mean of all channels.

    With ``channel < reduction`` the hidden layer is empty and the gate is 1/2, as in PyTorch.
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

    def __call__(self, x: Image, train: bool = False) -> Image:
        self.check_channels(x, self.channel, [4])
        x = self.cast(x)
        gate = self.fc(x.mean((1, 2)), train)
        return x * gate[:, None, None, :]


class _SEBlock(Module):
    inplanes: int
    planes: int
    stride: int = 1
    downsample: Module | None = None
    groups: int = 1
    base_width: int = 64
    dilation: int = 1
    norm_layer: Any = None
    reduction: int = dataclasses.field(default=16, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        plain = (self.groups, self.base_width, self.dilation) == (1, 64, 1)
        got = f"{self.groups}, {self.base_width}, {self.dilation}"
        require(plain, f"{type(self).__name__}: expected groups, base_width, dilation = 1, 64, 1, got {got}")


class SEBasicBlock(_SEBlock):
    """Two 3x3 convolutions and an SELayer on a residual branch; ``downsample`` is the shortcut's module."""

    expansion: ClassVar[int] = 1

    def setup(self) -> None:
        self.conv1 = Conv2d(self.inplanes, self.planes, 3, self.stride, 1, bias=False)
        self.bn1 = BatchNorm2d(self.planes)
        self.conv2 = Conv2d(self.planes, self.planes, 3, padding=1, bias=False)
        self.bn2 = BatchNorm2d(self.planes)
        self.se = SELayer(self.planes, self.reduction)

    def __call__(self, x: Image, train: bool = False) -> Features:
        y = relu(self.bn1(self.conv1(x), train))
        y = self.se(self.bn2(self.conv2(y), train))
        return relu(add_shortcut(self, y, x, train))


class SEBottleneck(_SEBlock):
    """A 1x1, 3x3, 1x1 bottleneck, four times ``planes`` wide, and an SELayer on a residual branch."""

    expansion: ClassVar[int] = 4

    def setup(self) -> None:
        width = self.planes * self.expansion
        self.conv1 = Conv2d(self.inplanes, self.planes, 1, bias=False)
        self.bn1 = BatchNorm2d(self.planes)
        self.conv2 = Conv2d(self.planes, self.planes, 3, self.stride, 1, bias=False)
        self.bn2 = BatchNorm2d(self.planes)
        self.conv3 = Conv2d(self.planes, width, 1, bias=False)
        self.bn3 = BatchNorm2d(width)
        self.se = SELayer(width, self.reduction)

    def __call__(self, x: Image, train: bool = False) -> Features:
        y = relu(self.bn1(self.conv1(x), train))
        y = relu(self.bn2(self.conv2(y), train))
        y = self.se(self.bn3(self.conv3(y), train))
        return relu(add_shortcut(self, y, x, train))


class InsightSEBasicBlock(BasicBlock):
    """PytorchInsight's: a BasicBlock with an SELayer that has biases at the end of its residual branch."""

    def setup(self) -> None:
        super().setup()
        self.se = SELayer(self.planes * self.expansion, bias=True)

    def residual(self, x: Image, train: bool) -> Features:
        return self.se(super().residual(x, train))


class InsightSEBottleneck(Bottleneck):
    """PytorchInsight's: a Bottleneck with an SELayer that has biases at the end of its residual branch."""

    def setup(self) -> None:
        super().setup()
        self.se = SELayer(self.planes * self.expansion, bias=True)

    def residual(self, x: Image, train: bool) -> Features:
        return self.se(super().residual(x, train))


class CifarSEBasicBlock(CifarBasicBlock):
    """A CifarBasicBlock with an SELayer at the end of its residual branch."""

    reduction: int = 16

    def setup(self) -> None:
        super().setup()
        self.se = SELayer(self.planes, self.reduction)

    def __call__(self, x: Image, train: bool = False) -> Features:
        x = self.cast(x)
        y = relu(self.bn1(self.conv1(x), train))
        y = self.se(self.bn2(self.conv2(y), train))
        return relu(y + self.downsample(x, train))
