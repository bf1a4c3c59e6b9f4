"""Polarized Self-Attention - Liu, Liu, Fan, Zhou 2021, https://arxiv.org/abs/2107.00782"""

import torch
from torch import Tensor, einsum, sigmoid
from torch.nn import Conv2d, LayerNorm, Module, ReLU, Sequential, init


def softmax(x: Tensor) -> Tensor:
    """Over all positions of (n, c, h, w) or (n, h, w)."""
    return torch.softmax(x.flatten(-2), -1).reshape(x.shape)


class _PolarizedSelfAttention(Module):
    def __init__(self, channel=512):
        super().__init__()
        half = channel // 2
        self.ch_wv = Conv2d(channel, half, 1)
        self.ch_wq = Conv2d(channel, 1, 1)
        self.ch_wz = Conv2d(half, channel, 1)
        self.ln = LayerNorm(channel)
        self.sp_wv = Conv2d(channel, half, 1)
        self.sp_wq = Conv2d(channel, half, 1)

    def channel_gate(self, x: Tensor) -> Tensor:
        value = self.ch_wv(x)
        query = softmax(self.ch_wq(x))
        context = einsum("nchw,nihw->nci", value, query)[..., None]
        return sigmoid(self.ln(self.ch_wz(context).flatten(1)))[..., None, None]

    def spatial_gate(self, x: Tensor) -> Tensor:
        value = self.sp_wv(x)
        query = torch.softmax(self.sp_wq(x).mean((2, 3)), -1)
        return sigmoid(einsum("nchw,nc->nhw", value, query))[:, None]


class ParallelPolarizedSelfAttention(_PolarizedSelfAttention):
    def forward(self, x: Tensor, attention_weights=False) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        spatial, channel = self.spatial_gate(x), self.channel_gate(x)
        y = spatial * x + channel * x
        return (y, channel, spatial) if attention_weights else y


class SequentialPolarizedSelfAttention(_PolarizedSelfAttention):
    def forward(self, x: Tensor, attention_weights=False) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        channel = self.channel_gate(x)
        x = channel * x
        spatial = self.spatial_gate(x)
        y = spatial * x
        return (y, channel, spatial) if attention_weights else y


class _PSA(Module):
    def __init__(self, inplanes, planes, kernel_size=1, stride=1):
        super().__init__()
        inner = planes // 2
        self.conv_q_right = self.project(inplanes, 1, stride)
        self.conv_v_right = self.project(inplanes, inner, stride)
        self.conv_up = self.up(inner, planes)
        self.conv_q_left = self.project(inplanes, inner, stride)
        self.conv_v_left = self.project(inplanes, inner, stride)

    def project(self, inplanes, planes, stride):
        conv = Conv2d(inplanes, planes, 1, stride=stride, bias=False)
        init.kaiming_normal_(conv.weight, nonlinearity="relu")
        return conv

    def channel_gate(self, x: Tensor) -> Tensor:
        mask = softmax(self.conv_q_right(x))
        context = einsum("nchw,nihw->nci", self.conv_v_right(x), mask)[..., None]
        return sigmoid(self.conv_up(context))


class PSA_p(_PSA):
    def up(self, inner, planes):
        return Conv2d(inner, planes, 1, bias=False)

    def spatial_gate(self, x: Tensor) -> Tensor:
        query = self.conv_q_left(x).mean((2, 3))
        context = softmax(einsum("nc,nchw->nhw", query, self.conv_v_left(x)))
        return sigmoid(context)[:, None]

    def forward(self, x: Tensor, attention_weights=False) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        spatial, channel = self.spatial_gate(x), self.channel_gate(x)
        y = x * spatial + x * channel
        return (y, channel, spatial) if attention_weights else y


class PSA_s(_PSA):
    def up(self, inner, planes):
        hidden = inner // 4
        return Sequential(Conv2d(inner, hidden, 1), LayerNorm((hidden, 1, 1)), ReLU(), Conv2d(hidden, planes, 1))

    def spatial_gate(self, x: Tensor) -> Tensor:
        query = self.conv_q_left(x).mean((2, 3))
        context = einsum("nc,nchw->nhw", query, softmax(self.conv_v_left(x)))
        return sigmoid(context)[:, None]

    def forward(self, x: Tensor, attention_weights=False) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        channel = self.channel_gate(x)
        x = x * channel
        spatial = self.spatial_gate(x)
        y = x * spatial
        return (y, channel, spatial) if attention_weights else y
