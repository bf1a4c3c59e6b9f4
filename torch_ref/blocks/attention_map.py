"""End-to-End Object Detection with Transformers - Carion, Massa, Synnaeve et al. 2020, https://arxiv.org/abs/2005.12872"""

import torch
from torch import Tensor, einsum
from torch.nn import Dropout, Linear, Module, init

from torch_ref.blocks.attention import split_heads
from torch_ref.blocks.non_local import tokens
from torch_ref.layers.activation import softmax


class MHAttentionMap(Module):
    def __init__(self, query_dim, hidden_dim, num_heads, dropout=0.0, bias=True):
        super().__init__()
        self.query_dim = query_dim
        self.hidden_dim = hidden_dim
        self.num_heads = num_heads
        self.bias = bias
        self.q_linear = self.linear()
        self.k_linear = self.linear()
        self.dropout0 = Dropout(dropout)

    def linear(self):
        layer = Linear(self.query_dim, self.hidden_dim, self.bias)
        init.xavier_uniform_(layer.weight)
        if self.bias:
            init.zeros_(layer.bias)
        return layer

    def forward(self, q: Tensor, k: Tensor, mask=None, attention_weights=False) -> Tensor | tuple[Tensor, Tensor]:
        n, _, h, w = k.shape
        queries = split_heads(self.q_linear(q), self.num_heads)
        keys = split_heads(self.k_linear(tokens(k)), self.num_heads)
        scale = (self.hidden_dim / self.num_heads) ** -0.5
        logits = einsum("nlad,nsad->nlas", queries * scale, keys)
        if mask is not None:
            logits = torch.where(mask.reshape(n, 1, 1, h * w), -torch.inf, logits)
        weights = softmax(logits, (-2, -1)).reshape(*logits.shape[:3], h, w)
        y = self.dropout0(weights)
        return (y, weights) if attention_weights else y
