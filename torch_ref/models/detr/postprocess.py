"""End-to-End Object Detection with Transformers - Carion, Massa, Synnaeve et al. 2020, https://arxiv.org/abs/2005.12872"""

import torch
from torch import Tensor
from torch.nn.functional import interpolate, sigmoid, softmax

from torch_ref.models.detr.boxes import box_cxcywh_to_xyxy

COCO_IS_THING = {category: category <= 90 for category in range(250)}


def pil_nearest(n, out) -> Tensor:
    step = n / out
    position = torch.tensor([step / 2] + [step] * (out - 1), dtype=torch.float64).cumsum(0)
    return position.floor().long().clamp(max=n - 1)


class PostProcess:
    def __call__(self, outputs, target_sizes: Tensor) -> list[dict]:
        logits, boxes = outputs["pred_logits"], outputs["pred_boxes"]
        scores, labels = softmax(logits, -1)[..., :-1].max(-1)
        boxes = box_cxcywh_to_xyxy(boxes) * target_sizes[:, [1, 0, 1, 0]][:, None]
        rows = zip(scores, labels, boxes, strict=True)
        return [{"scores": s, "labels": label, "boxes": b} for s, label, b in rows]


class PostProcessSegm:
    def __init__(self, threshold=0.5):
        self.threshold = threshold

    def __call__(self, results, outputs, orig_target_sizes: Tensor, max_target_sizes: Tensor) -> list[dict]:
        originals, sizes = orig_target_sizes.tolist(), max_target_sizes
        masks = outputs["pred_masks"]
        masks = interpolate(masks, sizes.amax(0).tolist(), mode="bilinear", align_corners=False)
        masks = sigmoid(masks) > self.threshold
        segmented = []
        for result, mask, original, (h, w) in zip(results, masks, originals, sizes.tolist(), strict=True):
            mask = interpolate(mask[None, :, :h, :w].float(), original)[0]
            segmented.append({**result, "masks": mask.bool()})
        return segmented


class PostProcessPanoptic:
    def __init__(self, is_thing_map, threshold=0.85):
        self.is_thing_map = is_thing_map
        self.threshold = threshold

    def __call__(self, outputs, processed_sizes: Tensor, target_sizes: Tensor | None = None) -> list[dict]:
        processed = processed_sizes.tolist()
        targets = processed if target_sizes is None else target_sizes.tolist()
        logits, masks = outputs["pred_logits"], outputs["pred_masks"]
        return [self.segment(*image) for image in zip(logits, masks, processed, targets, strict=True)]

    def segment(self, logits: Tensor, masks: Tensor, size, target_size) -> dict:
        scores, labels = softmax(logits, -1).max(-1)
        keep = (labels != logits.shape[-1] - 1) & (scores > self.threshold)
        classes, masks = labels[keep], masks[keep][:, None]
        masks = interpolate(masks, size, mode="bilinear")[:, 0]
        ids, areas = self.assign(masks, self.merge(classes), target_size)
        while (small := areas <= 4).any():
            classes, masks = classes[~small], masks[~small]
            ids, areas = self.assign(masks, torch.arange(len(classes)), target_size)
        rows = enumerate(zip(classes.tolist(), areas.tolist(), strict=True))
        things = self.is_thing_map
        info = [{"id": i, "isthing": things[c], "category_id": c, "area": area} for i, (c, area) in rows]
        return {"ids": ids, "segments_info": info}

    def merge(self, classes: Tensor) -> Tensor:
        first = {}
        pairs = enumerate(classes.tolist())
        return torch.tensor([i if self.is_thing_map[c] else first.setdefault(c, i) for i, c in pairs], dtype=torch.long)

    def assign(self, masks: Tensor, segments: Tensor, size) -> tuple[Tensor, Tensor]:
        k, h, w = masks.shape
        ids = segments[softmax(masks, 0).argmax(0)] if k else torch.zeros((h, w), dtype=torch.long)
        ids = ids[pil_nearest(h, size[0])][:, pil_nearest(w, size[1])]
        return ids, ids.flatten().bincount(minlength=k)[:k]
