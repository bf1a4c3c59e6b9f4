"""The cross-entropy of two classes: PyTorch's ``binary_cross_entropy``, of probabilities and of logits.

Follows: ``torch.nn.functional``.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from flax_attn.layers import log_sigmoid, require
from flax_attn.losses.common import check_reduction, reduced, same_shape, wide

SMALLEST = float(np.float32(1e-12))
"""The divisor of PyTorch's gradient is at least this: a constant of float32, also in float64."""


@jax.custom_jvp
def _entropy(probs: Array, targets: Array) -> Array:
    return -(targets * _log(probs) + (1 - targets) * _log(1 - probs))


def _log(x: Array) -> Array:
    return jnp.maximum(jnp.log(x), -100)


@_entropy.defjvp
def _entropy_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    (probs, targets), (dprobs, dtargets) = primals, tangents
    slope = (probs - targets) / jnp.maximum(probs * (1 - probs), SMALLEST)
    return _entropy(probs, targets), slope * dprobs + (_log(1 - probs) - _log(probs)) * dtargets


def binary_cross_entropy(
    probs: Float[Array, "*n"], targets: ArrayLike, weight: ArrayLike | None = None, reduction: str = "mean"
) -> Float[Array, "*m"]:
    """weight * -(t * log p + (1 - t) * log(1 - p)) for each probability p and its target t.

    As in PyTorch, a logarithm is never below -100, and the divisor p * (1 - p) of the gradient never below 1e-12. So
    the loss and its gradient are finite at p = 0 and p = 1. A p outside [0, 1] gives NaN; PyTorch refuses it.

    Args:
        targets: numbers from 0 to 1, of the shape of ``probs``.
        weight: anything that broadcasts to the shape of ``probs``; 1 when None.
        reduction: "mean", "sum" or "none".

    Raises:
        ValueError: for targets of another shape, weights that do not broadcast, or an unknown reduction.
    """
    who = "binary_cross_entropy"
    probs, targets = _pair(who, probs, targets, reduction)
    return reduced(_entropy(probs, targets) * _weights(who, "weight", weight, probs), reduction)


def binary_cross_entropy_with_logits(
    logits: Float[Array, "*n"],
    targets: ArrayLike,
    weight: ArrayLike | None = None,
    reduction: str = "mean",
    pos_weight: ArrayLike | None = None,
) -> Float[Array, "*m"]:
    """weight * -(pos_weight * t * log p + (1 - t) * log(1 - p)), with p = sigmoid(logits) and the target t.

    Args:
        targets: numbers from 0 to 1, of the shape of ``logits``.
        weight, pos_weight: anything that broadcasts to the shape of ``logits``, such as (k,) where the last axis is
            that of k classes; 1 when None.
        reduction: "mean", "sum" or "none".

    Raises:
        ValueError: for targets of another shape, weights that do not broadcast, or an unknown reduction.
    """
    who = "binary_cross_entropy_with_logits"
    logits, targets = _pair(who, logits, targets, reduction)
    factor = 1 + (_weights(who, "pos_weight", pos_weight, logits) - 1) * targets
    losses = (1 - targets) * logits - factor * log_sigmoid(logits)
    return reduced(losses * _weights(who, "weight", weight, logits), reduction)


def _pair(who: str, x: Array, targets: ArrayLike, reduction: str) -> tuple[Array, Array]:
    check_reduction(who, reduction)
    x = wide(who, x)
    same_shape(who, "targets", targets, x.shape)
    return x, jnp.asarray(targets, x.dtype)


def _weights(who: str, name: str, weight: ArrayLike | None, x: Array) -> Array:
    if weight is None:
        return jnp.ones((), x.dtype)
    got, shape = np.shape(weight), x.shape
    fits = len(got) <= len(shape) and all(a in (1, b) for a, b in zip(got[::-1], shape[::-1], strict=False))
    require(fits, f"{who}: expected a {name} that broadcasts to {shape}, got shape {got}")
    return jnp.asarray(weight, x.dtype)
