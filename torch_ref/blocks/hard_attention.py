"""Show, Attend and Tell - Xu, Ba, Kiros et al. 2015, https://arxiv.org/abs/1502.03044"""

import torch
from torch import Tensor
from torch.nn import Linear, Module
from torch.nn.functional import log_softmax, one_hot


def pick(weights: Tensor, x: Tensor) -> Tensor:
    return (weights[:, None] * x.flatten(2)).sum(-1)


def as_map(weights: Tensor, x: Tensor) -> Tensor:
    return weights.reshape(x.shape[0], 1, *x.shape[2:])


class HardAttention(Module):
    def __init__(self, dim, hidden_dim):
        super().__init__()
        self.fc1 = Linear(dim, hidden_dim)
        self.fc2 = Linear(hidden_dim, 1)

    def scores(self, x: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor]:
        logits = self.fc2(torch.tanh(self.fc1(x.movedim(1, -1)))).flatten(1)
        if noise is None:
            noise = -torch.empty_like(logits).exponential_().log() if self.training else torch.zeros_like(logits)
        return logits, logits + noise

    def forward(self, x: Tensor, noise=None, attention_weights=False) -> tuple:
        logits, noisy = self.scores(x, noise)
        choice = one_hot(noisy.argmax(-1), logits.shape[-1]).to(x.dtype)
        log_p = log_softmax(logits, -1)
        p = log_p.exp()
        entropy = -(p * log_p).sum(-1)
        y = pick(choice, x), (choice * log_p).sum(-1), entropy
        return (y, as_map(choice, x), as_map(p, x)) if attention_weights else y
