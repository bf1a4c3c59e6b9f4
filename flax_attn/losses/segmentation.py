"""Dual Attention Network for Scene Segmentation - Fu et al. 2019, https://arxiv.org/abs/1809.02983

Follows: junfu1115/DANet, whose ``encoding/nn`` is zhanghang1989/PyTorch-Encoding's with ``SegmentationMultiLosses``.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from flax_attn.layers import require, sigmoid
from flax_attn.losses.binary import binary_cross_entropy
from flax_attn.losses.common import class_indices, wide
from flax_attn.losses.cross_entropy import cross_entropy
from flax_attn.shapes import ScoreMap, Scores


def segmentation_multi_losses(
    outputs: Sequence[Array], labels: ArrayLike, weight: ArrayLike | None = None, ignore_index: int = -1
) -> Float[Array, ""]:
    """The sum of the cross-entropies of the three outputs of DANet, all of the same weight.

    Args:
        outputs: three scores (n, h, w, k): of both attentions together, of the position and of the channel attention.
        labels: integers (n, h, w).
        weight: (k,), the weight of each class; see ``cross_entropy``.

    Raises:
        ValueError: for a number of outputs other than three, and as ``cross_entropy`` does.
    """
    require(len(outputs) == 3, f"segmentation_multi_losses: expected three outputs, got {len(outputs)}")
    first, second, third = (cross_entropy(x, labels, weight, ignore_index=ignore_index) for x in outputs)
    return first + second + third


def segmentation_losses(
    logits: ScoreMap,
    labels: ArrayLike,
    aux_logits: ScoreMap | None = None,
    se_logits: Scores | None = None,
    aux_weight: float = 0.4,
    se_weight: float = 0.2,
    weight: ArrayLike | None = None,
    ignore_index: int = -1,
) -> Float[Array, ""]:
    """cross_entropy(logits) + aux_weight * cross_entropy(aux_logits) + se_weight * the loss of ``se_logits``.

    The last is the mean binary cross-entropy of sigmoid(se_logits) and of the classes that occur in each image. It is
    weighted with ``weight``, as the others. What is None adds nothing.

    Args:
        logits, aux_logits: (n, h, w, k).
        labels: integers (n, h, w).
        se_logits: (n, k): a score for each class, whether it occurs in the image.
        weight: (k,), the weight of each class; see ``cross_entropy``.

    Raises:
        ValueError: for ``se_logits`` that are not (n, k), and as ``cross_entropy`` does.
    """
    total = cross_entropy(logits, labels, weight, ignore_index=ignore_index)
    if aux_logits is not None:
        total += aux_weight * cross_entropy(aux_logits, labels, weight, ignore_index=ignore_index)
    if se_logits is not None:
        who, k = "segmentation_losses", logits.shape[-1]
        expected = (logits.shape[0], k)
        require(se_logits.shape == expected, f"{who}: expected se_logits of shape {expected}, got {se_logits.shape}")
        y = class_indices(who, labels, logits.shape[:-1], k, ignore_index)
        occurs = (y[..., None] == jnp.arange(k)).any((1, 2))
        total += se_weight * binary_cross_entropy(sigmoid(wide(who, se_logits)), occurs, weight)
    return total
