"""Categorical Reparameterization with Gumbel-Softmax - Jang, Gu, Poole 2017, https://arxiv.org/abs/1611.01144

Follows: the paper's straight-through estimator, applied to the scores of ``HardAttention``. This block is ours.
"""

from typing import Any

import jax
from jax import lax
from jaxtyping import Array

from flax_attn.blocks.hard_attention import HardAttention, as_map, pick
from flax_attn.layers import require, softmax
from flax_attn.shapes import Image


class GumbelHardAttention(HardAttention):
    """One pixel of x (n, h, w, dim), drawn as ``HardAttention`` draws it, with the gradient of a softmax.

    Returns the glimpse (n, dim) and the weights (n, h * w), which are 0 or 1. With ``attention_weights=True`` the call
    returns these two as one tuple, then the weights as (n, h, w, 1), and the softmax (n, h, w, 1) whose gradient they
    have.

    Args:
        temperature: of the softmax whose gradient the weights have.
    """

    temperature: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.temperature > 0, f"GumbelHardAttention: expected temperature > 0, got {self.temperature}")

    def __call__(
        self, x: Image, noise: Array | None = None, attention_weights: bool = False, train: bool = False
    ) -> tuple[Any, ...]:
        x = self.cast(x)
        _, noisy = self.scores(x, noise, train)
        soft = softmax(noisy / self.temperature)
        hard = jax.nn.one_hot(noisy.argmax(-1), noisy.shape[-1], dtype=soft.dtype)
        weights = (hard + (soft - lax.stop_gradient(soft))).astype(x.dtype)
        y = pick(weights, x), weights
        return (y, as_map(weights, x), as_map(soft, x)) if attention_weights else y
