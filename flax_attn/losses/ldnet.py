"""Lesion-aware Dynamic Kernel for Polyp Segmentation - Zhang et al. 2022, https://arxiv.org/abs/2301.04904

Follows: ReaFly/LDNet, ``utils/loss.py``. Its training uses neither logits nor the structure loss of PraNet.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from flax_attn.layers import interpolate, require
from flax_attn.losses.binary import binary_cross_entropy
from flax_attn.losses.common import same_shape, wide
from flax_attn.shapes import Image


def bce_dice_loss(probs: Image, targets: ArrayLike) -> Float[Array, ""]:
    """Mean binary cross-entropy + 1 - Dice coefficient of probability maps.

    The Dice coefficient of one image is (2 * sum(p * t) + 1) / (sum(p) + sum(t) + 1); its mean over the n images is
    taken. The maps are probabilities, as LDNet returns them; ``dice_loss`` takes logits.

    Raises ValueError for targets that have not the shape of ``probs``.
    """
    probs = wide("bce_dice_loss", probs)
    same_shape("bce_dice_loss", "targets", targets, probs.shape)
    p, t = (jnp.asarray(x, probs.dtype).reshape(len(probs), -1) for x in (probs, targets))
    dice = (2 * (p * t).sum(1) + 1) / (p.sum(1) + t.sum(1) + 1)
    return binary_cross_entropy(p, t) + 1 - dice.mean()


def deep_supervision_loss(outputs: Sequence[Array], targets: ArrayLike) -> Float[Array, ""]:
    """The sum of ``bce_dice_loss`` of the maps of LDNet, each with targets of its size.

    The first map has the size of the targets. For each next map, the targets are halved again, bilinearly with
    ``align_corners=True``.

    Args:
        outputs: the five maps (n, h, w, 1) that LDNet returns, the finest first.
        targets: (n, h, w, 1), numbers from 0 to 1.

    Raises:
        ValueError: for no maps, and for a map that has not the size of the targets at its place.
    """
    require(len(outputs) > 0, "deep_supervision_loss: expected one map or more, got none")
    maps = [wide("deep_supervision_loss", x) for x in outputs]
    t, total = jnp.asarray(targets, maps[0].dtype), jnp.zeros((), maps[0].dtype)
    for i, x in enumerate(maps):
        t = interpolate(t, scale_factor=0.5, mode="bilinear", align_corners=True) if i else t
        same_shape("deep_supervision_loss", f"a map {i}", x, t.shape)
        total += bce_dice_loss(x, t)
    return total
