"""Rethinking the Inception Architecture - Szegedy, Vanhoucke, Ioffe, Shlens, Wojna 2016, https://arxiv.org/abs/1512.00567"""

import torch
from torch import Tensor
from torch.nn import BatchNorm2d, Conv2d, Linear, Module, init
from torch.nn.functional import avg_pool2d, max_pool2d, relu

from torch_ref.blocks.se import SELayer


class BasicConv2d(Module):
    def __init__(self, in_channels, out_channels, kernel_size, stride=1, padding=0, stddev=0.1):
        super().__init__()
        self.conv = Conv2d(in_channels, out_channels, kernel_size, stride=stride, padding=padding, bias=False)
        self.bn = BatchNorm2d(out_channels, 0.001)
        init.normal_(self.conv.weight, std=stddev)

    def forward(self, x: Tensor) -> Tensor:
        return relu(self.bn(self.conv(x)))


def chain(x: Tensor, *layers: Module) -> Tensor:
    for layer in layers:
        x = layer(x)
    return x


class _Gated(Module):
    def __init__(self, gated):
        super().__init__()
        self.gated = gated

    def gate(self, x: Tensor) -> Tensor:
        return self.SELayer(x) if self.gated else x


class InceptionA(_Gated):
    def __init__(self, in_channels, pool_features, *, gated=False):
        super().__init__(gated)
        self.branch1x1 = BasicConv2d(in_channels, 64, 1)
        self.branch5x5_1 = BasicConv2d(in_channels, 48, 1)
        self.branch5x5_2 = BasicConv2d(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = BasicConv2d(in_channels, 64, 1)
        self.branch3x3dbl_2 = BasicConv2d(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = BasicConv2d(96, 96, 3, padding=1)
        self.branch_pool = BasicConv2d(in_channels, pool_features, 1)
        self.SELayer = SELayer(in_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.gate(x)
        five = chain(x, self.branch5x5_1, self.branch5x5_2)
        three = chain(x, self.branch3x3dbl_1, self.branch3x3dbl_2, self.branch3x3dbl_3)
        pooled = self.branch_pool(avg_pool2d(x, 3, 1, 1))
        return torch.cat([self.branch1x1(x), five, three, pooled], 1)


class InceptionB(_Gated):
    def __init__(self, in_channels, *, gated=False):
        super().__init__(gated)
        self.branch3x3 = BasicConv2d(in_channels, 384, 3, stride=2)
        self.branch3x3dbl_1 = BasicConv2d(in_channels, 64, 1)
        self.branch3x3dbl_2 = BasicConv2d(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = BasicConv2d(96, 96, 3, stride=2)
        self.SELayer = SELayer(in_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.gate(x)
        double = chain(x, self.branch3x3dbl_1, self.branch3x3dbl_2, self.branch3x3dbl_3)
        return torch.cat([self.branch3x3(x), double, max_pool2d(x, 3, 2)], 1)


class InceptionC(_Gated):
    def __init__(self, in_channels, channels_7x7, *, gated=False):
        super().__init__(gated)
        c = channels_7x7
        self.branch1x1 = BasicConv2d(in_channels, 192, 1)
        self.branch7x7_1 = BasicConv2d(in_channels, c, 1)
        self.branch7x7_2 = BasicConv2d(c, c, (1, 7), padding=(0, 3))
        self.branch7x7_3 = BasicConv2d(c, 192, (7, 1), padding=(3, 0))
        self.branch7x7dbl_1 = BasicConv2d(in_channels, c, 1)
        self.branch7x7dbl_2 = BasicConv2d(c, c, (7, 1), padding=(3, 0))
        self.branch7x7dbl_3 = BasicConv2d(c, c, (1, 7), padding=(0, 3))
        self.branch7x7dbl_4 = BasicConv2d(c, c, (7, 1), padding=(3, 0))
        self.branch7x7dbl_5 = BasicConv2d(c, 192, (1, 7), padding=(0, 3))
        self.branch_pool = BasicConv2d(in_channels, 192, 1)
        self.SELayer = SELayer(in_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.gate(x)
        seven = chain(x, self.branch7x7_1, self.branch7x7_2, self.branch7x7_3)
        double = chain(x, self.branch7x7dbl_1, self.branch7x7dbl_2, self.branch7x7dbl_3)
        double = chain(double, self.branch7x7dbl_4, self.branch7x7dbl_5)
        pooled = self.branch_pool(avg_pool2d(x, 3, 1, 1))
        return torch.cat([self.branch1x1(x), seven, double, pooled], 1)


class InceptionD(_Gated):
    def __init__(self, in_channels, *, gated=False):
        super().__init__(gated)
        self.branch3x3_1 = BasicConv2d(in_channels, 192, 1)
        self.branch3x3_2 = BasicConv2d(192, 320, 3, stride=2)
        self.branch7x7x3_1 = BasicConv2d(in_channels, 192, 1)
        self.branch7x7x3_2 = BasicConv2d(192, 192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3 = BasicConv2d(192, 192, (7, 1), padding=(3, 0))
        self.branch7x7x3_4 = BasicConv2d(192, 192, 3, stride=2)
        self.SELayer = SELayer(in_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.gate(x)
        three = chain(x, self.branch3x3_1, self.branch3x3_2)
        seven = chain(x, self.branch7x7x3_1, self.branch7x7x3_2, self.branch7x7x3_3, self.branch7x7x3_4)
        return torch.cat([three, seven, max_pool2d(x, 3, 2)], 1)


class InceptionE(_Gated):
    def __init__(self, in_channels, *, gated=False):
        super().__init__(gated)
        self.branch1x1 = BasicConv2d(in_channels, 320, 1)
        self.branch3x3_1 = BasicConv2d(in_channels, 384, 1)
        self.branch3x3_2a = BasicConv2d(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3_2b = BasicConv2d(384, 384, (3, 1), padding=(1, 0))
        self.branch3x3dbl_1 = BasicConv2d(in_channels, 448, 1)
        self.branch3x3dbl_2 = BasicConv2d(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = BasicConv2d(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3dbl_3b = BasicConv2d(384, 384, (3, 1), padding=(1, 0))
        self.branch_pool = BasicConv2d(in_channels, 192, 1)
        self.SELayer = SELayer(in_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.gate(x)
        y = self.branch3x3_1(x)
        three = [self.branch3x3_2a(y), self.branch3x3_2b(y)]
        y = chain(x, self.branch3x3dbl_1, self.branch3x3dbl_2)
        double = [self.branch3x3dbl_3a(y), self.branch3x3dbl_3b(y)]
        pooled = self.branch_pool(avg_pool2d(x, 3, 1, 1))
        return torch.cat([self.branch1x1(x), *three, *double, pooled], 1)


class InceptionAux(_Gated):
    def __init__(self, in_channels, num_classes, *, gated=False):
        super().__init__(gated)
        self.conv0 = BasicConv2d(in_channels, 128, 1)
        self.conv1 = BasicConv2d(128, 768, 5, stddev=0.01)
        self.fc = Linear(768, num_classes)
        init.normal_(self.fc.weight, std=0.001)
        self.SELayer = SELayer(in_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = avg_pool2d(self.gate(x), 5, 3)
        return self.fc(chain(x, self.conv0, self.conv1).mean((2, 3)))
