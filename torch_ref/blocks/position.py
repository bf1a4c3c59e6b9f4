"""End-to-End Object Detection with Transformers - Carion, Massa, Synnaeve et al. 2020, https://arxiv.org/abs/2005.12872"""

import math

import torch
from torch import Tensor
from torch.nn import Embedding, Module, init


class PositionEmbeddingSine(Module):
    def __init__(self, num_pos_feats=64, temperature=10000.0, normalize=False, scale=None):
        super().__init__()
        if scale is not None and not normalize:
            raise ValueError(f"PositionEmbeddingSine: scale={scale} without normalize=True")
        self.num_pos_feats = num_pos_feats
        self.temperature = temperature
        self.normalize = normalize
        self.scale = 2 * math.pi if scale is None else scale

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        y, z = ((~mask).cumsum(axis, dtype=torch.float32) for axis in (1, 2))
        if self.normalize:
            y, z = y / (y[:, -1:] + 1e-6) * self.scale, z / (z[:, :, -1:] + 1e-6) * self.scale
        return torch.cat([self.waves(y), self.waves(z)], -1).permute(0, 3, 1, 2).to(x.dtype)

    def waves(self, count: Tensor) -> Tensor:
        i = torch.arange(self.num_pos_feats, dtype=count.dtype)
        angle = (count[..., None] / self.temperature ** (2 * (i // 2) / self.num_pos_feats)).double()
        return torch.stack([angle[..., 0::2].sin(), angle[..., 1::2].cos()], -1).flatten(-2).to(count.dtype)


class PositionEmbeddingLearned(Module):
    def __init__(self, num_pos_feats=256):
        super().__init__()
        self.row_embed = Embedding(50, num_pos_feats)
        self.col_embed = Embedding(50, num_pos_feats)
        init.uniform_(self.row_embed.weight)
        init.uniform_(self.col_embed.weight)

    def forward(self, x: Tensor, mask=None) -> Tensor:
        n, _, h, w = x.shape
        column, row = self.col_embed(torch.arange(w)), self.row_embed(torch.arange(h))
        pair = column.expand(h, w, -1), row[:, None].expand(h, w, -1)
        return torch.cat(pair, -1).permute(2, 0, 1).expand(n, -1, -1, -1)
