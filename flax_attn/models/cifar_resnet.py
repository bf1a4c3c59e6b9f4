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
from flax_attn.constructor import constructor
from flax_attn.layers import BatchNorm2d, Conv2d, InitRule, Linear, Module, Sequential, init, relu, require
from flax_attn.models.preprocess import cifar10, normalize
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


@constructor(CifarResNet, preprocess, n_size=3)
def cifar_resnet20() -> None:
    """20 layers, option B.

    Input: images (n, 32, 32, 3), pixels from 0 to 1, then normalised as for CIFAR-10.
    """


@constructor(CifarResNet, preprocess, n_size=5)
def cifar_resnet32() -> None:
    """32 layers, option B.

    Input: images (n, 32, 32, 3), pixels from 0 to 1, then normalised as for CIFAR-10.
    """


@constructor(CifarResNet, preprocess, n_size=7)
def cifar_resnet44() -> None:
    """44 layers, option B.

    Input: images (n, 32, 32, 3), pixels from 0 to 1, then normalised as for CIFAR-10.
    """


@constructor(CifarResNet, preprocess, n_size=9)
def cifar_resnet56() -> None:
    """56 layers, option B.

    Input: images (n, 32, 32, 3), pixels from 0 to 1, then normalised as for CIFAR-10.
    """


@constructor(CifarResNet, preprocess, n_size=18)
def cifar_resnet110() -> None:
    """110 layers, option B.

    Input: images (n, 32, 32, 3), pixels from 0 to 1, then normalised as for CIFAR-10.
    """


@constructor(CifarPreActResNet, preprocess, n_size=3)
def cifar_preact_resnet20() -> None:
    """20 layers, pre-activation.

    Input: images (n, 32, 32, 3), pixels from 0 to 1, then normalised as for CIFAR-10.
    """


@constructor(CifarPreActResNet, preprocess, n_size=18)
def cifar_preact_resnet110() -> None:
    """110 layers, pre-activation.

    Input: images (n, 32, 32, 3), pixels from 0 to 1, then normalised as for CIFAR-10.
    """


@constructor(CifarOptionAResNet, normalize, n_size=3)
def cifar_resnet20_option_a() -> None:
    """20 layers, option A.

    Input: images (n, 32, 32, 3), pixels from 0 to 1, then normalised as for ImageNet.
    """


@constructor(CifarOptionAResNet, normalize, n_size=5)
def cifar_resnet32_option_a() -> None:
    """32 layers, option A.

    Input: images (n, 32, 32, 3), pixels from 0 to 1, then normalised as for ImageNet.
    """


@constructor(CifarOptionAResNet, normalize, n_size=7)
def cifar_resnet44_option_a() -> None:
    """44 layers, option A.

    Input: images (n, 32, 32, 3), pixels from 0 to 1, then normalised as for ImageNet.
    """


@constructor(CifarOptionAResNet, normalize, n_size=9)
def cifar_resnet56_option_a() -> None:
    """56 layers, option A.

    Input: images (n, 32, 32, 3), pixels from 0 to 1, then normalised as for ImageNet.
    """


@constructor(CifarOptionAResNet, normalize, n_size=18)
def cifar_resnet110_option_a() -> None:
    """110 layers, option A.

    Input: images (n, 32, 32, 3), pixels from 0 to 1, then normalised as for ImageNet.
    """
