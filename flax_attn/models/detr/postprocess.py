"""End-to-End Object Detection with Transformers - Carion, Massa, Synnaeve et al. 2020, https://arxiv.org/abs/2005.12872

Status: the post-processing of facebookresearch/detr. Its masks are (q, 1, h, w) of bytes, here (q, h, w) of bools; its
panoptic result is a PNG file whose colours are ids, here the ids. Its results are changed in place, here they are new.
``is_thing`` of its COCO map ends at class 200, here at 249, the last that the published networks can name.
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
"""Which of COCO's panoptic classes are things."""


def pil_nearest(n: int, out: int) -> Int[np.ndarray, " out"]:
    """Which of ``n`` pixels Pillow's NEAREST takes for each of ``out``: the one under its centre, (i + 0.5) * n / out.

    Pillow adds up half a step and i whole ones; where a centre is on an edge, the rounding of that sum decides.
    """
    step = n / out
    position = np.cumsum([step / 2] + [step] * (out - 1))
    return np.minimum(np.floor(position).astype(int), n - 1)


class PostProcess:
    """A dict for each image: "scores" (q,), "labels" (q,), and "boxes" (q, 4), left, top, right, bottom, in pixels.

    The call takes what ``DETR`` returns, and the heights and widths (n, 2) that boxes are relative to. It may be
    compiled.
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

    The call takes ``results``, what ``DETRsegm`` returns, and for each image (h, w) of the original and of what was
    padded to a batch.
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
        is_thing_map: which classes are things; several masks of one other class are one segment.
        threshold: queries below that score are left out.

    The call takes what ``DETRsegm`` returns, and for each image (h, w) of what was padded to a batch and of the result,
    the same when None. Segments of at most 4 pixels are dropped until there is none. As published, so are masks that
    were merged into another one, and their pixels go to the mask that is next best.
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
