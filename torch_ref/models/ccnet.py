"""Criss-Cross Attention for Semantic Segmentation - Huang, Wang, Wei et al. 2020, https://arxiv.org/abs/1811.11721"""

from functools import partial

import torch
from torch import Tensor
from torch.nn import Conv2d, Dropout2d, Module, Sequential
from torch.nn.functional import interpolate, max_pool2d, relu

from torch_ref.blocks.criss_cross import RCCAModule
from torch_ref.blocks.inplace_abn import ABN, InPlaceABN
from torch_ref.blocks.resnet import Bottleneck, downsample, stage
from torch_ref.constructor import constructor
from torch_ref.models.resnet import stage_maps

BGR_MEAN = (104.00698793, 116.66876762, 122.67891434)

GEOMETRY = ((1, 1), (2, 1), (1, 2), (1, 4))


class CCNet(Module):
    def __init__(self, num_classes, layers=(3, 4, 23, 3), recurrence=2, inplace_abn=True, dropout=0.1):
        super().__init__()
        if recurrence < 0:
            raise ValueError(f"CCNet: expected recurrence >= 0, got {recurrence}")
        self.layers, self.recurrence = layers, recurrence
        abn = InPlaceABN if inplace_abn else ABN
        norm = partial(abn, activation="identity")
        self.conv1, self.bn1 = Conv2d(3, 64, 3, stride=2, padding=1, bias=False), norm(64)
        self.conv2, self.bn2 = Conv2d(64, 64, 3, padding=1, bias=False), norm(64)
        self.conv3, self.bn3 = Conv2d(64, 128, 3, padding=1, bias=False), norm(128)
        width, shortcut = 128, partial(downsample, norm_layer=norm)
        for i, (count, (stride, dilation)) in enumerate(zip(layers, GEOMETRY, strict=False)):
            blocks = [partial(Bottleneck, planes=64 * 2**i, dilation=dilation, norm_layer=norm)] * count
            outplanes = 64 * 2**i * Bottleneck.expansion
            setattr(self, f"layer{i + 1}", stage(blocks, width, outplanes, stride=stride, shortcut=shortcut))
            width = outplanes
        self.head = RCCAModule(width, width // 4, num_classes, inplace_abn=inplace_abn, dropout=dropout)
        first, last = Conv2d(width // 2, width // 4, 3, padding=1), Conv2d(width // 4, num_classes, 1)
        self.dsn = Sequential(first, abn(width // 4), Dropout2d(dropout), last)

    def stages(self):
        return [getattr(self, f"layer{i + 1}") for i in range(len(self.layers))]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = relu(self.bn1(self.conv1(x)))
        x = relu(self.bn2(self.conv2(x)))
        x = relu(self.bn3(self.conv3(x)))
        x = max_pool2d(x, 3, 2, padding=1, ceil_mode=True)
        *_, auxiliary, last = stage_maps(self.stages(), x)
        return self.head(last, self.recurrence), self.dsn(auxiliary)


def preprocess(images: Tensor) -> Tensor:
    return images.flip(-3).float() - torch.tensor(BGR_MEAN).reshape(3, 1, 1)


def upsample(scores: Tensor, size) -> Tensor:
    return interpolate(scores, size, mode="bilinear", align_corners=True)


@constructor(CCNet, preprocess, num_classes=19)
def ccnet_resnet101(): ...
