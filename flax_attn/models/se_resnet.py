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
from flax_attn.constructor import constructor
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


@constructor(SEResNet, preprocess, block=SEBasicBlock, layers=(2, 2, 2, 2))
def se_resnet18() -> None:
    """moskomule's ``se_resnet18``.

    Input: images (n, 224, 224, 3), pixels from 0 to 1, then normalised as for ImageNet.
    """


@constructor(SEResNet, preprocess, block=SEBasicBlock, layers=(3, 4, 6, 3))
def se_resnet34() -> None:
    """moskomule's ``se_resnet34``.

    Input: images (n, 224, 224, 3), pixels from 0 to 1, then normalised as for ImageNet.
    """


@constructor(SEResNet, preprocess, block=SEBottleneck, layers=(3, 4, 6, 3))
def se_resnet50() -> None:
    """moskomule's ``se_resnet50``.

    Input: images (n, 224, 224, 3), pixels from 0 to 1, then normalised as for ImageNet.
    """


@constructor(SEResNet, preprocess, block=SEBottleneck, layers=(3, 4, 23, 3))
def se_resnet101() -> None:
    """moskomule's ``se_resnet101``.

    Input: images (n, 224, 224, 3), pixels from 0 to 1, then normalised as for ImageNet.
    """


@constructor(SEResNet, preprocess, block=SEBottleneck, layers=(3, 8, 36, 3))
def se_resnet152() -> None:
    """moskomule's ``se_resnet152``.

    Input: images (n, 224, 224, 3), pixels from 0 to 1, then normalised as for ImageNet.
    """


@constructor(CifarSEResNet, preprocess, n_size=3)
def cifar_se_resnet20() -> None:
    """20 layers, with an SELayer in each block.

    Input: images (n, 32, 32, 3), pixels from 0 to 1, then normalised as for CIFAR-10.
    """


@constructor(CifarSEResNet, preprocess, n_size=5)
def cifar_se_resnet32() -> None:
    """32 layers, with an SELayer in each block.

    Input: images (n, 32, 32, 3), pixels from 0 to 1, then normalised as for CIFAR-10.
    """


@constructor(CifarSEResNet, preprocess, n_size=9)
def cifar_se_resnet56() -> None:
    """56 layers, with an SELayer in each block.

    Input: images (n, 32, 32, 3), pixels from 0 to 1, then normalised as for CIFAR-10.
    """


@constructor(CifarSEPreActResNet, preprocess, n_size=3)
def cifar_se_preactresnet20() -> None:
    """20 layers, with an SELayer in each block, BatchNorm and ReLU behind the last stage.

    Input: images (n, 32, 32, 3), pixels from 0 to 1, then normalised as for CIFAR-10.
    """


@constructor(CifarSEPreActResNet, preprocess, n_size=5)
def cifar_se_preactresnet32() -> None:
    """32 layers, with an SELayer in each block, BatchNorm and ReLU behind the last stage.

    Input: images (n, 32, 32, 3), pixels from 0 to 1, then normalised as for CIFAR-10.
    """


@constructor(CifarSEPreActResNet, preprocess, n_size=9)
def cifar_se_preactresnet56() -> None:
    """56 layers, with an SELayer in each block, BatchNorm and ReLU behind the last stage.

    Input: images (n, 32, 32, 3), pixels from 0 to 1, then normalised as for CIFAR-10.
    """


@constructor(SEResNet, preprocess, block=SEResNeXtBottleneck, layers=(3, 4, 6, 3))
def timm_seresnet50() -> None:
    """timm's ``seresnet50``.

    Input: images (n, 224, 224, 3), pixels from 0 to 1, then normalised as for ImageNet.
    """


@constructor(SENet, preprocess, block=SEResNetBlock, layers=(2, 2, 2, 2))
def legacy_seresnet18() -> None:
    """timm's ``legacy_seresnet18``.

    Input: images (n, 224, 224, 3), pixels from 0 to 1, then normalised as for ImageNet.
    """


@constructor(SENet, preprocess, block=SEResNetBlock, layers=(3, 4, 6, 3))
def legacy_seresnet34() -> None:
    """timm's ``legacy_seresnet34``.

    Input: images (n, 224, 224, 3), pixels from 0 to 1, then normalised as for ImageNet.
    """


@constructor(SENet, preprocess, block=SEResNetBottleneck, layers=(3, 4, 6, 3))
def legacy_seresnet50() -> None:
    """timm's ``legacy_seresnet50``, Cadene's ``se_resnet50``.

    Input: images (n, 224, 224, 3), pixels from 0 to 1, then normalised as for ImageNet.
    """


@constructor(SENet, preprocess, block=SEResNetBottleneck, layers=(3, 4, 23, 3))
def legacy_seresnet101() -> None:
    """timm's ``legacy_seresnet101``, Cadene's ``se_resnet101``.

    Input: images (n, 224, 224, 3), pixels from 0 to 1, then normalised as for ImageNet.
    """


@constructor(SENet, preprocess, block=SEResNetBottleneck, layers=(3, 8, 36, 3))
def legacy_seresnet152() -> None:
    """timm's ``legacy_seresnet152``, Cadene's ``se_resnet152``.

    Input: images (n, 224, 224, 3), pixels from 0 to 1, then normalised as for ImageNet.
    """


@constructor(SENet, preprocess, block=SEResNeXtBottleneck, layers=(3, 4, 6, 3), groups=32, width_per_group=4)
def legacy_seresnext50_32x4d() -> None:
    """timm's ``legacy_seresnext50_32x4d``, Cadene's ``se_resnext50_32x4d``.

    Input: images (n, 224, 224, 3), pixels from 0 to 1, then normalised as for ImageNet.
    """


@constructor(SENet, preprocess, block=SEResNeXtBottleneck, layers=(3, 4, 23, 3), groups=32, width_per_group=4)
def legacy_seresnext101_32x4d() -> None:
    """timm's ``legacy_seresnext101_32x4d``, Cadene's ``se_resnext101_32x4d``.

    Input: images (n, 224, 224, 3), pixels from 0 to 1, then normalised as for ImageNet.
    """


@constructor(
    SENet,
    preprocess,
    block=SENetBottleneck,
    layers=(3, 8, 36, 3),
    groups=64,
    stem_width=64,
    downsample_kernel_size=3,
    dropout_p=0.2,
)
def legacy_senet154() -> None:
    """timm's ``legacy_senet154``, Cadene's ``senet154``.

    Input: images (n, 224, 224, 3), pixels from 0 to 1, then normalised as for ImageNet.
    """
