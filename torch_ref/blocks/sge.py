"""Spatial Group-wise Enhance - Li, Hu, Yang 2019, https://arxiv.org/abs/1905.09646"""

import torch
from torch import Tensor, nn

from torch_ref.blocks.resnet import BasicBlock, Bottleneck


class SpatialGroupEnhance(nn.Module):
    def __init__(self, groups=64, init_bias=1.0):
        super().__init__()
        self.groups = groups
        self.weight = nn.Parameter(torch.zeros(1, groups, 1, 1))
        self.bias = nn.Parameter(torch.full((1, groups, 1, 1), init_bias))

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        x = x.reshape(n * self.groups, c // self.groups, h, w)
        t = (x * x.mean((2, 3), keepdim=True)).sum(1).reshape(n * self.groups, h * w)
        t = (t - t.mean(1, keepdim=True)) / (t.std(1, keepdim=True) + 1e-5)
        gate = torch.sigmoid(t.reshape(n, self.groups, h, w) * self.weight + self.bias)
        return (x * gate.reshape(n * self.groups, 1, h, w)).reshape(n, c, h, w)


class SGEBasicBlock(BasicBlock):
    def __init__(
        self, inplanes, planes, stride=1, downsample=None, groups=1, base_width=64, dilation=1, norm_layer=None
    ):
        super().__init__(inplanes, planes, stride, downsample, groups, base_width, dilation, norm_layer)
        self.sge = SpatialGroupEnhance(64)

    def residual(self, x: Tensor) -> Tensor:
        return self.sge(super().residual(x))


class SGEBottleneck(Bottleneck):
    def __init__(
        self, inplanes, planes, stride=1, downsample=None, groups=1, base_width=64, dilation=1, norm_layer=None
    ):
        super().__init__(inplanes, planes, stride, downsample, groups, base_width, dilation, norm_layer)
        self.sge = SpatialGroupEnhance(64)

    def residual(self, x: Tensor) -> Tensor:
        return self.sge(super().residual(x))
