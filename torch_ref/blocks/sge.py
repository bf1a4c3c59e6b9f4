"""Spatial Group-wise Enhance - Li, Hu, Yang 2019, https://arxiv.org/abs/1905.09646"""

import torch
from torch import Tensor, sigmoid
from torch.nn import Module, Parameter

from torch_ref.blocks.resnet import BasicBlock, Bottleneck


class SpatialGroupEnhance(Module):
    def __init__(self, groups=64, init_bias=1.0):
        super().__init__()
        self.groups = groups
        self.weight = Parameter(torch.zeros(1, groups, 1, 1))
        self.bias = Parameter(torch.full((1, groups, 1, 1), init_bias))

    def forward(self, x: Tensor, attention_weights=False) -> Tensor | tuple[Tensor, Tensor]:
        n, c, h, w = x.shape
        x = x.reshape(n * self.groups, c // self.groups, h, w)
        t = (x * x.mean((2, 3), keepdim=True)).sum(1).reshape(n * self.groups, h * w)
        t = (t - t.mean(1, keepdim=True)) / (t.std(1, keepdim=True) + 1e-5)
        gate = sigmoid(t.reshape(n, self.groups, h, w) * self.weight + self.bias)
        y = (x * gate.reshape(n * self.groups, 1, h, w)).reshape(n, c, h, w)
        return (y, gate) if attention_weights else y


class _SGEGate(Module):
    def setup_last(self):
        self.sge = SpatialGroupEnhance(64)

    def gate(self, y: Tensor) -> Tensor:
        return self.sge(y)


class SGEBasicBlock(_SGEGate, BasicBlock):
    pass


class SGEBottleneck(_SGEGate, Bottleneck):
    pass
