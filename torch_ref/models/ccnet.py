"""Criss-Cross Attention for Semantic Segmentation - Huang, Wang, Wei et al. 2020, https://arxiv.org/abs/1811.11721"""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d, relu

from torch_ref.blocks.criss_cross import RCCAModule
from torch_ref.blocks.inplace_abn import ABN, InPlaceABN
from torch_ref.blocks.resnet import Bottleneck, downsample

BGR_MEAN = (104.00698793, 116.66876762, 122.67891434)

GEOMETRY = ((1, 1), (2, 1), (1, 2), (1, 4))


class CCNet(nn.Module):
    def __init__(self, num_classes, layers=(3, 4, 23, 3), recurrence=2, inplace_abn=True):
        super().__init__()
        if recurrence < 0:
            raise ValueError(f"CCNet: recurrence {recurrence}")
        self.layers, self.recurrence = layers, recurrence
        abn = InPlaceABN if inplace_abn else ABN
        norm = partial(abn, activation="identity")
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 3, 2, 1, bias=False), norm(64)
        self.conv2, self.bn2 = nn.Conv2d(64, 64, 3, padding=1, bias=False), norm(64)
        self.conv3, self.bn3 = nn.Conv2d(64, 128, 3, padding=1, bias=False), norm(128)
        width = 128
        for i, (blocks, (stride, dilation)) in enumerate(zip(layers, GEOMETRY, strict=False)):
            setattr(self, f"layer{i + 1}", stage(width, 64 * 2**i, blocks, stride, dilation, norm))
            width = 64 * 2**i * Bottleneck.expansion
        self.head = RCCAModule(width, width // 4, num_classes, inplace_abn)
        first, last = nn.Conv2d(width // 2, width // 4, 3, padding=1), nn.Conv2d(width // 4, num_classes, 1)
        self.dsn = nn.Sequential(first, abn(width // 4), nn.Dropout2d(0.1), last)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = relu(self.bn1(self.conv1(x)))
        x = relu(self.bn2(self.conv2(x)))
        x = relu(self.bn3(self.conv3(x)))
        x = max_pool2d(x, 3, 2, 1, ceil_mode=True)
        maps = [x]
        for i in range(len(self.layers)):
            maps.append(getattr(self, f"layer{i + 1}")(maps[-1]))
        return self.head(maps[-1], self.recurrence), self.dsn(maps[-2])


def stage(inplanes, planes, blocks, stride, dilation, norm) -> nn.Sequential:
    outside = planes * Bottleneck.expansion
    first = Bottleneck(inplanes, planes, stride, downsample(inplanes, outside, stride, norm), 1, 64, dilation, norm)
    rest = [Bottleneck(outside, planes, 1, None, 1, 64, dilation, norm) for _ in range(blocks - 1)]
    return nn.Sequential(first, *rest)


def preprocess(images: Tensor) -> Tensor:
    return images.flip(-3).float() - torch.tensor(BGR_MEAN).reshape(3, 1, 1)


def upsample(scores: Tensor, size) -> Tensor:
    return interpolate(scores, size, mode="bilinear", align_corners=True)


def ccnet_resnet101(num_classes=19, recurrence=2, inplace_abn=True) -> CCNet:
    return CCNet(num_classes, (3, 4, 23, 3), recurrence, inplace_abn)
