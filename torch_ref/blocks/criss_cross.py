"""Criss-Cross Attention for Semantic Segmentation - Huang, Wang, Wei et al. 2020, https://arxiv.org/abs/1811.11721"""

from functools import partial

import torch
from torch import Tensor, nn

from torch_ref.blocks.inplace_abn import ABN, InPlaceABN


def masked(energy: Tensor, axis: int) -> Tensor:
    """-inf where the last axis meets its own position on ``axis``, which is counted from the end."""
    own = torch.eye(energy.shape[-1], dtype=torch.bool).reshape(-1, *[1] * (-axis - 2), energy.shape[-1])
    return energy.masked_fill(own, -torch.inf)


def criss_cross_attention(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    h = query.shape[2]
    column = masked(torch.einsum("ndhw,ndgw->nhwg", query, key), -3)
    row = torch.einsum("ndhw,ndhv->nhwv", query, key)
    weights = torch.softmax(torch.cat([column, row], -1), -1)
    column, row = weights[..., :h], weights[..., h:]
    out = torch.einsum("nhwg,ncgw->nchw", column, value) + torch.einsum("nhwv,nchv->nchw", row, value)
    return out, row, column


class CrissCrossAttention(nn.Module):
    def __init__(self, in_dim):
        super().__init__()
        self.query_conv = nn.Conv2d(in_dim, in_dim // 8, 1)
        self.key_conv = nn.Conv2d(in_dim, in_dim // 8, 1)
        self.value_conv = nn.Conv2d(in_dim, in_dim, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, attention_weights=False) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        out, row, column = criss_cross_attention(self.query_conv(x), self.key_conv(x), self.value_conv(x))
        y = self.gamma * out + x
        return (y, row, column) if attention_weights else y


class CrissCrossAttention3D(nn.Module):
    def __init__(self, in_dim):
        super().__init__()
        self.query_conv = nn.Conv3d(in_dim, in_dim // 8, 1)
        self.key_conv = nn.Conv3d(in_dim, in_dim // 8, 1)
        self.value_conv = nn.Conv3d(in_dim, in_dim, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.query_conv(x), self.key_conv(x), self.value_conv(x)
        depth = masked(torch.einsum("ncdhw,ncehw->ndhwe", query, key), -4)
        column = masked(torch.einsum("ncdhw,ncdgw->ndhwg", query, key), -3)
        row = torch.einsum("ncdhw,ncdhv->ndhwv", query, key)
        weights = torch.softmax(torch.cat([depth, column, row], -1), -1)
        depth, column, row = weights.split(x.shape[2:], -1)
        out = torch.einsum("ndhwe,ncehw->ncdhw", depth, value)
        out = out + torch.einsum("ndhwg,ncdgw->ncdhw", column, value)
        out = out + torch.einsum("ndhwv,ncdhv->ncdhw", row, value)
        return self.gamma * out + x


class RCCAModule(nn.Module):
    def __init__(self, in_channels, out_channels, num_classes, inplace_abn=True, activation="leaky_relu"):
        super().__init__()
        inner = in_channels // 4
        norm = partial(InPlaceABN if inplace_abn else ABN, activation=activation)
        self.conva = nn.Sequential(nn.Conv2d(in_channels, inner, 3, padding=1, bias=False), norm(inner))
        self.cca = CrissCrossAttention(inner)
        self.convb = nn.Sequential(nn.Conv2d(inner, inner, 3, padding=1, bias=False), norm(inner))
        self.bottleneck = nn.Sequential(
            nn.Conv2d(in_channels + inner, out_channels, 3, padding=1, bias=False),
            norm(out_channels),
            nn.Dropout2d(0.1),
            nn.Conv2d(out_channels, num_classes, 1),
        )

    def forward(self, x: Tensor, recurrence=1) -> Tensor:
        y = self.conva(x)
        for _ in range(recurrence):
            y = self.cca(y)
        y = self.convb(y)
        return self.bottleneck(torch.cat([x, y], 1))
