"""Res2Net: A New Multi-scale Backbone Architecture - Gao et al. 2019, https://arxiv.org/abs/1904.01169"""

from functools import partial

import torch
from torch import Tensor
from torch.nn import AvgPool2d, BatchNorm2d, Conv2d, Linear, Module, ModuleList, Sequential
from torch.nn.functional import avg_pool2d, max_pool2d, relu

from torch_ref.blocks.resnet import add_shortcut, stage
from torch_ref.constructor import constructor
from torch_ref.models.preprocess import imagenet
from torch_ref.models.resnet import deep_stem, stage_maps, start_convolutions


def pooled_downsample(inplanes: int, planes: int, stride: int = 1) -> Sequential:
    pool = AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False)
    return Sequential(pool, Conv2d(inplanes, planes, 1, bias=False), BatchNorm2d(planes))


class Bottle2neck(Module):
    expansion = 4

    def __init__(self, inplanes, planes, stride=1, downsample=None, base_width=26, scale=4, first=False):
        super().__init__()
        if scale < 2:
            raise ValueError(f"Bottle2neck: expected scale >= 2, got {scale}")
        if stride != 1 and not first:
            raise ValueError(f"Bottle2neck: expected stride 1 in a block that is not first, got {stride}")
        self.stride, self.scale, self.first = stride, scale, first
        width, convolved = int(planes * (base_width / 64)), range(scale - 1)
        planes, inner = planes * self.expansion, width * scale
        self.conv1 = Conv2d(inplanes, inner, 1, bias=False)
        self.bn1 = BatchNorm2d(inner)
        self.convs = ModuleList([Conv2d(width, width, 3, stride=stride, padding=1, bias=False) for _ in convolved])
        self.bns = ModuleList([BatchNorm2d(width) for _ in convolved])
        self.conv3 = Conv2d(inner, planes, 1, bias=False)
        self.bn3 = BatchNorm2d(planes)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        y = relu(self.bn1(self.conv1(x)))
        *groups, last = y.chunk(self.scale, 1)
        done = []
        for group, conv, bn in zip(groups, self.convs, self.bns, strict=True):
            group = group + done[-1] if done and not self.first else group
            done.append(relu(bn(conv(group))))
        done.append(avg_pool2d(last, 3, self.stride, padding=1) if self.first else last)
        y = self.bn3(self.conv3(torch.cat(done, 1)))
        return relu(add_shortcut(self, y, x))


def res2net_stage(inplanes, planes, layers, stride=1, base_width=26, scale=4) -> Sequential:
    block = partial(Bottle2neck, planes=planes, base_width=base_width, scale=scale)
    blocks = [partial(block, first=i == 0) for i in range(layers)]
    return stage(blocks, inplanes, planes * Bottle2neck.expansion, stride=stride, shortcut=pooled_downsample)


class Res2Net(Module):
    def __init__(self, layers, base_width=26, scale=4, num_classes=1000):
        super().__init__()
        self.layers, self.num_classes = layers, num_classes
        self.conv1 = deep_stem(32, BatchNorm2d)
        self.bn1 = BatchNorm2d(64)
        width = 64
        for i, blocks in enumerate(layers):
            planes, stride = 64 * 2**i, 1 if i == 0 else 2
            made = res2net_stage(width, planes, blocks, stride=stride, base_width=base_width, scale=scale)
            setattr(self, f"layer{i + 1}", made)
            width = planes * Bottle2neck.expansion
        if num_classes:
            self.fc = Linear(width, num_classes)
        start_convolutions(self)

    def stages(self):
        return [getattr(self, f"layer{i + 1}") for i in range(len(self.layers))]

    def features(self, x: Tensor) -> list[Tensor]:
        x = relu(self.bn1(self.conv1(x)))
        return stage_maps(self.stages(), max_pool2d(x, 3, 2, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)[-1].mean((2, 3))
        return self.fc(x) if self.num_classes else x


preprocess = imagenet


@constructor(Res2Net, preprocess, layers=(3, 4, 6, 3))
def res2net50_v1b_26w_4s(): ...
