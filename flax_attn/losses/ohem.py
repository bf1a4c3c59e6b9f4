"""CCNet: Criss-Cross Attention for Semantic Segmentation - Huang et al. 2019, https://arxiv.org/abs/1811.11721

Follows: speedinghzl/CCNet, ``loss/loss.py`` and ``loss/criterion.py``.
Differs: upstream finds the hard pixels with numpy and scipy on the host; here it is done under jit. Each process of
upstream finds the hard pixels of its own images; here it is done for the whole batch.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, ArrayLike, Float

from flax_attn.layers import interpolate, require, softmax
from flax_attn.losses.common import class_indices, wide
from flax_attn.losses.cross_entropy import cross_entropy
from flax_attn.shapes import ScoreMap


def ohem_cross_entropy(
    logits: ScoreMap,
    labels: ArrayLike,
    ignore_index: int = 255,
    thresh: float = 0.7,
    min_kept: int = 100000,
    factor: int = 8,
) -> Float[Array, ""]:
    """The mean cross-entropy of the hard pixels: those whose right class has a probability of at most a threshold.

    The threshold is found on probabilities and labels at 1/``factor`` of their size, among the pixels that are not
    ignored. With q = min_kept // factor^2, it is the q-th smallest probability of a right class, or ``thresh`` where
    that is larger. When there are at most q pixels, it is 1, so that all pixels are hard. The probabilities are made
    smaller linearly, the labels by the nearest pixel, both as ``scipy.ndimage.zoom`` does.

    The mean is NaN when no pixel is hard, as in PyTorch: when all pixels are ignored, or when the threshold of the
    small maps leaves no pixel of the large ones.

    Args:
        logits: (n, h, w, k), of the size of the labels.
        labels: integers (n, h, w), as for ``cross_entropy``.

    Raises:
        ValueError: for labels of a wrong shape or range, a negative min_kept, or a factor below 1.
    """
    who = "ohem_cross_entropy"
    require(logits.ndim == 4, f"{who}: expected logits of shape (n, h, w, k), got {logits.shape}")
    require(min_kept >= 0 and factor >= 1, f"{who}: expected min_kept >= 0 and factor >= 1, got {min_kept}, {factor}")
    logits = wide(who, logits)
    y = class_indices(who, labels, logits.shape[:-1], logits.shape[-1], ignore_index)
    probs = lax.stop_gradient(softmax(logits))
    small, small_y = probs, y
    for axis in (1, 2):
        small, small_y = _zoomed(small, axis, factor), _nearest(small_y, axis, factor)
    small_p = jnp.where(small_y == ignore_index, jnp.inf, _right(small, small_y)).ravel()
    threshold = _threshold(jnp.sort(small_p), (small_y != ignore_index).sum(), thresh, min_kept // factor**2)
    hard = (y != ignore_index) & (_right(probs, y) <= threshold)
    return cross_entropy(logits, jnp.where(hard, y, ignore_index), ignore_index=ignore_index)


def _threshold(ordered: Array, valid: Array, thresh: float, kept: int) -> Array:
    """The threshold, from the probabilities in rising order; those behind the first ``valid`` do not count."""
    least = jnp.asarray(thresh, ordered.dtype)
    if 0 < kept <= len(ordered):
        least = jnp.maximum(least, ordered[kept - 1])
    return jnp.where(kept >= valid, 1, least)


def _right(probs: Array, y: Array) -> Array:
    """The probability of the right class; that of some class where the label is none."""
    return jnp.take_along_axis(probs, jnp.clip(y, 0, probs.shape[-1] - 1)[..., None], -1)[..., 0]


def _positions(n: int, factor: int) -> tuple[np.ndarray, np.ndarray]:
    """Where each pixel of the small map lies among n pixels, and whether scipy takes it to lie inside them.

    The corners of both maps coincide. For some sizes, such as n=713, rounding brings the last pixel out of the map, and
    scipy makes it 0.
    """
    out = round(n / factor)
    position = np.arange(out) * ((n - 1) / (out - 1) if out > 1 else 1.0)
    return np.minimum(position, n - 1), position <= n - 1


def _zoomed(x: Array, axis: int, factor: int) -> Array:
    position, inside = _positions(x.shape[axis], factor)
    low = np.floor(position).astype(int)
    high = np.minimum(low + 1, x.shape[axis] - 1)
    column = (-1,) + (1,) * (x.ndim - axis - 1)
    before, after = ((w * inside).reshape(column) for w in (1 - (position - low), position - low))
    return jnp.take(x, low, axis) * before.astype(x.dtype) + jnp.take(x, high, axis) * after.astype(x.dtype)


def _nearest(y: Array, axis: int, factor: int) -> Array:
    position, inside = _positions(y.shape[axis], factor)
    nearest = jnp.take(y, np.floor(position + 0.5).astype(int), axis)
    return nearest * inside.reshape((-1,) + (1,) * (y.ndim - axis - 1)).astype(y.dtype)


def dsn_loss(
    outputs: Sequence[Array], labels: ArrayLike, ignore_index: int = 255, aux_weight: float = 0.4
) -> Float[Array, ""]:
    """cross_entropy(outputs[0]) + ``aux_weight`` * cross_entropy(outputs[1]): CCNet's ``CriterionDSN``.

    The outputs are scores (n, h, w, k), which are first resized to the size of the labels (n, h2, w2), bilinearly with
    ``align_corners=True``. One output alone has no auxiliary loss. Outputs behind the second do not count.

    Raises:
        ValueError: for no outputs, and as ``cross_entropy`` does.
    """
    require(len(outputs) > 0, "dsn_loss: expected the scores of CCNet, got none")
    losses = [cross_entropy(resized(x, labels), labels, ignore_index=ignore_index) for x in outputs[:2]]
    return losses[0] + aux_weight * losses[1] if len(losses) == 2 else losses[0]


def ohem_dsn_loss(
    outputs: Sequence[Array],
    labels: ArrayLike,
    ignore_index: int = 255,
    thresh: float = 0.7,
    min_kept: int = 100000,
    factor: int = 8,
    aux_weight: float = 0.4,
) -> Float[Array, ""]:
    """ohem_cross_entropy(outputs[0]) + ``aux_weight`` * cross_entropy(outputs[1]): CCNet's ``CriterionOhemDSN``.

    The outputs are scores (n, h, w, k), which are first resized to the size of the labels, as in ``dsn_loss``.

    Raises:
        ValueError: for fewer outputs than two, and as ``ohem_cross_entropy`` does.
    """
    require(len(outputs) >= 2, f"ohem_dsn_loss: expected scores and auxiliary scores, got {len(outputs)} outputs")
    scores, auxiliary = (resized(x, labels) for x in outputs[:2])
    hard = ohem_cross_entropy(scores, labels, ignore_index, thresh=thresh, min_kept=min_kept, factor=factor)
    return hard + aux_weight * cross_entropy(auxiliary, labels, ignore_index=ignore_index)


def resized(scores: ScoreMap, labels: ArrayLike) -> Float[Array, "n h2 w2 k"]:
    """The scores in float32 at least, at the height and the width of the labels (n, h, w)."""
    shape = np.shape(labels)
    require(len(shape) == 3, f"dsn_loss: expected labels of shape (n, h, w), got {shape}")
    return interpolate(wide("dsn_loss", scores), shape[1:], mode="bilinear", align_corners=True)
