"""End-to-End Object Detection with Transformers - Carion, Massa, Synnaeve et al. 2020, https://arxiv.org/abs/2005.12872

Follows: facebookresearch/detr.
Differs: masks are (q, h, w) of bool, upstream (q, 1, h, w) of bytes. The panoptic result is an array of ids, upstream a
PNG file whose colours are ids. Results are new dicts; upstream changes them in place. ``COCO_IS_THING`` ends at class
249, the last that the published networks can name; upstream's map ends at 200.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from flax_attn.layers import accumulator, interpolate, require, sigmoid, softmax
from flax_attn.models.detr.boxes import box_cxcywh_to_xyxy

Sizes = Any  # n pairs (h, w), an array or not

COCO_IS_THING = {category: category <= 90 for category in range(250)}
"""For each of COCO's panoptic classes, whether it is a thing."""


def pil_nearest(n: int, out: int) -> Int[np.ndarray, " out"]:
    """For each of ``out`` pixels, the one of ``n`` pixels that Pillow's NEAREST takes: that at (i + 0.5) * n / out.

    Pillow computes the position as a sum of half a step and i steps. On the edge of two pixels its rounding decides.
    """
    step = n / out
    position = np.cumsum([step / 2] + [step] * (out - 1))
    return np.minimum(np.floor(position).astype(int), n - 1)


class PostProcess:
    """A dict for each image: "scores" (q,), "labels" (q,), and "boxes" (q, 4), left, top, right, bottom, in pixels.

    The call takes the result of ``DETR``, and for each image the (height, width) that its boxes are relative to. It
    works under jit.
    """

    def __call__(self, outputs: Mapping[str, Any], target_sizes: Sizes) -> list[dict[str, Array]]:
        logits, boxes, sizes = map(jnp.asarray, (outputs["pred_logits"], outputs["pred_boxes"], target_sizes))
        expected = f"PostProcess: expected target_sizes of shape {(len(logits), 2)}"
        require(sizes.shape == (len(logits), 2), f"{expected}, got {sizes.shape}")
        logits, boxes = (x.astype(accumulator(x.dtype)) for x in (logits, boxes))
        probabilities = softmax(logits)[..., :-1]
        scores, labels = probabilities.max(-1), probabilities.argmax(-1)
        boxes = box_cxcywh_to_xyxy(boxes) * sizes[:, [1, 0, 1, 0]][:, None]
        rows = zip(scores, labels, boxes, strict=True)
        return [{"scores": s, "labels": label, "boxes": b} for s, label, b in rows]


class PostProcessSegm:
    """``results`` of ``PostProcess`` with "masks" (q, h, w), True in the object, at the size of the original image.

    Args:
        threshold: the probability above which a pixel is in the object.

    The call takes ``results``, the result of ``DETRsegm``, and for each image (h, w) of the original image and of the
    image that was padded to a batch.
    """

    def __init__(self, threshold: float = 0.5):
        self.threshold = threshold

    def __call__(
        self,
        results: Sequence[Mapping[str, Any]],
        outputs: Mapping[str, Any],
        orig_target_sizes: Sizes,
        max_target_sizes: Sizes,
    ) -> list[dict[str, Any]]:
        originals, sizes = np.asarray(orig_target_sizes).tolist(), np.asarray(max_target_sizes)
        masks = jnp.moveaxis(jnp.asarray(outputs["pred_masks"]), 1, -1)
        masks = interpolate(masks, sizes.max(0).tolist(), mode="bilinear", align_corners=False)
        masks = sigmoid(masks) > self.threshold
        segmented = []
        for result, mask, original, (h, w) in zip(results, masks, originals, sizes.tolist(), strict=True):
            mask = interpolate(mask[None, :h, :w], original)[0]
            segmented.append({**result, "masks": jnp.moveaxis(mask, -1, 0)})
        return segmented


class PostProcessPanoptic:
    """A dict for each image: "ids" (h, w), the segment of each pixel, and "segments_info", a list of one dict for each
    segment: "id", "isthing", "category_id" and "area" in pixels.

    Args:
        is_thing_map: for each class, whether it is a thing. All masks of a class that is no thing are one segment.
        threshold: queries with a lower score are left out.

    The call takes the result of ``DETRsegm``, and for each image (h, w) of the image that was padded to a batch, and of
    the result (the same when None). Segments of at most 4 pixels are dropped until there is none. As in the published
    code, masks that were merged into another mask are dropped too, and their pixels go to the next best mask.
    """

    def __init__(self, is_thing_map: Mapping[int, bool], threshold: float = 0.85):
        self.is_thing_map = is_thing_map
        self.threshold = threshold

    def __call__(
        self, outputs: Mapping[str, Any], processed_sizes: Sizes, target_sizes: Sizes | None = None
    ) -> list[dict[str, Any]]:
        processed = np.asarray(processed_sizes).tolist()
        targets = processed if target_sizes is None else np.asarray(target_sizes).tolist()
        logits, masks = jnp.asarray(outputs["pred_logits"]), jnp.asarray(outputs["pred_masks"])
        return [self.segment(*image) for image in zip(logits, masks, processed, targets, strict=True)]

    def segment(self, logits: Array, masks: Array, size: Sequence[int], target_size: Sequence[int]) -> dict[str, Any]:
        logits, masks = (x.astype(accumulator(x.dtype)) for x in (logits, masks))
        probabilities = softmax(logits)
        scores, labels = np.asarray(probabilities.max(-1)), np.asarray(probabilities.argmax(-1))
        keep = (labels != logits.shape[-1] - 1) & (scores > self.threshold)
        classes, masks = labels[keep], jnp.moveaxis(masks[keep], 0, -1)[None]
        masks = interpolate(masks, size, mode="bilinear")[0]
        ids, areas = self.assign(masks, self.merge(classes), target_size)
        while (small := areas <= 4).any():
            classes, masks = classes[~small], masks[..., ~small]
            ids, areas = self.assign(masks, np.arange(len(classes)), target_size)
        rows = enumerate(zip(classes.tolist(), areas.tolist(), strict=True))
        things = self.is_thing_map
        info = [{"id": i, "isthing": things[c], "category_id": c, "area": area} for i, (c, area) in rows]
        return {"ids": ids, "segments_info": info}

    def merge(self, classes: Int[np.ndarray, " k"]) -> Int[np.ndarray, " k"]:
        """The segment of each mask: the first one of its class, if that is no thing."""
        first: dict[int, int] = {}
        pairs = enumerate(classes.tolist())
        return np.asarray([i if self.is_thing_map[c] else first.setdefault(c, i) for i, c in pairs], int)

    def assign(
        self, masks: Float[Array, "h w k"], segments: Int[np.ndarray, " k"], size: Sequence[int]
    ) -> tuple[Int[np.ndarray, "h2 w2"], Int[np.ndarray, " k"]]:
        """The segment of each pixel at ``size``, and the area of each."""
        h, w, k = masks.shape
        ids = segments[np.asarray(softmax(masks).argmax(-1))] if k else np.zeros((h, w), int)
        ids = ids[pil_nearest(h, size[0])][:, pil_nearest(w, size[1])]
        return ids, np.bincount(ids.ravel(), minlength=k)[:k]
