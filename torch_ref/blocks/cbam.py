"""CBAM: Convolutional Block Attention Module - Woo, Park, Lee, Kweon 2018, https://arxiv.org/abs/1807.06521"""

import torch
from torch import Tensor, sigmoid
from torch.nn import BatchNorm2d, Conv2d, Flatten, Linear, Module, ReLU, Sequential

from torch_ref.blocks.resnet import BasicBlock, Bottleneck


class ChannelGate(Module):
    def __init__(self, gate_channels, reduction_ratio=16):
        super().__init__()
        hidden = gate_channels // reduction_ratio
        self.mlp = Sequential(Flatten(), Linear(gate_channels, hidden), ReLU(), Linear(hidden, gate_channels))

    def forward(self, x: Tensor, attention_weights=False) -> Tensor | tuple[Tensor, Tensor]:
        gate = sigmoid(self.mlp(x.mean((2, 3))) + self.mlp(x.flatten(2).max(2).values))[..., None, None]
        y = x * gate
        return (y, gate) if attention_weights else y


class _BasicConv(Module):
    def __init__(self):
        super().__init__()
        self.conv = Conv2d(2, 1, 7, padding=3, bias=False)
        self.bn = BatchNorm2d(1, momentum=0.01)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))


class SpatialGate(Module):
    def __init__(self):
        super().__init__()
        self.spatial = _BasicConv()

    def forward(self, x: Tensor, attention_weights=False) -> Tensor | tuple[Tensor, Tensor]:
        highest = x.max(1, keepdim=True).values
        pooled = torch.cat([highest, x.mean(1, keepdim=True)], 1)
        gate = sigmoid(self.spatial(pooled))
        y = x * gate
        return (y, gate) if attention_weights else y


class CBAM(Module):
    def __init__(self, gate_channels, reduction_ratio=16, no_spatial=False):
        super().__init__()
        self.no_spatial = no_spatial
        self.ChannelGate = ChannelGate(gate_channels, reduction_ratio)
        if not no_spatial:
            self.SpatialGate = SpatialGate()

    def forward(self, x: Tensor, attention_weights=False) -> Tensor | tuple[Tensor, ...]:
        x, *gates = self.ChannelGate(x, attention_weights=True)
        if not self.no_spatial:
            x, gate = self.SpatialGate(x, attention_weights=True)
            gates.append(gate)
        return (x, *gates) if attention_weights else x


class _CBAMGate(Module):
    def setup(self):
        super().setup()
        self.cbam = CBAM(self.planes * self.expansion)

    def gate(self, y: Tensor) -> Tensor:
        return self.cbam(y)


class CBAMBasicBlock(_CBAMGate, BasicBlock):
    pass


class CBAMBottleneck(_CBAMGate, Bottleneck):
    pass
