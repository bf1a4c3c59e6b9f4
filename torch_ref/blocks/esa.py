"""Lesion-aware Dynamic Kernel for Polyp Segmentation - Zhang et al. 2022, https://arxiv.org/abs/2301.04904"""

import torch
from torch import Tensor, einsum, sigmoid, softmax
from torch.nn import GELU, Conv2d, Dropout, LayerNorm, Linear, Module, Sequential
from torch.nn.functional import adaptive_avg_pool2d

from torch_ref.blocks.attention import split_heads
from torch_ref.blocks.non_local import tokens


def mask_pool(x: Tensor, weight: Tensor) -> Tensor:
    total = einsum("nchw,nihw->nic", x, weight)
    return total / (weight.sum((2, 3))[:, None] + 0.0005)


class PPM(Module):
    def __init__(self, pooling_sizes=(1, 3, 5)):
        super().__init__()
        self.pooling_sizes = pooling_sizes

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([tokens(adaptive_avg_pool2d(x, size)) for size in self.pooling_sizes], 1).mT


class _Attention(Module):
    def __init__(self, dim, heads=8, dim_head=64, dropout=0.0):
        super().__init__()
        if min(heads, dim_head) < 1:
            raise ValueError(f"{type(self).__name__}: expected heads, dim_head >= 1, got {heads}, {dim_head}")
        self.heads = heads
        self.dim_head = dim_head
        inner = heads * dim_head
        same = heads == 1 and dim_head == dim
        self.to_qkv = Conv2d(dim, 3 * inner, 1, bias=False)
        layers = [] if same else [Linear(inner, dim), Dropout(dropout)]
        self.to_out = Sequential(*layers)

    def attend(self, x: Tensor, pool) -> tuple[Tensor, Tensor]:
        query, key, value = self.to_qkv(x).chunk(3, 1)
        q, k, v = (split_heads(t, self.heads) for t in (tokens(query), pool(key), pool(value)))
        logits = einsum("nqhd,nkhd->nhqk", q, k) * self.dim_head**-0.5
        weights = softmax(logits, -1)
        y = einsum("nhqk,nkhd->nqhd", weights, v)
        return self.to_out(y.reshape(*y.shape[:2], -1)), weights


class ESA(_Attention):
    def __init__(self, dim, heads=8, dim_head=64, dropout=0.0):
        super().__init__(dim, heads, dim_head, dropout=dropout)
        self.ppm = PPM()

    def forward(self, x: Tensor, attention_weights=False) -> Tensor | tuple[Tensor, Tensor]:
        y, weights = self.attend(x, lambda y: self.ppm(y).mT)
        return (y, weights) if attention_weights else y


class LCA(_Attention):
    def forward(self, x: Tensor, mask: Tensor, attention_weights=False) -> Tensor | tuple[Tensor, Tensor]:
        if mask.shape != (expected := (x.shape[0], 1, *x.shape[2:])):
            raise ValueError(f"LCA: expected a mask of shape {tuple(expected)}, got {tuple(mask.shape)}")
        weight = sigmoid(mask)
        y, _ = self.attend(x, lambda y: mask_pool(y, weight))
        return (y, weight) if attention_weights else y


class _FeedForward(Module):
    def __init__(self, dim, hidden, dropout):
        super().__init__()
        widen, narrow = Linear(dim, hidden), Linear(hidden, dim)
        self.net = Sequential(widen, GELU(), Dropout(dropout), narrow, Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class _PreNorm(Module):
    def __init__(self, dim, hidden, dropout):
        super().__init__()
        self.norm = LayerNorm(dim)
        self.fn = _FeedForward(dim, hidden, dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.fn(self.norm(x))


class _Block(Module):
    def add(self, attended: Tensor, x: Tensor) -> Tensor:
        t = attended + tokens(x)
        return (self.ff(t) + t).mT.reshape(x.shape)


class ESABlock(_Block):
    def __init__(self, dim, heads=8, dim_head=64, mlp_dim=512, dropout=0.0):
        super().__init__()
        self.ESAlayer = ESA(dim, heads, dim_head, dropout=dropout)
        self.ff = _PreNorm(dim, mlp_dim, dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.add(self.ESAlayer(x), x)


class LCABlock(_Block):
    def __init__(self, dim, heads=8, dim_head=64, mlp_dim=512, dropout=0.0):
        super().__init__()
        self.LCAlayer = LCA(dim, heads, dim_head, dropout=dropout)
        self.ff = _PreNorm(dim, mlp_dim, dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.add(self.LCAlayer(x, mask), x)
