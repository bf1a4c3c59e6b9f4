"""Selective Kernel Networks - Li, Wang, Hu, Yang 2019, https://arxiv.org/abs/1903.06586"""

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from torch_ref.blocks.resnet import add_shortcut


class SKBottleneck(nn.Module):
    expansion = 4

    def __init__(self, inplanes, planes, stride=1, downsample=None):
        super().__init__()
        width, hidden = planes * self.expansion, planes // 16
        self.conv1 = nn.Conv2d(inplanes, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv2g = nn.Conv2d(planes, planes, 3, stride, 1, groups=32, bias=False)
        self.bn2g = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.conv_fc1 = nn.Conv2d(planes, hidden, 1, bias=False)
        self.bn_fc1 = nn.BatchNorm2d(hidden)
        self.conv_fc2 = nn.Conv2d(hidden, 2 * planes, 1, bias=False)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        y = relu(self.bn1(self.conv1(x)))
        a = relu(self.bn2(self.conv2(y)))
        b = relu(self.bn2g(self.conv2g(y)))
        hidden = relu(self.bn_fc1(self.conv_fc1((a + b).mean((2, 3), keepdim=True))))
        share = torch.softmax(self.conv_fc2(hidden).reshape(x.shape[0], 2, -1, 1, 1), 1)
        y = self.bn3(self.conv3(a * share[:, 0] + b * share[:, 1]))
        return relu(add_shortcut(self, y, x))
