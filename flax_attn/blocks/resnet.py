"""Deep Residual Learning for Image Recognition - He, Zhang, Ren, Sun 2016, https://arxiv.org/abs/1512.03385

Status: ``BasicBlock`` and ``Bottleneck`` are torchvision's: they are given their shortcut, and a bottleneck strides in
its 3x3 convolution. ``CifarBasicBlock`` and ``PreActBasicBlock`` (https://arxiv.org/abs/1603.05027) are
moskomule/senet.pytorch's: they make their own, and only where the width changes; a stride without that fails upstream
when called and is refused here. ``OptionA`` and ``CifarOptionABlock`` are akamaster/pytorch_resnet_cifar10's.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import jax.numpy as jnp

from flax_attn.layers import BatchNorm2d, Conv2d, Module, Sequential, relu, require
from flax_attn.shapes import Features, Image

Norm = Callable[[int], Module]


def downsample(inplanes: int, planes: int, stride: int = 1, norm_layer: Norm = BatchNorm2d) -> Sequential:
    """The projection shortcut: 1x1 convolution and normalisation."""
    return Sequential([Conv2d(inplanes, planes, 1, stride, bias=False), norm_layer(planes)])


def add_shortcut(block: Any, y: Features, x: Image, train: bool) -> Features:
    """y plus what the ``downsample`` of ``block`` makes of x, or x itself where that is None."""
    shortcut = block.cast(x) if block.downsample is None else block.downsample(x, train)
    who = type(block).__name__
    require(shortcut.shape == y.shape, f"{who}: expected a shortcut of shape {y.shape}, got {shortcut.shape}")
    return y + shortcut


class OptionA(Module):
    """The shortcut without parameters: every second pixel of x, between two times ``planes // 4`` channels of zeros."""

    planes: int

    def __call__(self, x: Image, train: bool = False) -> Features:
        side = self.planes // 4
        self.check_channels(x, self.planes - 2 * side, [4])
        return jnp.pad(self.cast(x)[:, ::2, ::2], ((0, 0), (0, 0), (0, 0), (side, side)))


class _Residual(Module):
    inplanes: int
    planes: int
    stride: int = 1
    downsample: Module | None = None
    groups: int = 1
    base_width: int = 64
    dilation: int = 1
    norm_layer: Norm | None = None

    def norm(self, planes: int) -> Module:
        return (self.norm_layer or BatchNorm2d)(planes)

    def residual(self, x: Image, train: bool) -> Features:
        raise NotImplementedError

    def __call__(self, x: Image, train: bool = False) -> Features:
        return relu(add_shortcut(self, self.residual(x, train), x, train))


class BasicBlock(_Residual):
    """Two 3x3 convolutions on a residual branch; ``downsample`` is the shortcut's module.

    Args:
        groups, base_width, dilation: refused other than 1, 64 and 1, as in torchvision.
        norm_layer: the class of the normalisations, BatchNorm2d when None.
    """

    expansion: ClassVar[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        plain = (self.groups, self.base_width, self.dilation) == (1, 64, 1)
        got = f"{self.groups}, {self.base_width}, {self.dilation}"
        require(plain, f"BasicBlock: expected groups, base_width, dilation = 1, 64, 1, got {got}")

    def setup(self) -> None:
        self.conv1 = Conv2d(self.inplanes, self.planes, 3, self.stride, 1, bias=False)
        self.bn1 = self.norm(self.planes)
        self.conv2 = Conv2d(self.planes, self.planes, 3, padding=1, bias=False)
        self.bn2 = self.norm(self.planes)

    def residual(self, x: Image, train: bool) -> Features:
        y = relu(self.bn1(self.conv1(x), train))
        return self.bn2(self.conv2(y), train)


class Bottleneck(_Residual):
    """A 1x1, 3x3, 1x1 bottleneck on a residual branch, four times ``planes`` wide outside.

    Inside it is ``int(planes * base_width / 64) * groups`` wide; ``downsample`` is the shortcut's module and
    ``norm_layer`` the class of the normalisations, BatchNorm2d when None.
    """

    expansion: ClassVar[int] = 4

    def setup(self) -> None:
        width = int(self.planes * (self.base_width / 64)) * self.groups
        planes, dilation = self.planes * self.expansion, self.dilation
        self.conv1 = Conv2d(self.inplanes, width, 1, bias=False)
        self.bn1 = self.norm(width)
        self.conv2 = Conv2d(width, width, 3, self.stride, dilation, dilation, self.groups, bias=False)
        self.bn2 = self.norm(width)
        self.conv3 = Conv2d(width, planes, 1, bias=False)
        self.bn3 = self.norm(planes)

    def residual(self, x: Image, train: bool) -> Features:
        y = relu(self.bn1(self.conv1(x), train))
        y = relu(self.bn2(self.conv2(y), train))
        return self.bn3(self.conv3(y), train)


class CifarBasicBlock(Module):
    """Two 3x3 convolutions on a residual branch; the shortcut is a projection where ``inplanes != planes``."""

    inplanes: int
    planes: int
    stride: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        fits = self.stride == 1 or self.inplanes != self.planes
        got = f"stride {self.stride} and {self.planes} planes"
        require(fits, f"{type(self).__name__}: expected stride 1 where inplanes == planes, got {got}")

    def setup(self) -> None:
        self.conv1 = Conv2d(self.inplanes, self.planes, 3, self.stride, 1, bias=False)
        self.bn1 = BatchNorm2d(self.planes)
        self.conv2 = Conv2d(self.planes, self.planes, 3, padding=1, bias=False)
        self.bn2 = BatchNorm2d(self.planes)
        self.downsample = Sequential([]) if self.inplanes == self.planes else self.shortcut()

    def shortcut(self) -> Module:
        return downsample(self.inplanes, self.planes, self.stride)

    def __call__(self, x: Image, train: bool = False) -> Features:
        x = self.cast(x)
        y = relu(self.bn1(self.conv1(x), train))
        y = self.bn2(self.conv2(y), train)
        return relu(y + self.downsample(x, train))


class PreActBasicBlock(CifarBasicBlock):
    """The same with BatchNorm and ReLU in front of each convolution, and a projection without BatchNorm."""

    def setup(self) -> None:
        self.bn1 = BatchNorm2d(self.inplanes)
        self.conv1 = Conv2d(self.inplanes, self.planes, 3, self.stride, 1, bias=False)
        self.bn2 = BatchNorm2d(self.planes)
        self.conv2 = Conv2d(self.planes, self.planes, 3, padding=1, bias=False)
        projection = [Conv2d(self.inplanes, self.planes, 1, self.stride, bias=False)]
        self.downsample = Sequential([] if self.inplanes == self.planes else projection)

    def __call__(self, x: Image, train: bool = False) -> Features:
        x = self.cast(x)
        y = self.conv1(relu(self.bn1(x, train)))
        y = self.conv2(relu(self.bn2(y, train)))
        return y + self.downsample(x, train)


class CifarOptionABlock(CifarBasicBlock):
    """The same with zeros for the channels that x lacks, and every second pixel of it: nothing is projected."""

    def shortcut(self) -> Module:
        return OptionA(self.planes)
