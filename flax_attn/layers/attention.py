"""Weighted means of values, with the weights of a part of the queries in memory at a time. Differs: PyTorch has none.

The weights of 97 * 97 pixels for each other take 354 MB. In blocks of queries, about 8 MB of them are in memory at a
time. A gradient computes the weights of each block again instead of keeping them.
``python -m examples.attention_memory`` measures both.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from flax_attn.layers.module import accumulator, einsum, require
from flax_attn.layers.plain import PLAIN, has_known_shape

Queries = Float[Array, "n *heads q c"]
Values = Float[Array, "n *heads k d"]
Means = Float[Array, "n *heads q d"]

Weigh = Callable[..., Array]
"""The weights (n, q, k) or (n, heads, q, k) from some of the queries, and from what the masks have for them."""

DENSE_BYTES = 2**24
"""Weights that take no more memory than this are computed at once."""

BLOCK_BYTES = 2**23
"""How much memory the weights of one block take, where ``SHORTEST`` allows it."""

SHORTEST = 128
"""About as many queries are in the shortest block that is chosen here: a product with fewer rows is slow."""


def check_query_block(who: str, query_block: int | None) -> None:
    """Raise ValueError unless ``query_block`` is None or an integer from 0 on."""
    fits = query_block is None or query_block >= 0
    require(fits, f"{who}: expected query_block None, 0 or the number of queries in one block, got {query_block}")


def additive(mask: Array, dtype: DTypeLike) -> Array:
    """The mask as numbers to add to logits: True becomes -inf, False 0; a floating point mask stays as it is."""
    return jnp.where(mask, -jnp.inf, 0).astype(dtype) if mask.dtype == jnp.bool_ else mask.astype(dtype)


def check_tokens(who: str, query: Array, key: Array, value: Array, batch: int = 0) -> None:
    """Refuse tokens of several batch sizes, and keys that do not have one value each; ``batch`` is the batch axis."""
    fits = query.shape[batch] == key.shape[batch] and key.shape[:2] == value.shape[:2]
    expected = f"{who}: expected one batch size and a value for each key, got shapes"
    require(fits, f"{expected} {query.shape}, {key.shape}, {value.shape}")


def weighted_sum(
    weigh: Weigh,
    query: Queries,
    value: Values,
    masks: Sequence[Array | None] = (),
    query_block: int | None = None,
    need_weights: bool = False,
) -> tuple[Means, Any]:
    """For each query the mean of ``value`` with the weights ``weigh(query, *masks)``, and the weights, if needed.

    Args:
        weigh: returns the weights (n, heads, q, k), in the dtype of ``value``, or (n, q, k) where query and value have
            no axis of heads. The weights of a query must not depend on the other queries.
        query: (n, heads, q, c) or (n, q, c).
        value: (n, heads, k, d) or (n, k, d).
        masks: arrays for ``weigh`` that broadcast to the weights. A None stays None.
        query_block: how many queries are in one block. 0: all. None: all where their weights take at most 16 MB, or
            where there are fewer than 512; else so many that their weights take about 8 MB, but about 128 at least.
        need_weights: whether to return the weights. They are then computed at once.

    Returns:
        the means (n, heads, q, d) or (n, q, d), and the weights or None.
    """

    def rows(query: Array, *masks: Array | None) -> Array:
        return einsum("...qk,...kd->...qd", weigh(query, *masks), value)

    if need_weights:
        weights = weigh(query, *masks)
        return einsum("...qk,...kd->...qd", weights, value), weights
    length = query.shape[-2]
    block = chosen_block(query, value) if query_block is None else query_block
    return in_blocks(rows, query, masks, block) if 0 < block < length else rows(query, *masks), None


def chosen_block(query: Array, value: Array) -> int:
    """The number of queries in one block; 0 where the weights of all queries are small enough."""
    if PLAIN.value or not has_known_shape(query, value):
        return 0
    *batch, length, _ = query.shape
    row = math.prod(batch) * value.shape[-2] * accumulator(value.dtype).itemsize
    few = row * length <= DENSE_BYTES or length < 4 * SHORTEST
    return 0 if few else max(BLOCK_BYTES // row, SHORTEST)


def in_blocks(
    rows: Callable[..., Array], query: Array, masks: Sequence[Array | None], block: int
) -> Float[Array, "n *heads q d"]:
    """``rows(query, *masks)``, computed with at most ``block`` queries at a time, in the gradient too."""
    length = query.shape[-2]
    count = -(-length // block)
    parts = {i: split(m, m.ndim - 2, count) for i, m in enumerate(masks) if m is not None and is_cut(m, length)}

    def one_block(query: Array, parts: Mapping[int, Array]) -> Array:
        return rows(query, *[parts.get(i, mask) for i, mask in enumerate(masks)])

    one_block = jax.checkpoint(one_block, prevent_cse=False)
    out = jax.lax.map(lambda arrays: one_block(*arrays), (split(query, query.ndim - 2, count), parts))
    return joined(out)[..., :length, :]


def is_cut(mask: Array, length: int) -> bool:
    """Whether ``mask`` has a row for each of ``length`` queries, and not one for all of them."""
    return mask.ndim >= 2 and mask.shape[-2] == length


def split(x: Array, axis: int, count: int) -> Array:
    """``count`` parts of x, on a new first axis. Part i has the elements i, i + count, ... of ``axis``.

    So an axis whose elements are spread over devices is spread over them in every part. Zeros fill up the parts.
    """
    length = -(-x.shape[axis] // count)
    missing = length * count - x.shape[axis]
    x = jnp.pad(x, [(0, missing if i == axis else 0) for i in range(x.ndim)]) if missing else x
    return jnp.moveaxis(x.reshape(*x.shape[:axis], length, count, *x.shape[axis + 1 :]), axis + 1, 0)


def joined(parts: Float[Array, "count n *heads part d"]) -> Float[Array, "n *heads all d"]:
    """Undo ``split`` along the last axis but one."""
    x = jnp.moveaxis(parts, 0, -2)
    return jax.lax.collapse(x, x.ndim - 3, x.ndim - 1)
