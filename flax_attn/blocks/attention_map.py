"""End-to-End Object Detection with Transformers - Carion, Massa, Synnaeve et al. 2020, https://arxiv.org/abs/2005.12872

Follows: facebookresearch/detr@29901c5, whose softmax runs over heads and pixels together. That is a known bug (issue
247 of that repository), which upstream keeps because its published checkpoints were trained with it.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from flax_attn.blocks.non_local import tokens
from flax_attn.layers import Dropout, Linear, Module, einsum, init, require, softmax
from flax_attn.layers.layout import split_heads
from flax_attn.shapes import Image, Tokens


class MHAttentionMap(Module):
    """The attention weights of each query of q (n, l, query_dim) to each pixel of k (n, h, w, query_dim), by head.

    The weights of one query sum to 1 over all heads and pixels together. ``mask`` (n, h, w) is True for pixels that are
    to be ignored. With ``attention_weights=True`` the call returns the weights a second time, without the dropout.
    """

    query_dim: int
    hidden_dim: int
    num_heads: int
    dropout: float = 0.0
    bias: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        heads, dim = self.num_heads, self.hidden_dim
        divides = heads >= 1 and dim % heads == 0
        require(divides, f"MHAttentionMap: expected num_heads to divide hidden_dim={dim}, got {heads}")

    def setup(self) -> None:
        self.q_linear = self.linear()
        self.k_linear = self.linear()
        self.dropout0 = Dropout(self.dropout)

    def linear(self) -> Linear:
        xavier = init.xavier_uniform()
        return Linear(self.query_dim, self.hidden_dim, self.bias, kernel_init=xavier, bias_init=init.zeros)

    def __call__(
        self,
        q: Tokens,
        k: Image,
        mask: Array | None = None,
        train: bool = False,
        attention_weights: bool = False,
    ) -> Float[Array, "n l heads h w"] | tuple[Float[Array, "n l heads h w"], Float[Array, "n l heads h w"]]:
        n, h, w, _ = k.shape
        queries = split_heads(self.q_linear(q), self.num_heads)
        keys = split_heads(self.k_linear(tokens(k)), self.num_heads)
        scale = (self.hidden_dim / self.num_heads) ** -0.5
        logits = einsum("nald,nasd->nlas", queries * scale, keys, wide=True)
        if mask is not None:
            require(mask.shape == (n, h, w), f"MHAttentionMap: expected a mask of shape {(n, h, w)}, got {mask.shape}")
            logits = jnp.where(mask.reshape(n, 1, 1, h * w), -jnp.inf, logits)
        weights = softmax(logits, (-2, -1)).astype(keys.dtype).reshape(*logits.shape[:3], h, w)
        y = self.dropout0(weights, train)
        return (y, weights) if attention_weights else y
