"""Deep Residual Learning for Image Recognition - He, Zhang, Ren, Sun 2016, https://arxiv.org/abs/1512.03385

Follows: moskomule/senet.pytorch for ``CifarResNet`` (option B) and ``CifarPreActResNet``
(https://arxiv.org/abs/1603.05027); akamaster/pytorch_resnet_cifar10 for ``CifarOptionAResNet``, whose images are
normalised as for ImageNet.
Assumed: moskomule's images are normalised by the mean and the deviation of CIFAR-10; that code takes its images from
another package.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar

from flax_attn.blocks.cifar_resnet import CifarBasicBlock, CifarOptionABlock, PreActBasicBlock
from flax_attn.layers import BatchNorm2d, Conv2d, InitRule, Linear, Module, Sequential, init, relu, require
from flax_attn.models.preprocess import cifar10
from flax_attn.shapes import Image, Scores


class CifarResNet(Module):
    """Class scores (n, num_classes) of small images x (n, h, w, 3), from three stages of ``n_size`` blocks each."""

    n_size: int
    num_classes: int = 10

    block: ClassVar[Any] = CifarBasicBlock
    normalised: ClassVar[int] = 16
    init_rules: ClassVar[Sequence[InitRule]] = (InitRule(Conv2d, "kernel", init.kaiming_normal()),)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.n_size >= 1, f"{type(self).__name__}: expected n_size >= 1, got {self.n_size}")

    def setup(self) -> None:
        self.conv1 = Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = BatchNorm2d(self.normalised)
        self.layer1 = self.stage(16, 16, 1)
        self.layer2 = self.stage(16, 32, 2)
        self.layer3 = self.stage(32, 64, 2)
        self.fc = Linear(64, self.num_classes)

    def stage(self, inplanes: int, planes: int, stride: int) -> Sequential:
        widths = pairwise([inplanes] + [planes] * self.n_size)
        return Sequential([self.make(a, b, stride if i == 0 else 1) for i, (a, b) in enumerate(widths)])

    def make(self, inplanes: int, planes: int, stride: int) -> Module:
        return self.block(inplanes, planes, stride)

    def __call__(self, x: Image, train: bool = False) -> Scores:
        x = relu(self.bn1(self.conv1(self.cast(x)), train))
        x = self.layer3(self.layer2(self.layer1(x, train), train), train)
        return self.fc(x.mean((1, 2)))


class CifarPreActResNet(CifarResNet):
    """A ``CifarResNet`` of pre-activation blocks: BatchNorm and ReLU come behind the last stage only."""

    block = PreActBasicBlock
    normalised = 64

    def __call__(self, x: Image, train: bool = False) -> Scores:
        x = self.conv1(self.cast(x))
        x = self.layer3(self.layer2(self.layer1(x, train), train), train)
        return self.fc(relu(self.bn1(x, train)).mean((1, 2)))


class CifarOptionAResNet(CifarResNet):
    """A ``CifarResNet`` whose shortcuts have no parameters; published files call ``fc`` ``linear``."""

    block = CifarOptionABlock
    init_rules = (InitRule(Conv2d, "kernel", init.kaiming_normal()), InitRule(Linear, "kernel", init.kaiming_normal()))


preprocess = cifar10


def cifar_resnet20(num_classes: int = 10) -> CifarResNet:
    """20 layers, option B."""
    return CifarResNet(3, num_classes)


def cifar_resnet32(num_classes: int = 10) -> CifarResNet:
    """32 layers, option B."""
    return CifarResNet(5, num_classes)


def cifar_resnet44(num_classes: int = 10) -> CifarResNet:
    """44 layers, option B."""
    return CifarResNet(7, num_classes)


def cifar_resnet56(num_classes: int = 10) -> CifarResNet:
    """56 layers, option B."""
    return CifarResNet(9, num_classes)


def cifar_resnet110(num_classes: int = 10) -> CifarResNet:
    """110 layers, option B."""
    return CifarResNet(18, num_classes)


def cifar_preact_resnet20(num_classes: int = 10) -> CifarPreActResNet:
    """20 layers, pre-activation."""
    return CifarPreActResNet(3, num_classes)


def cifar_preact_resnet110(num_classes: int = 10) -> CifarPreActResNet:
    """110 layers, pre-activation."""
    return CifarPreActResNet(18, num_classes)


def cifar_resnet20_option_a(num_classes: int = 10) -> CifarOptionAResNet:
    """20 layers, option A."""
    return CifarOptionAResNet(3, num_classes)


def cifar_resnet32_option_a(num_classes: int = 10) -> CifarOptionAResNet:
    """32 layers, option A."""
    return CifarOptionAResNet(5, num_classes)


def cifar_resnet44_option_a(num_classes: int = 10) -> CifarOptionAResNet:
    """44 layers, option A."""
    return CifarOptionAResNet(7, num_classes)


def cifar_resnet56_option_a(num_classes: int = 10) -> CifarOptionAResNet:
    """56 layers, option A."""
    return CifarOptionAResNet(9, num_classes)


def cifar_resnet110_option_a(num_classes: int = 10) -> CifarOptionAResNet:
    """110 layers, option A."""
    return CifarOptionAResNet(18, num_classes)
