"""Squeeze-and-Excitation Networks - Hu, Shen, Sun 2018, https://arxiv.org/abs/1709.01507

Status: the blocks of Cadene/pretrained-models.pytorch, which timm calls legacy: their gates have biases, as the paper's
do. ``SENetBottleneck`` is called SEBottleneck there. Keys are those of moskomule/senet.pytorch: ``se.fc.0`` and
``se.fc.2`` for ``se_module.fc1`` and ``se_module.fc2``, 1x1 convolutions there. ``SEResNeXtBottleneck`` is timm's
Bottleneck with an SEModule too, whose hidden width, rounded to a multiple of 8, is that of every
published network anyway. Assumed: the ReLU in front of the gate of ``SEResNetBlock``. Dilation is ours.
"""

import dataclasses
from typing import ClassVar

from flax_attn.blocks.resnet import BasicBlock, _Residual, add_shortcut
from flax_attn.blocks.se import SELayer
from flax_attn.layers import Conv2d, relu, require
from flax_attn.shapes import Features, Image


class SEResNetBlock(BasicBlock):
    """A BasicBlock with a third ReLU and an SELayer at the end of its residual branch."""

    reduction: int = dataclasses.field(default=16, kw_only=True)

    def setup(self) -> None:
        super().setup()
        self.se = SELayer(self.planes, self.reduction, True)

    def __call__(self, x: Image, train: bool = False) -> Features:
        y = relu(self.bn1(self.conv1(x), train))
        y = relu(self.bn2(self.conv2(y), train))
        return relu(add_shortcut(self, self.se(y), x, train))


class _SEBottleneck(_Residual):
    reduction: int = dataclasses.field(default=16, kw_only=True)

    expansion: ClassVar[int] = 4

    def check_width(self) -> None:
        require(self.base_width == 64, f"{type(self).__name__}: expected base_width 64, got {self.base_width}")

    def build(self, narrow: int, wide: int, first: int, second: int) -> None:
        """A 1x1 convolution to ``narrow`` channels with stride ``first``, a 3x3 to ``wide`` with ``second``, a 1x1."""
        planes, dilation = self.planes * self.expansion, self.dilation
        self.conv1 = Conv2d(self.inplanes, narrow, 1, first, bias=False)
        self.bn1 = self.norm(narrow)
        self.conv2 = Conv2d(narrow, wide, 3, second, dilation, dilation, self.groups, bias=False)
        self.bn2 = self.norm(wide)
        self.conv3 = Conv2d(wide, planes, 1, bias=False)
        self.bn3 = self.norm(planes)
        self.se = SELayer(planes, self.reduction, True)

    def __call__(self, x: Image, train: bool = False) -> Features:
        y = relu(self.bn1(self.conv1(x), train))
        y = relu(self.bn2(self.conv2(y), train))
        y = self.se(self.bn3(self.conv3(y), train))
        return relu(add_shortcut(self, y, x, train))


class SEResNetBottleneck(_SEBottleneck):
    """A bottleneck that strides in its first 1x1 convolution, as Caffe's, with an SELayer on its residual branch."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_width()

    def setup(self) -> None:
        self.build(self.planes, self.planes, self.stride, 1)


class SEResNeXtBottleneck(_SEBottleneck):
    """A Bottleneck, of ``groups`` and ``base_width``, with an SELayer at the end of its residual branch."""

    def setup(self) -> None:
        width = int(self.planes * (self.base_width / 64)) * self.groups
        self.build(width, width, 1, self.stride)


class SENetBottleneck(_SEBottleneck):
    """The same with 2 * ``planes`` channels after its first convolution, and 4 * ``planes`` after its second."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_width()

    def setup(self) -> None:
        self.build(2 * self.planes, 4 * self.planes, 1, self.stride)
