"""Squeeze-and-Excitation Networks - Hu, Shen, Sun 2018, https://arxiv.org/abs/1709.01507

Follows: moskomule/senet.pytorch for ``SEResNet`` of SEBasicBlock and SEBottleneck and for the CIFAR networks: their
gates have no biases; Cadene/pretrained-models.pytorch for ``SENet``, timm's legacy networks; timm's seresnet50 for
``timm_seresnet50``. All have moskomule's keys here.
Differs: ``reduction`` of ``SEResNet`` is an argument. Upstream's CifarSEPreActResNet forgets to return its result; its
blocks, kept here, are not pre-activation ones.
Assumed: the convolutions of Cadene's and timm's networks start as those of torchvision's ResNet.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

from flax_attn.blocks.se import (
    CifarSEBasicBlock,
    SEBasicBlock,
    SEBottleneck,
    SENetBottleneck,
    SEResNetBlock,
    SEResNetBottleneck,
    SEResNeXtBottleneck,
)
from flax_attn.layers import Conv2d, Dropout, Module, Sequential, max_pool, require
from flax_attn.models.cifar_resnet import CifarPreActResNet, CifarResNet
from flax_attn.models.preprocess import imagenet
from flax_attn.models.resnet import ResNet
from flax_attn.shapes import Features, Image, Scores


class SEResNet(ResNet):
    """A ResNet of blocks with an SELayer, whose hidden layer has the block's channels divided by ``reduction``."""

    reduction: int = 16

    def make(self, planes: int, dilation: int) -> Callable[..., Module]:
        return partial(super().make(planes, dilation), reduction=self.reduction)


