"""``torch.nn.Linear`` and ``Embedding``. Trap: torch stores a Linear weight (out, in), the kernel here is (in, out)."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from flax_attn.layers import init
from flax_attn.layers.module import Initializer, Module, einsum, require


class Linear(Module):
    """``x @ kernel + bias`` over the last axis of x, of any rank.

    Leaves: ``kernel`` (in_features, out_features) and ``bias`` (out_features,).
    Raises ValueError when the last axis of x is not ``in_features`` long.
    """

    in_features: int
    out_features: int
    bias: bool = True
    kernel_init: Initializer | None = dataclasses.field(default=None, kw_only=True)
    bias_init: Initializer | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("in_features", "out_features"):
            require(getattr(self, name) >= 0, f"Linear: expected {name} >= 0, got {getattr(self, name)}")

    @nn.compact
    def __call__(self, x: Float[Array, "*n i"], train: bool = False) -> Float[Array, "*n o"]:
        self.check_channels(x, self.in_features, [x.ndim])
        default = init.fan_in_uniform(self.in_features)
        kernel = self.parameter("kernel", self.kernel_init or default, (self.in_features, self.out_features))
        bias = self.parameter("bias", self.bias_init or default, (self.out_features,)) if self.bias else None
        x, kernel, bias = self.promote(x, kernel, bias)
        y = einsum("...i,io->...o", x, kernel)
        return y if bias is None else y + bias


class Embedding(Module):
    """Row ``i`` of a table for every index ``i``; a negative or too large index gives NaN, where torch raises.

    Leaf: ``embedding`` (num_embeddings, embedding_dim), drawn from N(0, 1).
    """

    num_embeddings: int
    embedding_dim: int
    embedding_init: Initializer = dataclasses.field(default=init.normal(1.0), kw_only=True)

    @nn.compact
    def __call__(self, x: Int[Array, "*n"], train: bool = False) -> Float[Array, "*n d"]:
        table = self.parameter("embedding", self.embedding_init, (self.num_embeddings, self.embedding_dim))
        (table,) = self.promote(table)
        return jnp.take(table, jnp.where(x < 0, self.num_embeddings, x), axis=0, mode="fill")
