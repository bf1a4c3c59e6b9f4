"""Attention Is All You Need - Vaswani, Shazeer, Parmar et al. 2017, https://arxiv.org/abs/1706.03762

Follows: ``torch.nn.MultiheadAttention`` for the class of that name, xmu-xiaoma666/External-Attention-pytorch for the
other two. With d_model 512, d_k 64, d_v 64 and h 8, ``ScaledDotProductAttention`` is the plain multi-head
self-attention of surveys.
Differs: a query that may attend to no key always gives NaN. PyTorch gives NaN with ``need_weights=True``, but some of
its kernels give 0 without.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from flax_attn.layers import Dropout, Initializer, Linear, Module, einsum, init, require, softmax
from flax_attn.layers.attention import additive, check_query_block, check_tokens, weighted_sum
from flax_attn.layers.layout import join_heads, split_heads
from flax_attn.shapes import Tokens


class MultiheadAttention(Module):
    """For each query the mean of ``value``, weighted by softmax(query . key / sqrt(d)), in each of ``num_heads`` heads.

    Args:
        kdim, vdim: widths of key and value; ``embed_dim`` when None.
        add_bias_kv: append a learned key and value.
        add_zero_attn: append a key and a value of zeros.
        batch_first: whether tokens are (n, l, c). PyTorch's default, False, means (l, n, c).
        kernel_init: initializer of the kernel of ``out_proj``; that of ``Linear`` when None.
        query_block: of how many queries the weights are in memory at a time: that of ``layers.weighted_sum``. The
            weights of all queries are in memory where they are returned, or where a dropout drops some of them.

    The call takes PyTorch's arguments: ``key_padding_mask`` (n, k), and ``attn_mask`` (q, k) or (n * num_heads, q, k).
    In a bool mask, True means that the key is ignored; a floating point mask is added to the logits.
    The call returns the output and the weights: (n, q, k), the mean over the heads, or (n, num_heads, q, k), or None.

    Raises ValueError for tokens, masks and heads that do not fit. Tokens without a batch axis, which PyTorch takes, are
    refused, too.
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
    query_block: int | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        heads, dim = self.num_heads, self.embed_dim
        divides = heads >= 1 and dim >= 1 and dim % heads == 0
        require(divides, f"MultiheadAttention: expected num_heads to divide embed_dim={dim}, got {heads}")
        check_query_block("MultiheadAttention", self.query_block)

    @property
    def widths(self) -> tuple[int, int, int]:
        """The widths of query, key and value."""
        return self.embed_dim, self.kdim or self.embed_dim, self.vdim or self.embed_dim

    @property
    def packed(self) -> bool:
        """Whether one array holds the three projections."""
        return len(set(self.widths)) == 1

    def setup(self) -> None:
        dim, xavier = self.embed_dim, init.xavier_uniform()
        if self.packed:
            self.in_proj_weight = self.parameter("in_proj_weight", xavier, (3 * dim, dim))
        else:
            _, kdim, vdim = self.widths
            self.q_proj_weight = self.parameter("q_proj_weight", xavier, (dim, dim))
            self.k_proj_weight = self.parameter("k_proj_weight", xavier, (dim, kdim))
            self.v_proj_weight = self.parameter("v_proj_weight", xavier, (dim, vdim))
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
        check_tokens("MultiheadAttention", query, key, value, batch=0 if self.batch_first else 1)

    def project(self, tokens: Sequence[Array]) -> list[Array]:
        """The projections of query, key and value, each (n, l, embed_dim)."""
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
        """Append the learned key and value, and the key and value of zeros, where they are wanted."""
        shape = (key.shape[0], 1, self.embed_dim)
        if self.add_bias_kv:
            pairs = ((key, self.bias_k), (value, self.bias_v))
            key, value = (jnp.concatenate([x, jnp.broadcast_to(b, shape).astype(x.dtype)], 1) for x, b in pairs)
        if self.add_zero_attn:
            key, value = (jnp.concatenate([x, jnp.zeros(shape, x.dtype)], 1) for x in (key, value))
        return key, value

    def masks(
        self, key_padding_mask: Array | None, attn_mask: Array | None, shape: tuple[int, int, int]
    ) -> list[Array]:
        """The masks of logits (n, h, q, k); they leave the appended keys as they are."""
        (n, q, k), heads, masks = shape, self.num_heads, []
        if key_padding_mask is not None:
            masks.append(self.mask("key_padding_mask", key_padding_mask, [(n, k)])[:, None, None])
        if attn_mask is not None:
            mask = self.mask("attn_mask", attn_mask, [(q, k), (n * heads, q, k)])
            masks.append(mask.reshape(n, heads, q, mask.shape[2]) if mask.ndim == 3 else mask)
        return masks

    def mask(self, name: str, mask: Array, shapes: Sequence[tuple[int, ...]]) -> Array:
        """The mask, 0 or False for the appended keys. Raises ValueError for a shape not in ``shapes``."""
        expected = f"MultiheadAttention: expected {name} of shape {' or '.join(map(str, shapes))}"
        require(mask.shape in shapes, f"{expected}, got {mask.shape}")
        known = mask.dtype == jnp.bool_ or jnp.issubdtype(mask.dtype, jnp.floating)
        require(known, f"MultiheadAttention: expected {name} of bool or floating point, got {mask.dtype}")
        appended = self.add_bias_kv + self.add_zero_attn
        return jnp.pad(mask, [*[(0, 0)] * (mask.ndim - 1), (0, appended)])

    def attend(
        self, query: Tokens, key: Array, value: Array, masks: Sequence[Array], train: bool, need: bool
    ) -> tuple[Tokens, Any]:
        """The weighted means, heads side by side, and the weights of each head if ``need``."""
        q, k, v = (split_heads(x, self.num_heads) for x in (query, key, value))

        def weigh(q: Array, *masks: Array) -> Array:
            logits = einsum("nhqd,nhkd->nhqk", q / math.sqrt(q.shape[-1]), k, wide=True)
            for mask in masks:
                logits = logits + additive(mask, logits.dtype)
            weights = softmax(logits, -1).astype(v.dtype)
            return self.attn_dropout(weights, train) if self.dropout else weights

        block = 0 if train and self.dropout else self.query_block
        y, weights = weighted_sum(weigh, q, v, masks=masks, query_block=block, need_weights=need)
        return join_heads(y), weights

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
        fits = attn_mask is not None or not is_causal
        require(fits, "MultiheadAttention: expected attn_mask with is_causal=True, got None")
        self.check(query, key, value)
        q, k, v = self.project([x if self.batch_first else x.swapaxes(0, 1) for x in (query, key, value)])
        n, length, _ = q.shape
        masks = self.masks(key_padding_mask, attn_mask, (n, length, k.shape[1]))
        out, weights = self.attend(q, *self.extend(k, v), masks, train=train, need=need_weights)
        out = self.out_proj(out)
        out = out if self.batch_first else out.swapaxes(0, 1)
        return out, weights.mean(1) if weights is not None and average_attn_weights else weights


