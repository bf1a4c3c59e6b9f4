"""Lesion-aware Dynamic Kernel for Polyp Segmentation - Zhang et al. 2022, https://arxiv.org/abs/2301.04904"""

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from torch_ref.blocks.non_local import tokens


def mask_pool(x: Tensor, mask: Tensor) -> Tensor:
    weight = torch.sigmoid(mask)
    total = (x * weight).sum((2, 3))
    return (total / (weight.sum((2, 3)) + 0.0005))[..., None]


class PPM(nn.Module):
    def __init__(self, pooling_sizes=(1, 3, 5)):
        super().__init__()
        self.pooling_sizes = pooling_sizes

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([tokens(adaptive_avg_pool2d(x, size)) for size in self.pooling_sizes], 2)


class _Attention(nn.Module):
    def __init__(self, dim, heads=8, dim_head=64, dropout=0.0):
        super().__init__()
        if min(heads, dim_head) < 1:
            raise ValueError(f"{type(self).__name__}: expected heads, dim_head >= 1, got {heads}, {dim_head}")
        self.heads = heads
        self.scale = dim_head**-0.5
        inner = heads * dim_head
        same = heads == 1 and dim_head == dim
        self.to_qkv = nn.Conv2d(dim, 3 * inner, 1, bias=False)
        self.to_out = nn.Identity() if same else nn.Sequential(nn.Linear(inner, dim), nn.Dropout(dropout))

    def attend(self, x: Tensor, pool) -> Tensor:
        query, key, value = self.to_qkv(x).chunk(3, 1)
        q, k, v = (self.split_heads(t) for t in (tokens(query), pool(key), pool(value)))
        logits = q.mT @ k * self.scale
        y = torch.softmax(logits, -1) @ v.mT
        return self.to_out(y.transpose(1, 2).flatten(2))

    def split_heads(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (self.heads, -1))


class ESA(_Attention):
    def __init__(self, dim, heads=8, dim_head=64, dropout=0.0):
        super().__init__(dim, heads, dim_head, dropout)
        self.ppm = PPM()

    def forward(self, x: Tensor) -> Tensor:
        return self.attend(x, self.ppm)


class LCA(_Attention):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        if mask.shape != (expected := (x.shape[0], 1, *x.shape[2:])):
            raise ValueError(f"LCA: expected a mask of shape {tuple(expected)}, got {tuple(mask.shape)}")
        return self.attend(x, lambda y: mask_pool(y, mask))


class _FeedForward(nn.Module):
    def __init__(self, dim, hidden, dropout):
        super().__init__()
        wide, narrow = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.net = nn.Sequential(wide, nn.GELU(), nn.Dropout(dropout), narrow, nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class _PreNorm(nn.Module):
    def __init__(self, dim, hidden, dropout):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fn = _FeedForward(dim, hidden, dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.fn(self.norm(x))


class _Block(nn.Module):
    def __init__(self, dim, mlp_dim, dropout):
        super().__init__()
        self.ff = _PreNorm(dim, mlp_dim, dropout)

    def add(self, attended: Tensor, x: Tensor) -> Tensor:
        t = attended + tokens(x).mT
        return (self.ff(t) + t).mT.reshape(x.shape)


class ESABlock(_Block):
    def __init__(self, dim, heads=8, dim_head=64, mlp_dim=512, dropout=0.0):
        super().__init__(dim, mlp_dim, dropout)
        self.ESAlayer = ESA(dim, heads, dim_head, dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.add(self.ESAlayer(x), x)


class LCABlock(_Block):
    def __init__(self, dim, heads=8, dim_head=64, mlp_dim=512, dropout=0.0):
        super().__init__(dim, mlp_dim, dropout)
        self.LCAlayer = LCA(dim, heads, dim_head, dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.add(self.LCAlayer(x, mask), x)
