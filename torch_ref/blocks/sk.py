"""Selective Kernel Networks - Li, Wang, Hu, Yang 2019, https://arxiv.org/abs/1903.06586"""

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from torch_ref.blocks.resnet import Bottleneck


class SKBottleneck(Bottleneck):
    def __init__(
        self, inplanes, planes, stride=1, downsample=None, groups=1, base_width=64, dilation=1, norm_layer=None
    ):
        super().__init__(inplanes, planes, stride, downsample, groups, base_width, dilation, norm_layer)
        got = f"{groups}, {base_width}"
        plain = (groups, base_width) == (1, 64)
        if not plain:
            raise ValueError(f"SKBottleneck: expected groups, base_width = 1, 64, got {got}")
        hidden = planes // 16
        self.conv2g = nn.Conv2d(planes, planes, 3, stride, dilation, dilation, 32, bias=False)
        self.bn2g = self.norm(planes)
        self.conv_fc1 = nn.Conv2d(planes, hidden, 1, bias=False)
        self.bn_fc1 = self.norm(hidden)
        self.conv_fc2 = nn.Conv2d(hidden, 2 * planes, 1, bias=False)

    def residual(self, x: Tensor) -> Tensor:
        y = relu(self.bn1(self.conv1(x)))
        a = relu(self.bn2(self.conv2(y)))
        b = relu(self.bn2g(self.conv2g(y)))
        hidden = relu(self.bn_fc1(self.conv_fc1((a + b).mean((2, 3), keepdim=True))))
        share = torch.softmax(self.conv_fc2(hidden).reshape(x.shape[0], 2, -1, 1, 1), 1)
        return self.bn3(self.conv3(a * share[:, 0] + b * share[:, 1]))
