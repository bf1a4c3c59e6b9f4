"""End-to-End Object Detection with Transformers - Carion et al. 2020, https://arxiv.org/abs/2005.12872

Follows: facebookresearch/detr. Images of uint8 are resized to the pixels of PIL, as there; floating point images, in
[0, 1], are resized without rounding.
Differs: the fixed sizes ``pad_size`` and ``multiple`` are ours.

A padded image does not give the numbers of the same image alone. DETR masks the padding in its attention, but from the
second convolution on the feature maps are not 0 in the padding. The published networks were trained on batches of a few
images, so they know such padding; the more padding, the larger the difference. Where every digit counts, evaluate one
image at a time. For images of one padded size, upstream's network gets the same input as ours.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Num

from flax_attn.layers import require
from flax_attn.models.preprocess import normalize, resize

Picture = Num[np.ndarray, "_ _ 3"]
Batch = tuple[Num[np.ndarray, "n h w 3"], Bool[np.ndarray, "n h w"]]


def resized_size(h: int, w: int, size: int = 800, max_size: int | None = 1333) -> tuple[int, int]:
    """(height, width) with the shorter side at ``size``, or smaller where the longer side would exceed ``max_size``.

    Upstream rounds the shorter side first. So the longer side of an image that is r times as long as wide can exceed
    ``max_size`` by up to r / 2.
    """
    short, long = min(h, w), max(h, w)
    if max_size is not None and long / short * size > max_size:
        size = round(max_size * short / long)
    if short == size:
        return h, w
    return (int(size * h / w), size) if w < h else (size, int(size * w / h))


def resize_within(image: Picture, size: int = 800, max_size: int | None = 1333) -> Picture:
    """The image at ``resized_size``, bilinear and antialiased. The dtype does not change."""
    h, w, _ = image.shape
    return resize(image, resized_size(h, w, size, max_size))


def nested_batch(images: Sequence[Picture], size: tuple[int, int] | None = None, multiple: int = 1) -> Batch:
    """One batch (n, H, W, 3) of normalised images with zeros at the bottom and right, and its mask, True there.

    Args:
        size: (H, W). When None, the largest height and the largest width of the images, as upstream.
        multiple: H and W are rounded up to a multiple of this number, because jit compiles once for each size.

    Raises:
        ValueError: no image, or one larger than ``size``.
    """
    require(len(images) > 0, "nested_batch: expected at least one image, got none")
    most = [max(image.shape[axis] for image in images) for axis in (0, 1)]
    given = most if size is None else size
    require(all(np.less_equal(most, given)), f"nested_batch: expected images of at most {given}, got {tuple(most)}")
    h, w = (-(-side // multiple) * multiple for side in given)
    batch = np.zeros((len(images), h, w, 3), np.result_type(*images))
    mask = np.ones((len(images), h, w), bool)
    for i, image in enumerate(images):
        batch[i, : image.shape[0], : image.shape[1]] = image
        mask[i, : image.shape[0], : image.shape[1]] = False
    return batch, mask


def preprocess(
    images: Sequence[Picture],
    size: int = 800,
    max_size: int | None = 1333,
    pad_size: tuple[int, int] | None = None,
    multiple: int = 1,
) -> Batch:
    """The input of DETR, a batch (n, H, W, 3) and its mask (n, H, W), from RGB images of uint8 or in [0, 1].

    Each image is resized, normalised as for ImageNet and padded: see ``resized_size`` and ``nested_batch``. Every image
    that is at most twice as long as wide fits ``pad_size=(max_size, max_size)``.
    """
    normalized = [np.asarray(normalize(resize_within(image, size, max_size))) for image in images]
    return nested_batch(normalized, pad_size, multiple)


def normalize_boxes(boxes: Num[np.ndarray, "t 4"], size: tuple[int, int]) -> Float[np.ndarray, "t 4"]:
    """The targets of DETR, cxcywh boxes in [0, 1], from xyxy boxes in pixels of an image of ``size`` (height, width).

    The size is that of the image itself, not of the padded batch. Boxes of a resized image give the same result.
    """
    x0, y0, x1, y1 = np.moveaxis(np.asarray(boxes, np.result_type(boxes.dtype, np.float32)), -1, 0)
    pixels = np.stack([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0], -1)
    h, w = size
    return pixels / np.asarray([w, h, w, h], pixels.dtype)
