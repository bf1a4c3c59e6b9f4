"""CBAM: Convolutional Block Attention Module - Woo, Park, Lee, Kweon 2018, https://arxiv.org/abs/1807.06521"""

import torch
from torch import Tensor, nn

from torch_ref.blocks.resnet import BasicBlock, Bottleneck


class ChannelGate(nn.Module):
    def __init__(self, gate_channels, reduction_ratio=16):
        super().__init__()
        hidden = gate_channels // reduction_ratio
        self.mlp = nn.Sequential(
            nn.Flatten(), nn.Linear(gate_channels, hidden), nn.ReLU(), nn.Linear(hidden, gate_channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.mlp(x.mean((2, 3))) + self.mlp(x.flatten(2).max(2).values))
        return x * gate[..., None, None]


class _BasicConv(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)
        self.bn = nn.BatchNorm2d(1, momentum=0.01)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))


class SpatialGate(nn.Module):
    def __init__(self):
        super().__init__()
        self.spatial = _BasicConv()

    def forward(self, x: Tensor) -> Tensor:
        highest = x.max(1, keepdim=True).values
        pooled = torch.cat([highest, x.mean(1, keepdim=True)], 1)
        return x * torch.sigmoid(self.spatial(pooled))


class CBAM(nn.Module):
    def __init__(self, gate_channels, reduction_ratio=16, no_spatial=False):
        super().__init__()
        self.no_spatial = no_spatial
        self.ChannelGate = ChannelGate(gate_channels, reduction_ratio)
        if not no_spatial:
            self.SpatialGate = SpatialGate()

    def forward(self, x: Tensor) -> Tensor:
        x = self.ChannelGate(x)
        return x if self.no_spatial else self.SpatialGate(x)


class CBAMBasicBlock(BasicBlock):
    def __init__(
        self, inplanes, planes, stride=1, downsample=None, groups=1, base_width=64, dilation=1, norm_layer=None
    ):
        super().__init__(inplanes, planes, stride, downsample, groups, base_width, dilation, norm_layer)
        self.cbam = CBAM(planes * self.expansion)

    def residual(self, x: Tensor) -> Tensor:
        return self.cbam(super().residual(x))


class CBAMBottleneck(Bottleneck):
    def __init__(
        self, inplanes, planes, stride=1, downsample=None, groups=1, base_width=64, dilation=1, norm_layer=None
    ):
        super().__init__(inplanes, planes, stride, downsample, groups, base_width, dilation, norm_layer)
        self.cbam = CBAM(planes * self.expansion)

    def residual(self, x: Tensor) -> Tensor:
        return self.cbam(super().residual(x))
