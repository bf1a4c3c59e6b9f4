"""Attention Is All You Need - Vaswani, Shazeer, Parmar et al. 2017, https://arxiv.org/abs/1706.03762"""

import math

import torch
from torch import Tensor, nn


def split_heads(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1))


class MultiheadAttention(nn.MultiheadAttention):
    def __init__(
        self,
        embed_dim,
        num_heads,
        dropout=0.0,
        bias=True,
        add_bias_kv=False,
        add_zero_attn=False,
        kdim=None,
        vdim=None,
        batch_first=False,
    ):
        super().__init__(
            embed_dim, num_heads, dropout, bias, add_bias_kv, add_zero_attn, kdim, vdim, batch_first=batch_first
        )


class _ScaledDotProductAttention(nn.Module):
    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask, scale) -> Tensor:
        q, k, v = (split_heads(x, self.h) for x in (q, k, v))
        logits = torch.einsum("nqhd,nkhd->nhqk", q, k) / math.sqrt(q.shape[-1])
        if scale is not None:
            logits = logits * scale
        if mask is not None:
            logits = logits.masked_fill(mask, -torch.inf)
        weights = self.attn_dropout(torch.softmax(logits, -1))
        return torch.einsum("nhqk,nkhd->nqhd", weights, v).flatten(2)

    def linear(self, inputs, outputs):
        layer = nn.Linear(inputs, outputs)
        nn.init.normal_(layer.weight, std=0.001)
        nn.init.zeros_(layer.bias)
        return layer


class ScaledDotProductAttention(_ScaledDotProductAttention):
    def __init__(self, d_model, d_k, d_v, h, dropout=0.1):
        super().__init__()
        self.h = h
        self.fc_q = self.linear(d_model, h * d_k)
        self.fc_k = self.linear(d_model, h * d_k)
        self.fc_v = self.linear(d_model, h * d_v)
        self.fc_o = self.linear(h * d_v, d_model)
        self.attn_dropout = nn.Dropout(dropout)

    def forward(
        self, queries: Tensor, keys: Tensor, values: Tensor, attention_mask=None, attention_weights=None
    ) -> Tensor:
        projected = self.fc_q(queries), self.fc_k(keys), self.fc_v(values)
        return self.fc_o(self.attend(*projected, attention_mask, attention_weights))


class SimplifiedScaledDotProductAttention(_ScaledDotProductAttention):
    def __init__(self, d_model, h, dropout=0.1):
        super().__init__()
        self.h = h
        self.fc_o = self.linear(d_model, d_model)
        self.attn_dropout = nn.Dropout(dropout)

    def forward(
        self, queries: Tensor, keys: Tensor, values: Tensor, attention_mask=None, attention_weights=None
    ) -> Tensor:
        return self.fc_o(self.attend(queries, keys, values, attention_mask, attention_weights))
