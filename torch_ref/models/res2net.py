"""Res2Net: A New Multi-scale Backbone Architecture - Gao et al. 2019, https://arxiv.org/abs/1904.01169"""

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, max_pool2d, relu

from torch_ref.blocks.resnet import add_shortcut
from torch_ref.models.resnet import deep_stem


def pooled_downsample(inplanes: int, planes: int, stride: int = 1) -> nn.Sequential:
    pool = nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False)
    return nn.Sequential(pool, nn.Conv2d(inplanes, planes, 1, bias=False), nn.BatchNorm2d(planes))


class Bottle2neck(nn.Module):
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
        self.conv1 = nn.Conv2d(inplanes, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.convs = nn.ModuleList([nn.Conv2d(width, width, 3, stride, 1, bias=False) for _ in convolved])
        self.bns = nn.ModuleList([nn.BatchNorm2d(width) for _ in convolved])
        self.conv3 = nn.Conv2d(inner, planes, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        y = relu(self.bn1(self.conv1(x)))
        *groups, last = y.chunk(self.scale, 1)
        done = []
        for group, conv, bn in zip(groups, self.convs, self.bns, strict=True):
            group = group + done[-1] if done and not self.first else group
            done.append(relu(bn(conv(group))))
        done.append(avg_pool2d(last, 3, self.stride, 1) if self.first else last)
        y = self.bn3(self.conv3(torch.cat(done, 1)))
        return relu(add_shortcut(self, y, x))


def stage(inplanes, planes, blocks, stride, base_width=26, scale=4) -> nn.Sequential:
    outside, sizes = planes * Bottle2neck.expansion, (base_width, scale)
    shortcut = pooled_downsample(inplanes, outside, stride)
    first = Bottle2neck(inplanes, planes, stride, shortcut, *sizes, first=True)
    return nn.Sequential(first, *[Bottle2neck(outside, planes, 1, None, *sizes) for _ in range(blocks - 1)])


class Res2Net(nn.Module):
    def __init__(self, layers, base_width=26, scale=4, num_classes=1000):
        super().__init__()
        self.layers, self.num_classes = layers, num_classes
        self.conv1 = deep_stem(32, nn.BatchNorm2d)
        self.bn1 = nn.BatchNorm2d(64)
        inplanes, planes = 64, 64
        for i, blocks in enumerate(layers):
            made = stage(inplanes, planes, blocks, 1 if i == 0 else 2, base_width, scale)
            setattr(self, f"layer{i + 1}", made)
            inplanes, planes = planes * Bottle2neck.expansion, 2 * planes
        if num_classes:
            self.fc = nn.Linear(inplanes, num_classes)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")

    def features(self, x: Tensor) -> list[Tensor]:
        x = relu(self.bn1(self.conv1(x)))
        x = max_pool2d(x, 3, 2, 1)
        maps = []
        for i in range(len(self.layers)):
            x = getattr(self, f"layer{i + 1}")(x)
            maps.append(x)
        return maps

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)[-1].mean((2, 3))
        return self.fc(x) if self.num_classes else x


def res2net50_v1b_26w_4s(num_classes=1000) -> Res2Net:
    return Res2Net((3, 4, 6, 3), num_classes=num_classes)
