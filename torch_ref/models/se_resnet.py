"""Squeeze-and-Excitation Networks - Hu, Shen, Sun 2018, https://arxiv.org/abs/1709.01507"""

from functools import partial

from torch import Tensor
from torch.nn import Conv2d, Dropout, Module, Sequential
from torch.nn.functional import max_pool2d

from torch_ref.blocks.se import (
    CifarSEBasicBlock,
    SEBasicBlock,
    SEBottleneck,
    SENetBottleneck,
    SEResNetBlock,
    SEResNetBottleneck,
    SEResNeXtBottleneck,
)
from torch_ref.constructor import constructor
from torch_ref.models.cifar_resnet import CifarPreActResNet, CifarResNet
from torch_ref.models.preprocess import imagenet
from torch_ref.models.resnet import ResNet


class SEResNet(ResNet):
    def __init__(
        self,
        block,
        layers,
        num_classes=1000,
        groups=1,
        width_per_group=64,
        replace_stride_with_dilation=(False, False, False),
        norm_layer=None,
        stem_width=None,
        multi_grid=None,
        reduction=16,
    ):
        self.reduction = reduction
        super().__init__(
            block,
            layers,
            num_classes,
            groups=groups,
            width_per_group=width_per_group,
            replace_stride_with_dilation=replace_stride_with_dilation,
            norm_layer=norm_layer,
            stem_width=stem_width,
            multi_grid=multi_grid,
        )

    def make(self, planes, dilation):
        return partial(super().make(planes, dilation), reduction=self.reduction)


class SENet(SEResNet):
    def __init__(
        self,
        block,
        layers,
        num_classes=1000,
        groups=1,
        width_per_group=64,
        replace_stride_with_dilation=(False, False, False),
        norm_layer=None,
        stem_width=None,
        multi_grid=None,
        reduction=16,
        downsample_kernel_size=1,
        dropout_p=0.0,
    ):
        if downsample_kernel_size % 2 == 0:
            raise ValueError(f"SENet: expected an odd downsample_kernel_size, got {downsample_kernel_size}")
        self.downsample_kernel_size = downsample_kernel_size
        super().__init__(
            block,
            layers,
            num_classes,
            groups=groups,
            width_per_group=width_per_group,
            replace_stride_with_dilation=replace_stride_with_dilation,
            norm_layer=norm_layer,
            stem_width=stem_width,
            multi_grid=multi_grid,
            reduction=reduction,
        )
        self.dropout = Dropout(dropout_p)

    def shortcut(self, inplanes, planes, stride) -> Sequential:
        size = 1 if stride == 1 else self.downsample_kernel_size
        projection = Conv2d(inplanes, planes, size, stride=stride, padding=size // 2, bias=False)
        return Sequential(projection, self.norm(planes))

    def pool(self, x: Tensor) -> Tensor:
        return max_pool2d(x, 3, 2, ceil_mode=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.dropout(self.features(x)[-1].mean((2, 3)))
        return self.fc(x) if self.num_classes else x


class CifarSEResNet(CifarResNet):
    block = CifarSEBasicBlock

    def __init__(self, n_size, num_classes=10, reduction=16):
        self.reduction = reduction
        super().__init__(n_size, num_classes)

    def make(self, inplanes, planes, stride) -> Module:
        return self.block(inplanes, planes, stride, reduction=self.reduction)


class CifarSEPreActResNet(CifarSEResNet, CifarPreActResNet):
    block = CifarSEBasicBlock


preprocess = imagenet


@constructor(SEResNet, preprocess, block=SEBasicBlock, layers=(2, 2, 2, 2))
def se_resnet18(): ...


@constructor(SEResNet, preprocess, block=SEBasicBlock, layers=(3, 4, 6, 3))
def se_resnet34(): ...


@constructor(SEResNet, preprocess, block=SEBottleneck, layers=(3, 4, 6, 3))
def se_resnet50(): ...


@constructor(SEResNet, preprocess, block=SEBottleneck, layers=(3, 4, 23, 3))
def se_resnet101(): ...


@constructor(SEResNet, preprocess, block=SEBottleneck, layers=(3, 8, 36, 3))
def se_resnet152(): ...


@constructor(CifarSEResNet, preprocess, n_size=3)
def cifar_se_resnet20(): ...


@constructor(CifarSEResNet, preprocess, n_size=5)
def cifar_se_resnet32(): ...


@constructor(CifarSEResNet, preprocess, n_size=9)
def cifar_se_resnet56(): ...


@constructor(CifarSEPreActResNet, preprocess, n_size=3)
def cifar_se_preactresnet20(): ...


@constructor(CifarSEPreActResNet, preprocess, n_size=5)
def cifar_se_preactresnet32(): ...


@constructor(CifarSEPreActResNet, preprocess, n_size=9)
def cifar_se_preactresnet56(): ...


@constructor(SEResNet, preprocess, block=SEResNeXtBottleneck, layers=(3, 4, 6, 3))
def timm_seresnet50(): ...


@constructor(SENet, preprocess, block=SEResNetBlock, layers=(2, 2, 2, 2))
def legacy_seresnet18(): ...


@constructor(SENet, preprocess, block=SEResNetBlock, layers=(3, 4, 6, 3))
def legacy_seresnet34(): ...


@constructor(SENet, preprocess, block=SEResNetBottleneck, layers=(3, 4, 6, 3))
def legacy_seresnet50(): ...


@constructor(SENet, preprocess, block=SEResNetBottleneck, layers=(3, 4, 23, 3))
def legacy_seresnet101(): ...


@constructor(SENet, preprocess, block=SEResNetBottleneck, layers=(3, 8, 36, 3))
def legacy_seresnet152(): ...


@constructor(SENet, preprocess, block=SEResNeXtBottleneck, layers=(3, 4, 6, 3), groups=32, width_per_group=4)
def legacy_seresnext50_32x4d(): ...


@constructor(SENet, preprocess, block=SEResNeXtBottleneck, layers=(3, 4, 23, 3), groups=32, width_per_group=4)
def legacy_seresnext101_32x4d(): ...


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
def legacy_senet154(): ...
