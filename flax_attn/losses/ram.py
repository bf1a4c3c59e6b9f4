"""Recurrent Models of Visual Attention - Mnih et al. 2014, https://arxiv.org/abs/1406.6247

Follows: kevinzakka/recurrent-visual-attention, ``trainer.py``.
"""

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from flax_attn.blocks.recurrent_attention import reinforce_loss
from flax_attn.layers import require
from flax_attn.losses.common import check_reduction, reduced, same_shape, wide
from flax_attn.losses.cross_entropy import nll_loss
from flax_attn.shapes import Scores


def mse_loss(x: Float[Array, "*n"], targets: ArrayLike, reduction: str = "mean") -> Float[Array, "*m"]:
    """(x - targets)^2: ``torch.nn.functional.mse_loss``.

    Raises ValueError for targets that have not the shape of x, and for an unknown reduction.
    """
    check_reduction("mse_loss", reduction)
    x = wide("mse_loss", x)
    same_shape("mse_loss", "targets", targets, x.shape)
    return reduced(jnp.square(x - jnp.asarray(targets, x.dtype)), reduction)


def ram_loss(
    log_probas: Scores,
    labels: ArrayLike,
    log_pi: Float[Array, "n t"],
    baselines: Float[Array, "n t"],
    weight: float = 0.01,
) -> Float[Array, ""]:
    """The loss of a recurrent attention network after t glimpses.

    It is nll_loss(log_probas, labels) + mse_loss(baselines, R) + ``weight`` * mean_n sum_t -log_pi * (R - baselines).
    The reward R of a sample is 1 at each step if the class with the highest of its ``log_probas`` is right, else 0. No
    gradient flows through R, nor through (R - baselines).

    Args:
        log_probas: the logarithms of the probabilities of the k classes, after the last glimpse.
        labels: integers (n,).
        log_pi: the log-densities of the places at each step.
        baselines: the expected rewards at each step.

    Raises:
        ValueError: for arrays whose shapes do not fit, and for labels as in ``nll_loss``.
    """
    log_pi, baselines = wide("ram_loss", log_pi), wide("ram_loss", baselines)
    n = log_probas.shape[0]
    fits = log_pi.shape == baselines.shape and log_pi.ndim == 2 and log_pi.shape[0] == n
    got = f"{log_pi.shape} and {baselines.shape}"
    require(fits, f"ram_loss: expected log_pi and baselines of one shape ({n}, t), got {got}")
    same_shape("ram_loss", "labels", labels, (n,))
    right = jnp.argmax(log_probas, -1) == jnp.asarray(labels)
    reward = jnp.broadcast_to(right[:, None], log_pi.shape).astype(baselines.dtype)
    return nll_loss(log_probas, labels) + reinforce_loss(log_pi, reward, baselines, weight)
