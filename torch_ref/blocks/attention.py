"""Attention Is All You Need - Vaswani, Shazeer, Parmar et al. 2017, https://arxiv.org/abs/1706.03762"""

import math

import torch
from torch import Tensor, einsum, softmax
from torch.nn import Dropout, Linear, Module, init


def split_heads(x: Tensor, heads: int) -> Tensor:
    return x.reshape(*x.shape[:2], heads, -1)


class MultiheadAttention(torch.nn.MultiheadAttention):
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
            embed_dim,
            num_heads,
            dropout,
            bias=bias,
            add_bias_kv=add_bias_kv,
            add_zero_attn=add_zero_attn,
            kdim=kdim,
            vdim=vdim,
            batch_first=batch_first,
        )


def linear(inputs, outputs):
    layer = Linear(inputs, outputs)
    init.normal_(layer.weight, std=0.001)
    init.zeros_(layer.bias)
    return layer


class _ScaledDotProductAttention(Module):
    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask, scale) -> tuple[Tensor, Tensor]:
        q, k, v = (split_heads(x, self.h) for x in (q, k, v))
        logits = einsum("nqhd,nkhd->nhqk", q, k) / math.sqrt(q.shape[-1])
        if scale is not None:
            logits = logits * scale
        if mask is not None:
            logits = torch.where(mask, -torch.inf, logits)
        weights = self.attn_dropout(softmax(logits, -1))
        return einsum("nhqk,nkhd->nqhd", weights, v).reshape(*q.shape[:2], -1), weights

    def forward(
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        attention_mask=None,
        attention_weights=None,
        need_weights=False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        q, k, v = self.project(queries, keys, values)
        y, weights = self.attend(q, k, v, attention_mask, attention_weights)
        y = self.fc_o(y)
        return (y, weights) if need_weights else y


class ScaledDotProductAttention(_ScaledDotProductAttention):
    def __init__(self, d_model, d_k, d_v, h, dropout=0.1):
        super().__init__()
        self.h = h
        self.fc_q = linear(d_model, h * d_k)
        self.fc_k = linear(d_model, h * d_k)
        self.fc_v = linear(d_model, h * d_v)
        self.fc_o = linear(h * d_v, d_model)
        self.attn_dropout = Dropout(dropout)

    def project(self, queries: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.fc_q(queries), self.fc_k(keys), self.fc_v(values)


class SimplifiedScaledDotProductAttention(_ScaledDotProductAttention):
    def __init__(self, d_model, h, dropout=0.1):
        super().__init__()
        self.h = h
        self.fc_o = linear(d_model, d_model)
        self.attn_dropout = Dropout(dropout)

    def project(self, queries: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return queries, keys, values
