"""Generalized Intersection over Union - Rezatofighi et al. 2019, https://arxiv.org/abs/1902.09630"""

import torch
from torch import Tensor


def box_cxcywh_to_xyxy(x: Tensor) -> Tensor:
    cx, cy, w, h = x.unbind(-1)
    return torch.stack([cx - 0.5 * w, cy - 0.5 * h, cx + 0.5 * w, cy + 0.5 * h], -1)


def box_xyxy_to_cxcywh(x: Tensor) -> Tensor:
    x0, y0, x1, y1 = x.unbind(-1)
    return torch.stack([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0], -1)


def area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def box_iou(boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor]:
    one, two = boxes1[..., :, None, :], boxes2[..., None, :, :]
    sides = (torch.min(one[..., 2:], two[..., 2:]) - torch.max(one[..., :2], two[..., :2])).clamp(min=0)
    inter = sides[..., 0] * sides[..., 1]
    union = area(one) + area(two) - inter
    return inter / union, union


def generalized_box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    for boxes in (boxes1, boxes2):
        if (boxes[..., 2:] < boxes[..., :2]).any():
            raise ValueError("generalized_box_iou: expected xyxy boxes, got some with their corners swapped")
    iou, union = box_iou(boxes1, boxes2)
    one, two = boxes1[..., :, None, :], boxes2[..., None, :, :]
    sides = (torch.max(one[..., 2:], two[..., 2:]) - torch.min(one[..., :2], two[..., :2])).clamp(min=0)
    hull = sides[..., 0] * sides[..., 1]
    return iou - (hull - union) / hull


def masks_to_boxes(masks: Tensor) -> Tensor:
    rows, columns = (masks != 0).any(2), (masks != 0).any(1)
    (x0, x1), (y0, y1) = extent(columns), extent(rows)
    return torch.stack([x0, y0, x1, y1], -1)


def extent(filled: Tensor) -> tuple[Tensor, Tensor]:
    index = torch.arange(filled.shape[1], dtype=torch.float32).expand(filled.shape)
    return index.masked_fill(~filled, 1e8).amin(1), index.masked_fill(~filled, 0).amax(1)
