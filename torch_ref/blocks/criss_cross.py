"""Criss-Cross Attention for Semantic Segmentation - Huang, Wang, Wei et al. 2020, https://arxiv.org/abs/1811.11721"""

from functools import partial

import torch
from torch import Tensor, einsum, softmax
from torch.nn import Conv2d, Conv3d, Dropout2d, Module, Sequential

from torch_ref.blocks.danet import PAM_Module
from torch_ref.blocks.inplace_abn import ABN, InPlaceABN


def masked(energy: Tensor, axis: int) -> Tensor:
    """-inf where the last axis meets its own position on ``axis``, which is counted from the end."""
    own = torch.eye(energy.shape[-1], dtype=torch.bool).reshape(-1, *[1] * (-axis - 2), energy.shape[-1])
    return energy.masked_fill(own, -torch.inf)


def criss_cross_attention(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    h = query.shape[2]
    column = masked(einsum("ndhw,ndgw->nhwg", query, key), -3)
    row = einsum("ndhw,ndhv->nhwv", query, key)
    weights = softmax(torch.cat([column, row], -1), -1)
    column, row = weights[..., :h], weights[..., h:]
    out = einsum("nhwg,ncgw->nchw", column, value) + einsum("nhwv,nchv->nchw", row, value)
    return out, row, column


class CrissCrossAttention(PAM_Module):
    def forward(self, x: Tensor, attention_weights=False) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        out, row, column = criss_cross_attention(self.query_conv(x), self.key_conv(x), self.value_conv(x))
        y = self.gamma * out + x
        return (y, row, column) if attention_weights else y


class CrissCrossAttention3D(PAM_Module):
    conv = Conv3d

    def forward(self, x: Tensor, attention_weights=False) -> Tensor | tuple[Tensor, ...]:
        query, key, value = self.query_conv(x), self.key_conv(x), self.value_conv(x)
        depth = masked(einsum("ncdhw,ncehw->ndhwe", query, key), -4)
        column = masked(einsum("ncdhw,ncdgw->ndhwg", query, key), -3)
        row = einsum("ncdhw,ncdhv->ndhwv", query, key)
        weights = softmax(torch.cat([depth, column, row], -1), -1)
        depth, column, row = weights.split(x.shape[2:], -1)
        out = einsum("ndhwe,ncehw->ncdhw", depth, value)
        out = out + einsum("ndhwg,ncdgw->ncdhw", column, value)
        out = out + einsum("ndhwv,ncdhv->ncdhw", row, value)
        y = self.gamma * out + x
        return (y, row, column, depth) if attention_weights else y


class RCCAModule(Module):
    def __init__(self, in_channels, out_channels, num_classes, inplace_abn=True, activation="leaky_relu", dropout=0.1):
        super().__init__()
        inner = in_channels // 4
        norm = partial(InPlaceABN if inplace_abn else ABN, activation=activation)
        self.conva = Sequential(Conv2d(in_channels, inner, 3, padding=1, bias=False), norm(inner))
        self.cca = CrissCrossAttention(inner)
        self.convb = Sequential(Conv2d(inner, inner, 3, padding=1, bias=False), norm(inner))
        self.bottleneck = Sequential(
            Conv2d(in_channels + inner, out_channels, 3, padding=1, bias=False),
            norm(out_channels),
            Dropout2d(dropout),
            Conv2d(out_channels, num_classes, 1),
        )

    def forward(self, x: Tensor, recurrence=1, attention_weights=False) -> Tensor | tuple:
        y = self.conva(x)
        maps = []
        for _ in range(recurrence):
            y = self.cca(y, attention_weights=attention_weights)
            if attention_weights:
                y, *weights = y
                maps.append(tuple(weights))
        y = self.convb(y)
        y = self.bottleneck(torch.cat([x, y], 1))
        return (y, *maps) if attention_weights else y
