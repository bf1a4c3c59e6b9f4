"""Attention Is All You Need - Vaswani, Shazeer, Parmar et al. 2017, https://arxiv.org/abs/1706.03762

Status: ``MultiheadAttention`` is ``torch.nn.MultiheadAttention``. ``ScaledDotProductAttention`` is that of
External-Attention-pytorch, and with d_model 512, d_k 64, d_v 64, h 8 the plain multi-head self-attention of surveys. A
query that may look at no key gives NaN, as in PyTorch with ``need_weights=True``; without, some of its kernels give 0.
"""

import dataclasses
import math
from collections.abc import Sequence

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from flax_attn.layers import Dropout, Initializer, Linear, Module, accumulator, einsum, init, require, softmax
from flax_attn.shapes import Tokens


def split_heads(x: Tokens, heads: int) -> Float[Array, "n l h d"]:
    """Each head takes one run of channels."""
    return x.reshape(*x.shape[:2], heads, -1)


def additive(mask: Array, dtype: DTypeLike) -> Array:
    """A mask to add to logits: True is -inf; a floating point mask is added as it is."""
    return jnp.where(mask, -jnp.inf, 0).astype(dtype) if mask.dtype == jnp.bool_ else mask.astype(dtype)


class MultiheadAttention(Module):
    """What each query gathers from ``value``, by softmax(query . key / sqrt(d)) in each head.

    Args:
        kdim, vdim: widths of key and value; ``embed_dim`` when None.
        add_bias_kv: append a learned key and value. add_zero_attn: append a key and value of zeros.
        batch_first: tokens are (n, l, c) and not, as PyTorch's default has it, (l, n, c).

    The call takes PyTorch's arguments: ``key_padding_mask`` (n, k) and ``attn_mask`` (q, k) or (n * num_heads, q, k),
    bool where True is ignored or floating point to be added. It returns the output and the weights (n, q, k), averaged
    over heads, or (n, num_heads, q, k), or None. Raises ValueError for tokens, masks and heads that do not fit, and for
    tokens without a batch axis, which PyTorch takes.
    """

    embed_dim: int
    num_heads: int
    dropout: float = 0.0
    bias: bool = True
    add_bias_kv: bool = False
    add_zero_attn: bool = False
    kdim: int | None = None
    vdim: int | None = None
    batch_first: bool = False
    kernel_init: Initializer | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        heads, dim = self.num_heads, self.embed_dim
        divides = heads >= 1 and dim >= 1 and dim % heads == 0
        require(divides, f"MultiheadAttention: expected num_heads to divide embed_dim={dim}, got {heads}")

    @property
    def widths(self) -> tuple[int, int, int]:
        return self.embed_dim, self.kdim or self.embed_dim, self.vdim or self.embed_dim

    @property
    def packed(self) -> bool:
        return len(set(self.widths)) == 1

    def setup(self) -> None:
        dim, xavier = self.embed_dim, init.xavier_uniform()
        if self.packed:
            self.in_proj_weight = self.parameter("in_proj_weight", xavier, (3 * dim, dim))
        else:
            names = ("q_proj_weight", "k_proj_weight", "v_proj_weight")
            for name, width in zip(names, self.widths, strict=True):
                setattr(self, name, self.parameter(name, xavier, (dim, width)))
        if self.bias:
            self.in_proj_bias = self.parameter("in_proj_bias", init.zeros, (3 * dim,))
        self.out_proj = Linear(dim, dim, self.bias, kernel_init=self.kernel_init, bias_init=init.zeros)
        if self.add_bias_kv:
            self.bias_k = self.parameter("bias_k", init.normal(dim**-0.5), (1, 1, dim))
            self.bias_v = self.parameter("bias_v", init.normal(dim**-0.5), (1, 1, dim))
        self.attn_dropout = Dropout(self.dropout)

    def check(self, query: Array, key: Array, value: Array) -> None:
        for name, x, width in zip(("query", "key", "value"), (query, key, value), self.widths, strict=True):
            require(x.ndim == 3, f"MultiheadAttention: expected {name} of rank 3, got shape {x.shape}")
            require(x.shape[-1] == width, f"MultiheadAttention: expected {name} of width {width}, got shape {x.shape}")
        batch = 0 if self.batch_first else 1
        fits = query.shape[batch] == key.shape[batch] and key.shape[:2] == value.shape[:2]
        expected = "MultiheadAttention: expected one batch size and a value for each key, got shapes"
        require(fits, f"{expected} {query.shape}, {key.shape}, {value.shape}")

    def project(self, tokens: Sequence[Array]) -> list[Array]:
        """Queries, keys and values (n, l, embed_dim)."""
        if self.packed:
            weights = jnp.split(self.in_proj_weight, 3)
        else:
            weights = [self.q_proj_weight, self.k_proj_weight, self.v_proj_weight]
        biases = jnp.split(self.in_proj_bias, 3) if self.bias else [None] * 3
        projected = []
        for x, weight, bias in zip(tokens, weights, biases, strict=True):
            x, weight, bias = self.promote(x, weight, bias)
            y = einsum("nli,oi->nlo", x, weight)
            projected.append(y if bias is None else y + bias)
        return projected

    def extend(self, key: Array, value: Array) -> tuple[Array, Array]:
        """Append the learned key and value, and the zeros."""
        shape = (key.shape[0], 1, self.embed_dim)
        if self.add_bias_kv:
            pairs = ((key, self.bias_k), (value, self.bias_v))
            key, value = (jnp.concatenate([x, jnp.broadcast_to(b, shape).astype(x.dtype)], 1) for x, b in pairs)
        if self.add_zero_attn:
            key, value = (jnp.concatenate([x, jnp.zeros(shape, x.dtype)], 1) for x in (key, value))
        return key, value

    def masks(self, key_padding_mask: Array | None, attn_mask: Array | None, n: int, q: int, k: int) -> list[Array]:
        """Both masks in a shape that adds to logits (n, h, q, keys), with nothing on the appended keys."""
        heads, masks = self.num_heads, []
        if key_padding_mask is not None:
            masks.append(self.mask("key_padding_mask", key_padding_mask, [(n, k)])[:, None, None])
        if attn_mask is not None:
            mask = self.mask("attn_mask", attn_mask, [(q, k), (n * heads, q, k)])
            masks.append(mask.reshape(n, heads, q, -1) if mask.ndim == 3 else mask)
        return masks

    def mask(self, name: str, mask: Array, shapes: Sequence[tuple[int, ...]]) -> Array:
        """A mask to add, 0 on the appended keys, of one of ``shapes``."""
        expected = f"MultiheadAttention: expected {name} of shape {' or '.join(map(str, shapes))}"
        require(mask.shape in shapes, f"{expected}, got {mask.shape}")
        known = mask.dtype == jnp.bool_ or jnp.issubdtype(mask.dtype, jnp.floating)
        require(known, f"MultiheadAttention: expected {name} of bool or floating point, got {mask.dtype}")
        appended = self.add_bias_kv + self.add_zero_attn
        return jnp.pad(additive(mask, accumulator(mask.dtype)), [*[(0, 0)] * (mask.ndim - 1), (0, appended)])

    def __call__(
        self,
        query: Float[Array, "a b c"],
        key: Float[Array, "d e f"],
        value: Float[Array, "d e g"],
        key_padding_mask: Array | None = None,
        need_weights: bool = True,
        attn_mask: Array | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
        train: bool = False,
    ) -> tuple[Float[Array, "a b h"], Array | None]:
        causal = attn_mask is not None or not is_causal
        require(causal, "MultiheadAttention: expected attn_mask with is_causal=True, got None")
        self.check(query, key, value)
        tokens = [x if self.batch_first else x.swapaxes(0, 1) for x in (query, key, value)]
        n, length, size = tokens[0].shape[0], tokens[0].shape[1], tokens[1].shape[1]
        q, k, v = self.project(tokens)
        k, v = self.extend(k, v)
        q, k, v = (split_heads(x, self.num_heads) for x in (q, k, v))
        logits = einsum("nqhd,nkhd->nhqk", q / math.sqrt(q.shape[-1]), k, wide=True)
        for mask in self.masks(key_padding_mask, attn_mask, n, length, size):
            logits += mask.astype(logits.dtype)
        weights = softmax(logits).astype(v.dtype)
        if self.dropout:
            weights = self.attn_dropout(weights, train)
        out = self.out_proj(einsum("nhqk,nkhd->nqhd", weights, v).reshape(n, length, -1))
        out = out if self.batch_first else out.swapaxes(0, 1)
        if not need_weights:
            return out, None
        return out, weights.mean(1) if average_attn_weights else weights


