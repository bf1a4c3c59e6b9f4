"""The published input pipelines' common steps, on numpy images (h, w, 3) before they are batched.

Status: torchvision's transforms. Images that are uint8 are resized as PIL does it: in fixed point, rows first,
then columns, each rounded to whole numbers. What a network asks for beyond these stands beside it.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Num

from flax_attn.layers import antialias_weights, require

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Image = Num[np.ndarray, "h w c"]
Resized = Num[np.ndarray, "h2 w2 c"]


def normalize(
    images: Num[np.ndarray, "*n h w c"], mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
) -> Float[np.ndarray, "*n h w c"]:
    """(x - mean) / std of each channel, in float32 at least; uint8 is divided by 255 first."""
    x = images / np.float32(255) if images.dtype == np.uint8 else images
    return (x - np.asarray(mean, x.dtype)) / np.asarray(std, x.dtype)


def resize(image: Image, size: tuple[int, int], mode: str = "bilinear") -> Resized:
    """The image at ``size`` (height, width), antialiased, "bilinear" or "bicubic"; the dtype stays."""
    for axis in (1, 0):
        if image.shape[axis] == size[axis]:
            continue
        weights = antialias_weights(image.shape[axis], size[axis], mode)
        if image.dtype == np.uint8:
            fixed = np.tensordot(np.round(weights * 2**22), image, (1, axis))
            mixed = np.clip(np.floor(fixed / 2**22 + 0.5), 0, 255)
        else:
            mixed = np.tensordot(weights, image, (1, axis))
        image = np.moveaxis(mixed, 0, axis).astype(image.dtype)
    return image


def resize_shorter(image: Image, size: int, mode: str = "bilinear") -> Resized:
    """The image with its shorter side at ``size`` and the other in proportion, rounded down."""
    h, w, _ = image.shape
    return resize(image, (size, int(size * w / h)) if h <= w else (int(size * h / w), size), mode)


def center_crop(image: Image, size: int) -> Resized:
    """The square of ``size`` pixels a side in the middle; ValueError for an image that holds none."""
    h, w, _ = image.shape
    require(min(h, w) >= size, f"center_crop: expected at least {size} pixels a side, got shape {image.shape}")
    top, left = round((h - size) / 2), round((w - size) / 2)
    return image[top : top + size, left : left + size]


def imagenet(image: Image, size: int = 224, shorter: int = 256, mode: str = "bilinear") -> Float[np.ndarray, "s t c"]:
    """What networks trained on ImageNet are tested with: shorter side ``shorter``, the middle ``size``, normalised."""
    return normalize(center_crop(resize_shorter(image, shorter, mode), size))
