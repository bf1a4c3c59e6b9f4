"""Dual Attention Network for Scene Segmentation - Fu, Liu, Tian et al. 2019, https://arxiv.org/abs/1809.02983"""

import torch
from torch import Tensor, softmax
from torch.nn import BatchNorm2d, Conv2d, Dropout2d, Module, Parameter, ReLU, Sequential


class PAM_Module(Module):
    conv = Conv2d

    def __init__(self, in_dim):
        super().__init__()
        self.query_conv = self.conv(in_dim, in_dim // 8, 1)
        self.key_conv = self.conv(in_dim, in_dim // 8, 1)
        self.value_conv = self.conv(in_dim, in_dim, 1)
        self.gamma = Parameter(torch.zeros(1))

    def forward(self, x: Tensor, attention_weights=False) -> Tensor | tuple[Tensor, Tensor]:
        energy = self.query_conv(x).flatten(2).mT @ self.key_conv(x).flatten(2)
        attention = softmax(energy, -1)
        y = self.gamma * (self.value_conv(x).flatten(2) @ attention.mT).reshape(x.shape) + x
        return (y, attention) if attention_weights else y


class CAM_Module(Module):
    def __init__(self, in_dim):
        super().__init__()
        self.gamma = Parameter(torch.zeros(1))

    def forward(self, x: Tensor, attention_weights=False) -> Tensor | tuple[Tensor, Tensor]:
        energy = x.flatten(2) @ x.flatten(2).mT
        attention = softmax(energy.amax(-1, keepdim=True) - energy, -1)
        y = self.gamma * (attention @ x.flatten(2)).reshape(x.shape) + x
        return (y, attention) if attention_weights else y


class DANetHead(Module):
    def __init__(self, in_channels, out_channels, norm_layer=None, dropout=0.1):
        super().__init__()
        inner = in_channels // 4
        self.norm_layer, self.dropout = norm_layer or BatchNorm2d, dropout
        self.conv5a = self.conv_bn(in_channels, inner)
        self.conv5c = self.conv_bn(in_channels, inner)
        self.sa = PAM_Module(inner)
        self.sc = CAM_Module(inner)
        self.conv51 = self.conv_bn(inner, inner)
        self.conv52 = self.conv_bn(inner, inner)
        self.conv6 = self.classify(inner, out_channels)
        self.conv7 = self.classify(inner, out_channels)
        self.conv8 = self.classify(inner, out_channels)

    def conv_bn(self, inputs, outputs):
        conv = Conv2d(inputs, outputs, 3, padding=1, bias=False)
        return Sequential(conv, self.norm_layer(outputs), ReLU())

    def classify(self, inputs, outputs):
        return Sequential(Dropout2d(self.dropout), Conv2d(inputs, outputs, 1))

    def forward(self, x: Tensor, attention_weights=False) -> tuple:
        position, of_pixels = self.sa(self.conv5a(x), attention_weights=True)
        channel, of_channels = self.sc(self.conv5c(x), attention_weights=True)
        position, channel = self.conv51(position), self.conv52(channel)
        both = self.conv8(position + channel)
        scores = both, self.conv6(position), self.conv7(channel)
        return (scores, of_pixels, of_channels) if attention_weights else scores