def linear(inputs: int, outputs: int) -> Linear:
    """A linear layer with weights from N(0, 0.001^2) and bias 0."""
    return Linear(inputs, outputs, kernel_init=init.normal(0.001), bias_init=init.zeros)


class _ScaledDotProductAttention(Module):
    query_block: int | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_query_block(type(self).__name__, self.query_block)

    def check(self, queries: Array, keys: Array, values: Array, mask: Array | None, scale: Array | None) -> None:
        who = type(self).__name__
        for x in (queries, keys, values):
            self.check_channels(x, self.d_model, [3])
        check_tokens(who, queries, keys, values)
        shape = (queries.shape[0], self.h, queries.shape[1], keys.shape[1])
        for name, given in (("attention_mask", mask), ("attention_weights", scale)):
            got = () if given is None else given.shape
            fits = len(got) <= 4 and all(a in (1, b) for a, b in zip(got[::-1], shape[::-1], strict=False))
            require(fits, f"{who}: expected {name} broadcastable to {shape}, got shape {got}")
        dtype = jnp.bool_ if mask is None else mask.dtype
        require(dtype == jnp.bool_, f"{who}: expected attention_mask of bool, got {dtype}")

    def attend(
        self, q: Array, k: Array, v: Array, masks: Sequence[Array | None], train: bool, need: bool
    ) -> tuple[Tokens, Any]:
        """The weighted means of the values, heads side by side, and the weights of each head if ``need``."""
        q, k, v = (split_heads(x, self.h) for x in (q, k, v))

        def weigh(q: Array, mask: Array | None, scale: Array | None) -> Array:
            logits = einsum("nhqd,nhkd->nhqk", q / math.sqrt(q.shape[-1]), k, wide=True)
            if scale is not None:
                logits = logits * scale.astype(logits.dtype)
            if mask is not None:
                logits = jnp.where(mask, -jnp.inf, logits)
            return self.attn_dropout(softmax(logits, -1).astype(v.dtype), train)

        block = 0 if train and self.dropout else self.query_block
        y, weights = weighted_sum(weigh, q, v, masks=masks, query_block=block, need_weights=need)
        return join_heads(y), weights

    def __call__(
        self,
        queries: Float[Array, "n q c"],
        keys: Float[Array, "n k c"],
        values: Float[Array, "n k c"],
        attention_mask: Array | None = None,
        attention_weights: Array | None = None,
        need_weights: bool = False,
        train: bool = False,
    ) -> Float[Array, "n q c"] | tuple[Float[Array, "n q c"], Float[Array, "n h q k"]]:
        self.check(queries, keys, values, attention_mask, attention_weights)
        q, k, v = self.project(queries, keys, values)
        y, weights = self.attend(q, k, v, (attention_mask, attention_weights), train=train, need=need_weights)
        y = self.fc_o(y)
        return (y, weights) if need_weights else y


