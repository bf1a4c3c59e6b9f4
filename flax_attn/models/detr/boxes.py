"""Generalized Intersection over Union - Rezatofighi et al. 2019, https://arxiv.org/abs/1902.09630

Follows: facebookresearch/detr, ``util/box_ops.py``.

Differs: the functions take any leading axes. Upstream asserts that no box has its corners swapped. Code under jit
cannot assert that, so that here such a box gives a meaningless number.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Shaped

Boxes = Float[Array, "*n 4"]
First = Float[Array, "*n a 4"]
Second = Float[Array, "*n b 4"]
Pairs = Float[Array, "*n a b"]


def box_cxcywh_to_xyxy(x: Boxes) -> Boxes:
    """(left, top, right, bottom) of boxes (center x, center y, width, height)."""
    cx, cy, w, h = (x[..., i] for i in range(4))
    return jnp.stack([cx - 0.5 * w, cy - 0.5 * h, cx + 0.5 * w, cy + 0.5 * h], -1)


def box_xyxy_to_cxcywh(x: Boxes) -> Boxes:
    """(center x, center y, width, height) of boxes (left, top, right, bottom)."""
    x0, y0, x1, y1 = (x[..., i] for i in range(4))
    return jnp.stack([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0], -1)


def clamp(x: Array) -> Array:
    """max(x, 0) with the gradient of torch, which is 1 at 0."""
    return jnp.where(x >= 0, x, 0)


def area(boxes: Boxes) -> Float[Array, "*n"]:
    """The area of xyxy boxes."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def box_iou(boxes1: First, boxes2: Second) -> tuple[Pairs, Pairs]:
    """The intersection over union of every pair of xyxy boxes, and the area of their union."""
    one, two = boxes1[..., :, None, :], boxes2[..., None, :, :]
    sides = clamp(jnp.minimum(one[..., 2:], two[..., 2:]) - jnp.maximum(one[..., :2], two[..., :2]))
    inter = sides[..., 0] * sides[..., 1]
    union = area(one) + area(two) - inter
    return inter / union, union


def generalized_box_iou(boxes1: First, boxes2: Second) -> Pairs:
    """The generalized intersection over union of every pair of xyxy boxes, in (-1, 1].

    It is the IoU minus the share of the smallest enclosing box that neither box covers. Two boxes without area give
    NaN, as upstream.
    """
    iou, union = box_iou(boxes1, boxes2)
    one, two = boxes1[..., :, None, :], boxes2[..., None, :, :]
    sides = clamp(jnp.maximum(one[..., 2:], two[..., 2:]) - jnp.minimum(one[..., :2], two[..., :2]))
    hull = sides[..., 0] * sides[..., 1]
    return iou - (hull - union) / hull


def masks_to_boxes(masks: Shaped[Array, "n h w"]) -> Float[Array, "n 4"]:
    """The xyxy box of each mask: its first and last column and row that are not 0; (1e8, 1e8, 0, 0) if all are 0."""
    rows, columns = (masks != 0).any(2), (masks != 0).any(1)
    (x0, x1), (y0, y1) = extent(columns), extent(rows)
    return jnp.stack([x0, y0, x1, y1], -1)


def extent(filled: Bool[Array, "n l"]) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """The first and the last index of each row that is True."""
    index = jnp.arange(filled.shape[1], dtype=jnp.float32)
    return jnp.where(filled, index, 1e8).min(1), jnp.where(filled, index, 0).max(1)
