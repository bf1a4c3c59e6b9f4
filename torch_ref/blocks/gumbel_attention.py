"""Categorical Reparameterization with Gumbel-Softmax - Jang, Gu, Poole 2017, https://arxiv.org/abs/1611.01144"""

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from torch_ref.blocks.hard_attention import HardAttention, as_map, pick


class GumbelHardAttention(HardAttention):
    def __init__(self, dim, hidden_dim, temperature=1.0):
        super().__init__(dim, hidden_dim)
        self.temperature = temperature

    def forward(self, x: Tensor, noise=None, attention_weights=False) -> tuple:
        _, noisy = self.scores(x, noise)
        soft = torch.softmax(noisy / self.temperature, -1)
        hard = one_hot(noisy.argmax(-1), noisy.shape[-1]).to(x.dtype)
        weights = hard + (soft - soft.detach())
        y = pick(weights, x), weights
        return (y, as_map(weights, x), as_map(soft, x)) if attention_weights else y
