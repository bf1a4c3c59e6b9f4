"""PraNet: Parallel Reverse Attention Network for Polyp Segmentation - Fan et al. 2020, https://arxiv.org/abs/2006.11392

Follows: DengPingFan/PraNet, ``MyTrain.py``, whose loss is that of weijun88/F3Net.
Differs: the published code means to weight the binary cross-entropy of each pixel, but passes ``reduce="none"``, which
PyTorch takes for a mean: the weights cancel. Here the pixels are weighted, as the paper says. ``weighted_bce=False``
gives the number of the published code.
"""

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from flax_attn.layers import avg_pool, require, sigmoid
from flax_attn.losses.binary import binary_cross_entropy_with_logits
from flax_attn.losses.common import same_shape, wide
from flax_attn.shapes import Image


def structure_loss(logits: Image, targets: ArrayLike, weighted_bce: bool = True) -> Float[Array, ""]:
    """Weighted binary cross-entropy + weighted 1 - IoU of each map, the mean over all maps.

    The weight of a pixel is w = 1 + 5 * |m - t|. Here t is its target, and m the mean of the targets in the 31x31
    pixels around it, zeros outside the image included. So pixels near an edge of an object count more. With
    p = sigmoid(logits), one map has the loss sum(w * bce) / sum(w) + 1 - (I + 1) / (U - I + 1), where
    I = sum(w * p * t) and U = sum(w * (p + t)).

    Args:
        logits: (n, h, w, c): c maps for each image, before the sigmoid.
        targets: numbers from 0 to 1, of the shape of ``logits``.
        weighted_bce: whether the binary cross-entropy is weighted. False gives its plain mean over all maps.

    Raises:
        ValueError: for targets that have not the shape of ``logits``, and for logits that have not four axes.
    """
    logits = wide("structure_loss", logits)
    require(logits.ndim == 4, f"structure_loss: expected logits of shape (n, h, w, c), got {logits.shape}")
    same_shape("structure_loss", "targets", targets, logits.shape)
    t = jnp.asarray(targets, logits.dtype)
    w = 1 + 5 * jnp.abs(avg_pool(t, 31, 1, 15) - t)
    bce = binary_cross_entropy_with_logits(logits, t, reduction="none" if weighted_bce else "mean")
    wbce = (w * bce).sum((1, 2)) / w.sum((1, 2))
    p = sigmoid(logits)
    inter, union = (w * p * t).sum((1, 2)), (w * (p + t)).sum((1, 2))
    return (wbce + 1 - (inter + 1) / (union - inter + 1)).mean()