class _ScaledDotProductAttention(Module):
    def check(self, queries: Array, keys: Array, values: Array, mask: Array | None, scale: Array | None) -> None:
        who = type(self).__name__
        for x in (queries, keys, values):
            self.check_channels(x, self.d_model, [3])
        fits = queries.shape[0] == keys.shape[0] and keys.shape[:2] == values.shape[:2]
        expected = f"{who}: expected one batch size and a value for each key, got shapes"
        require(fits, f"{expected} {queries.shape}, {keys.shape}, {values.shape}")
        shape = (queries.shape[0], self.h, queries.shape[1], keys.shape[1])
        for name, given in (("attention_mask", mask), ("attention_weights", scale)):
            got = () if given is None else given.shape
            fits = len(got) <= 4 and all(a in (1, b) for a, b in zip(got[::-1], shape[::-1], strict=False))
            require(fits, f"{who}: expected {name} broadcastable to {shape}, got shape {got}")
        dtype = jnp.bool_ if mask is None else mask.dtype
        require(dtype == jnp.bool_, f"{who}: expected attention_mask of bool, got {dtype}")

    def attend(
        self, query: Array, key: Array, value: Array, mask: Array | None, scale: Array | None, train: bool
    ) -> Tokens:
        """What each query gathers, before the last projection."""
        q, k, v = (split_heads(x, self.h) for x in (query, key, value))
        logits = einsum("nqhd,nkhd->nhqk", q, k, wide=True) / math.sqrt(q.shape[-1])
        if scale is not None:
            logits *= scale.astype(logits.dtype)
        if mask is not None:
            logits = jnp.where(mask, -jnp.inf, logits)
        weights = self.attn_dropout(softmax(logits).astype(v.dtype), train)
        return einsum("nhqk,nkhd->nqhd", weights, v).reshape(*q.shape[:2], -1)

    def linear(self, inputs: int, outputs: int) -> Linear:
        return Linear(inputs, outputs, kernel_init=init.normal(0.001), bias_init=init.zeros)