class SENet(SEResNet):
    """An SEResNet whose max pooling has no padding and keeps an incomplete last window.

    Args:
        downsample_kernel_size: kernel size, odd, of the shortcuts that stride; the padding is half of it.
        dropout_p: the probability with which a feature in front of the classifier is dropped.
    """

    downsample_kernel_size: int = 1
    dropout_p: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        size = self.downsample_kernel_size
        require(size % 2 == 1, f"SENet: expected an odd downsample_kernel_size, got {size}")

    def setup(self) -> None:
        super().setup()
        self.dropout = Dropout(self.dropout_p)

    def shortcut(self, inplanes: int, planes: int, stride: int) -> Sequential:
        size = 1 if stride == 1 else self.downsample_kernel_size
        projection = Conv2d(inplanes, planes, size, stride=stride, padding=size // 2, bias=False)
        return Sequential([projection, self.norm(planes)])

    def pool(self, x: Image) -> Features:
        return max_pool(x, 3, 2, ceil_mode=True)

    def __call__(self, x: Image, train: bool = False) -> Scores:
        x = self.dropout(self.features(x, train)[-1].mean((1, 2)), train)
        return self.fc(x) if self.num_classes else x


class CifarSEResNet(CifarResNet):
    """A CifarResNet of blocks with an SELayer, whose hidden layer has the block's channels divided by ``reduction``."""

    reduction: int = 16

    block: ClassVar[Any] = CifarSEBasicBlock

    def make(self, inplanes: int, planes: int, stride: int) -> Module:
        return self.block(inplanes, planes, stride, reduction=self.reduction)


class CifarSEPreActResNet(CifarSEResNet, CifarPreActResNet):
    """A ``CifarSEResNet`` with BatchNorm and ReLU behind the last stage, not behind the first convolution."""

    block: ClassVar[Any] = CifarSEBasicBlock


preprocess = imagenet


def se_resnet18(num_classes: int = 1000, reduction: int = 16) -> SEResNet:
    """moskomule's ``se_resnet18``."""
    return SEResNet(SEBasicBlock, (2, 2, 2, 2), num_classes, reduction=reduction)


def se_resnet34(num_classes: int = 1000, reduction: int = 16) -> SEResNet:
    """moskomule's ``se_resnet34``."""
    return SEResNet(SEBasicBlock, (3, 4, 6, 3), num_classes, reduction=reduction)


def se_resnet50(num_classes: int = 1000, reduction: int = 16) -> SEResNet:
    """moskomule's ``se_resnet50``."""
    return SEResNet(SEBottleneck, (3, 4, 6, 3), num_classes, reduction=reduction)


def se_resnet101(num_classes: int = 1000, reduction: int = 16) -> SEResNet:
    """moskomule's ``se_resnet101``."""
    return SEResNet(SEBottleneck, (3, 4, 23, 3), num_classes, reduction=reduction)


def se_resnet152(num_classes: int = 1000, reduction: int = 16) -> SEResNet:
    """moskomule's ``se_resnet152``."""
    return SEResNet(SEBottleneck, (3, 8, 36, 3), num_classes, reduction=reduction)


def cifar_se_resnet20(num_classes: int = 10, reduction: int = 16) -> CifarSEResNet:
    """20 layers."""
    return CifarSEResNet(3, num_classes, reduction)


def cifar_se_resnet32(num_classes: int = 10, reduction: int = 16) -> CifarSEResNet:
    """32 layers."""
    return CifarSEResNet(5, num_classes, reduction)


def cifar_se_resnet56(num_classes: int = 10, reduction: int = 16) -> CifarSEResNet:
    """56 layers."""
    return CifarSEResNet(9, num_classes, reduction)


def cifar_se_preactresnet20(num_classes: int = 10, reduction: int = 16) -> CifarSEPreActResNet:
    """20 layers."""
    return CifarSEPreActResNet(3, num_classes, reduction)


def cifar_se_preactresnet32(num_classes: int = 10, reduction: int = 16) -> CifarSEPreActResNet:
    """32 layers."""
    return CifarSEPreActResNet(5, num_classes, reduction)


def cifar_se_preactresnet56(num_classes: int = 10, reduction: int = 16) -> CifarSEPreActResNet:
    """56 layers."""
    return CifarSEPreActResNet(9, num_classes, reduction)


def timm_seresnet50(num_classes: int = 1000) -> SEResNet:
    """timm's ``seresnet50``."""
    return SEResNet(SEResNeXtBottleneck, (3, 4, 6, 3), num_classes)


def legacy_seresnet18(num_classes: int = 1000) -> SENet:
    """timm's ``legacy_seresnet18``."""
    return SENet(SEResNetBlock, (2, 2, 2, 2), num_classes)


def legacy_seresnet34(num_classes: int = 1000) -> SENet:
    """timm's ``legacy_seresnet34``."""
    return SENet(SEResNetBlock, (3, 4, 6, 3), num_classes)


def legacy_seresnet50(num_classes: int = 1000) -> SENet:
    """timm's ``legacy_seresnet50``, Cadene's ``se_resnet50``."""
    return SENet(SEResNetBottleneck, (3, 4, 6, 3), num_classes)


def legacy_seresnet101(num_classes: int = 1000) -> SENet:
    """timm's ``legacy_seresnet101``, Cadene's ``se_resnet101``."""
    return SENet(SEResNetBottleneck, (3, 4, 23, 3), num_classes)


def legacy_seresnet152(num_classes: int = 1000) -> SENet:
    """timm's ``legacy_seresnet152``, Cadene's ``se_resnet152``."""
    return SENet(SEResNetBottleneck, (3, 8, 36, 3), num_classes)


def legacy_seresnext50_32x4d(num_classes: int = 1000) -> SENet:
    """timm's ``legacy_seresnext50_32x4d``, Cadene's ``se_resnext50_32x4d``."""
    return SENet(SEResNeXtBottleneck, (3, 4, 6, 3), num_classes, groups=32, width_per_group=4)


def legacy_seresnext101_32x4d(num_classes: int = 1000) -> SENet:
    """timm's ``legacy_seresnext101_32x4d``, Cadene's ``se_resnext101_32x4d``."""
    return SENet(SEResNeXtBottleneck, (3, 4, 23, 3), num_classes, groups=32, width_per_group=4)


def legacy_senet154(num_classes: int = 1000) -> SENet:
    """timm's ``legacy_senet154``, Cadene's ``senet154``."""
    return SENet(
        SENetBottleneck,
        (3, 8, 36, 3),
        num_classes,
        groups=64,
        stem_width=64,
        downsample_kernel_size=3,
        dropout_p=0.2,
    )
