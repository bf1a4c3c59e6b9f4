"""CBAM: Convolutional Block Attention Module - Woo, Park, Lee, Kweon 2018, https://arxiv.org/abs/1807.06521"""

import torch
from torch import Tensor, sigmoid
from torch.nn import BatchNorm2d, Conv2d, Flatten, Linear, Module, ReLU, Sequential
from torch.nn.functional import adaptive_avg_pool2d, adaptive_max_pool2d

from torch_ref.blocks.resnet import BasicBlock, Bottleneck


class ChannelGate(Module):
    def __init__(self, gate_channels, reduction_ratio=16, *, conv=False, bias=True):
        super().__init__()
        c, hidden = gate_channels, gate_channels // reduction_ratio
        if conv:
            self.mlp = Sequential(Conv2d(c, hidden, 1, bias=bias), ReLU(), Conv2d(hidden, c, 1, bias=bias))
        else:
            self.mlp = Sequential(Flatten(), Linear(c, hidden, bias), ReLU(), Linear(hidden, c, bias))

    def forward(self, x: Tensor, attention_weights=False) -> Tensor | tuple[Tensor, Tensor]:
        gate = sigmoid(self.mlp(adaptive_avg_pool2d(x, 1)) + self.mlp(adaptive_max_pool2d(x, 1)))
        gate = gate.reshape(*x.shape[:2], 1, 1)
        y = x * gate
        return (y, gate) if attention_weights else y


class _BasicConv(Module):
    def __init__(self, kernel_size, bias, norm):
        super().__init__()
        self.norm = norm
        self.conv = Conv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=bias)
        if norm:
            self.bn = BatchNorm2d(1, momentum=0.01)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.bn(y) if self.norm else y


class SpatialGate(Module):
    def __init__(self, *, kernel_size=7, bias=False, norm=True, mean_first=False):
        super().__init__()
        self.mean_first = mean_first
        self.spatial = _BasicConv(kernel_size, bias, norm)

    def forward(self, x: Tensor, attention_weights=False) -> Tensor | tuple[Tensor, Tensor]:
        highest = x.max(1, keepdim=True).values
        pooled = [highest, x.mean(1, keepdim=True)]
        gate = sigmoid(self.spatial(torch.cat(pooled[::-1] if self.mean_first else pooled, 1)))
        y = x * gate
        return (y, gate) if attention_weights else y


class CBAM(Module):
    def __init__(
        self,
        gate_channels,
        reduction_ratio=16,
        no_spatial=False,
        *,
        conv=False,
        bias=True,
        kernel_size=7,
        norm=True,
        mean_first=False,
    ):
        super().__init__()
        self.no_spatial = no_spatial
        self.ChannelGate = ChannelGate(gate_channels, reduction_ratio, conv=conv, bias=bias)
        if not no_spatial:
            self.SpatialGate = SpatialGate(kernel_size=kernel_size, norm=norm, mean_first=mean_first)

    def forward(self, x: Tensor, attention_weights=False) -> Tensor | tuple[Tensor, ...]:
        x, *gates = self.ChannelGate(x, attention_weights=True)
        if not self.no_spatial:
            x, gate = self.SpatialGate(x, attention_weights=True)
            gates.append(gate)
        return (x, *gates) if attention_weights else x


class _CBAMGate(Module):
    def setup_last(self):
        self.cbam = CBAM(self.planes * self.expansion)

    def gate(self, y: Tensor) -> Tensor:
        return self.cbam(y)


class CBAMBasicBlock(_CBAMGate, BasicBlock):
    pass


class CBAMBottleneck(_CBAMGate, Bottleneck):
    pass