class ScaledDotProductAttention(_ScaledDotProductAttention):
    """What each of ``queries`` gathers from ``values`` through projections, by softmax(q . k / sqrt(d_k)) in each head.

    ``attention_mask`` is bool, broadcastable to (n, h, q, k), True is ignored; ``attention_weights``, broadcastable
    likewise, is multiplied with the logits.
    """

    d_model: int
    d_k: int
    d_v: int
    h: int
    dropout: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes = (self.d_model, self.d_k, self.d_v, self.h)
        require(min(sizes) >= 1, f"ScaledDotProductAttention: expected d_model, d_k, d_v, h >= 1, got {sizes}")

    def setup(self) -> None:
        self.fc_q = self.linear(self.d_model, self.h * self.d_k)
        self.fc_k = self.linear(self.d_model, self.h * self.d_k)
        self.fc_v = self.linear(self.d_model, self.h * self.d_v)
        self.fc_o = self.linear(self.h * self.d_v, self.d_model)
        self.attn_dropout = Dropout(self.dropout)

    def __call__(
        self,
        queries: Float[Array, "n q c"],
        keys: Float[Array, "n k c"],
        values: Float[Array, "n k c"],
        attention_mask: Array | None = None,
        attention_weights: Array | None = None,
        train: bool = False,
    ) -> Float[Array, "n q c"]:
        self.check(queries, keys, values, attention_mask, attention_weights)
        projected = self.fc_q(queries), self.fc_k(keys), self.fc_v(values)
        return self.fc_o(self.attend(*projected, attention_mask, attention_weights, train))


class SimplifiedScaledDotProductAttention(_ScaledDotProductAttention):
    """The same without projections of queries, keys and values: their channels are dealt out to the heads."""

    d_model: int
    h: int
    dropout: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        heads, dim = self.h, self.d_model
        divides = heads >= 1 and dim % heads == 0
        require(divides, f"SimplifiedScaledDotProductAttention: expected h to divide d_model={dim}, got {heads}")

    def setup(self) -> None:
        self.fc_o = self.linear(self.d_model, self.d_model)
        self.attn_dropout = Dropout(self.dropout)

    def __call__(
        self,
        queries: Float[Array, "n q c"],
        keys: Float[Array, "n k c"],
        values: Float[Array, "n k c"],
        attention_mask: Array | None = None,
        attention_weights: Array | None = None,
        train: bool = False,
    ) -> Float[Array, "n q c"]:
        self.check(queries, keys, values, attention_mask, attention_weights)
        tokens = self.cast(queries), self.cast(keys), self.cast(values)
        return self.fc_o(self.attend(*tokens, attention_mask, attention_weights, train))
