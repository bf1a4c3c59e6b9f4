"""End-to-End Object Detection with Transformers - Carion et al. 2020, https://arxiv.org/abs/2005.12872"""

import torch
from torch import Tensor
from torch.nn import functional

from torch_ref.models.detr.boxes import box_xyxy_to_cxcywh
from torch_ref.models.preprocess import normalize, resize


def resized_size(h, w, size=800, max_size=1333) -> tuple[int, int]:
    short, long = min(h, w), max(h, w)
    if max_size is not None and long / short * size > max_size:
        size = round(max_size * short / long)
    if short == size:
        return h, w
    return (int(size * h / w), size) if w < h else (size, int(size * w / h))


def resize_within(image: Tensor, size=800, max_size=1333) -> Tensor:
    _, h, w = image.shape
    return resize(image, resized_size(h, w, size, max_size))


def nested_batch(images: list[Tensor], size=None, multiple=1) -> tuple[Tensor, Tensor]:
    if not images:
        raise ValueError("nested_batch: expected at least one image, got none")
    most = [max(image.shape[axis] for image in images) for axis in (1, 2)]
    given = most if size is None else size
    if any(a > b for a, b in zip(most, given, strict=True)):
        raise ValueError(f"nested_batch: expected images of at most {given}, got {tuple(most)}")
    h, w = (-(-side // multiple) * multiple for side in given)
    pads = [(0, w - image.shape[2], 0, h - image.shape[1]) for image in images]
    batch = torch.stack([functional.pad(image, pad) for image, pad in zip(images, pads, strict=True)])
    valid = [functional.pad(torch.ones_like(image[0]), pad) for image, pad in zip(images, pads, strict=True)]
    return batch, torch.stack(valid) == 0


def preprocess(images: list[Tensor], size=800, max_size=1333, pad_size=None, multiple=1) -> tuple[Tensor, Tensor]:
    normalized = [normalize(resize_within(image, size, max_size)) for image in images]
    return nested_batch(normalized, pad_size, multiple)


def normalize_boxes(boxes: Tensor, size) -> Tensor:
    pixels = box_xyxy_to_cxcywh(boxes)
    h, w = size
    return pixels / pixels.new_tensor([w, h, w, h])
