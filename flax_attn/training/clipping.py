"""Clips gradients as ``torch.nn.utils`` does."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from flax_attn.layers.module import accumulator, require


def grad_norm(grads: Any, norm_type: float = 2.0) -> Array:
    """The norm of all gradients as one vector; ``inf`` for the largest magnitude. It is float32 at least."""
    leaves = [leaf for leaf in jax.tree.leaves(grads) if leaf.size]
    if not leaves:
        return jnp.zeros(())
    wide = [jnp.abs(leaf.astype(accumulator(leaf.dtype))) for leaf in leaves]
    if norm_type == float("inf"):
        return jnp.stack([leaf.max() for leaf in wide]).max()
    return sum(jnp.sum(leaf**norm_type) for leaf in wide) ** (1 / norm_type)


def clip_grad_norm(grads: Any, max_norm: float, norm_type: float = 2.0) -> tuple[Any, Array]:
    """``torch.nn.utils.clip_grad_norm_``: gradients times max_norm / (norm + 1e-6), if that is below 1.

    ``optax.clip_by_global_norm`` has no 1e-6.

    Args:
        grads: nested dicts of gradients.
        max_norm: a positive number.
        norm_type: 2 for the Euclidean norm, another positive number, or ``inf``.

    Returns:
        The gradients, and their norm before they were clipped.

    Raises:
        ValueError: if ``max_norm`` or ``norm_type`` is not positive.
    """
    require(max_norm > 0, f"clip_grad_norm: expected a positive max_norm, got {max_norm}")
    require(norm_type > 0, f"clip_grad_norm: expected a positive norm_type, got {norm_type}")
    norm = grad_norm(grads, norm_type)
    factor = jnp.minimum(max_norm / (norm + 1e-6), 1)
    return jax.tree.map(lambda grad: (grad * factor).astype(grad.dtype), grads), norm


def clip_grad_value(grads: Any, clip_value: float) -> Any:
    """``torch.nn.utils.clip_grad_value_``: each number of the gradients, moved into [-clip_value, clip_value].

    Raises:
        ValueError: if ``clip_value`` is not positive.
    """
    require(clip_value > 0, f"clip_grad_value: expected a positive clip_value, got {clip_value}")
    return jax.tree.map(lambda grad: jnp.clip(grad, -clip_value, clip_value), grads)


def is_finite(*trees: Any) -> Array:
    """Whether no number of the trees is infinite or NaN."""
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(trees)]).all()