class ScaledDotProductAttention(_ScaledDotProductAttention):
    """For each of ``queries`` the mean of projected ``values``, weighted by softmax(q . k / sqrt(d_k)) in each head.

    ``attention_mask`` is bool and broadcastable to (n, h, q, k); True means that the key is ignored.
    ``attention_weights``, broadcastable to the same shape, is multiplied with the logits. It is an input, with its
    published name. With ``need_weights=True`` the call returns also the weights (n, h, q, k) of the softmax.

    ``query_block`` says of how many queries the weights are in memory at a time, as in ``layers.weighted_sum``. The
    weights of all queries are in memory where they are returned, or where the dropout drops some of them.
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
        self.fc_q = linear(self.d_model, self.h * self.d_k)
        self.fc_k = linear(self.d_model, self.h * self.d_k)
        self.fc_v = linear(self.d_model, self.h * self.d_v)
        self.fc_o = linear(self.h * self.d_v, self.d_model)
        self.attn_dropout = Dropout(self.dropout)

    def project(self, queries: Array, keys: Array, values: Array) -> tuple[Array, Array, Array]:
        return self.fc_q(queries), self.fc_k(keys), self.fc_v(values)


class SimplifiedScaledDotProductAttention(_ScaledDotProductAttention):
    """``ScaledDotProductAttention`` without the projections of queries, keys and values.

    The heads share the channels of the arguments: each takes d_model / h of them.
    """

    d_model: int
    h: int
    dropout: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        heads, dim = self.h, self.d_model
        divides = heads >= 1 and dim % heads == 0
        require(divides, f"SimplifiedScaledDotProductAttention: expected h to divide d_model={dim}, got {heads}")

    def setup(self) -> None:
        self.fc_o = linear(self.d_model, self.d_model)
        self.attn_dropout = Dropout(self.dropout)

    def project(self, queries: Array, keys: Array, values: Array) -> tuple[Array, Array, Array]:
        return self.cast(queries), self.cast(keys), self.cast(values)
