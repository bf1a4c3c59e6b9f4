"""What several losses need: wide numbers, reductions, and checks whose messages name the loss."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike

from flax_attn.layers import accumulator, require, require_floats

REDUCTIONS = ("mean", "sum", "none")


def wide(who: str, x: Any) -> Array:
    """x in float32 at least. Raises ValueError for integers and bools."""
    require_floats(who, x)
    x = jnp.asarray(x)
    return x.astype(accumulator(x.dtype))


def same_shape(who: str, name: str, x: Any, shape: tuple[int, ...]) -> None:
    """Refuse an x that has not the shape ``shape``. PyTorch broadcasts some of these, with a warning."""
    require(np.shape(x) == shape, f"{who}: expected {name} of shape {shape}, got {np.shape(x)}")


def check_reduction(who: str, reduction: str) -> None:
    """Refuse a reduction that is not one of PyTorch's."""
    require(reduction in REDUCTIONS, f"{who}: expected a reduction of {', '.join(REDUCTIONS)}, got {reduction!r}")


def reduced(loss: Array, reduction: str) -> Array:
    """The mean, the sum or all numbers of ``loss``. The mean of nothing is NaN, as in PyTorch."""
    if reduction == "none":
        return loss
    return loss.mean() if reduction == "mean" else loss.sum()


def class_indices(who: str, labels: ArrayLike, shape: tuple[int, ...], num_classes: int, ignore_index: int) -> Array:
    """The labels as int32 of shape ``shape``.

    Labels on the host, such as a numpy array, are checked. Labels on a device are not: there the loss of a label
    outside the range is NaN.

    Raises:
        ValueError: labels of another shape, labels that are not integers, and, on the host, a label that is neither a
            class nor ``ignore_index``.
    """
    given = labels if isinstance(labels, jax.Array) else np.asarray(labels)
    same_shape(who, "labels", given, shape)
    integers, dtype = jnp.issubdtype(given.dtype, jnp.integer), given.dtype
    require(integers, f"{who}: expected integers as labels, or probabilities of the shape of the scores, got {dtype}")
    if isinstance(given, np.ndarray):
        bad = given[(given != ignore_index) & ((given < 0) | (given >= num_classes))]
        expected = f"{who}: expected labels from 0 to {num_classes - 1}, or ignore_index={ignore_index}"
        require(bad.size == 0, f"{expected}, got {bad[0] if bad.size else None}")
    return jnp.asarray(given).astype(jnp.int32)


def class_weights(who: str, weight: ArrayLike | None, num_classes: int, dtype: Any) -> Array | None:
    """The weight (k,) of each class in ``dtype``. Raises ValueError for another shape."""
    if weight is None:
        return None
    same_shape(who, "a weight for each class", weight, (num_classes,))
    return jnp.asarray(weight, dtype)
