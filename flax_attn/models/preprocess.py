"""The steps that the published input pipelines share.

Follows: torchvision's transforms. Images of uint8 are resized to the pixels of PIL: in fixed point, rows first, then
columns, each rounded to whole numbers.

The pipeline of a network is called ``preprocess`` and stands in the file of that network.
``flax_attn.catalog.preprocess_of`` finds a pipeline by the name of a published network.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Array, Float

from flax_attn.layers import antialias_weights, require
from flax_attn.shapes import Photo, Pixels, Resized

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2023, 0.1994, 0.2010)

Normalized = Float[Array | np.ndarray, "*n h w c"]


def rescale(images: Pixels) -> Normalized:
    """Pixels from 0 to 255 as numbers from 0 to 1, float32 at least."""
    return images / np.float32(255)


def normalize(images: Pixels, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD) -> Normalized:
    """(x - mean) / std of each channel, in float32 at least. Images of uint8 are rescaled first; others must be."""
    x = rescale(images) if images.dtype == np.uint8 else images
    return (x - np.asarray(mean, x.dtype)) / np.asarray(std, x.dtype)


def resize(image: Photo, size: tuple[int, int], mode: str = "bilinear") -> Resized:
    """The image at ``size`` (height, width), antialiased, "bilinear" or "bicubic". The dtype does not change."""
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


def resize_shorter(image: Photo, size: int, mode: str = "bilinear") -> Resized:
    """The image with its shorter side at ``size`` and the longer side in proportion, rounded down."""
    h, w, _ = image.shape
    return resize(image, (size, int(size * w / h)) if h <= w else (int(size * h / w), size), mode)


def center_crop(image: Photo, size: int) -> Resized:
    """The square of ``size`` pixels a side in the middle of the image; ValueError for a smaller image."""
    h, w, _ = image.shape
    require(min(h, w) >= size, f"center_crop: expected at least {size} pixels a side, got shape {image.shape}")
    top, left = round((h - size) / 2), round((w - size) / 2)
    return image[top : top + size, left : left + size]


def imagenet(image: Photo, size: int = 224, shorter: int = 256, mode: str = "bilinear") -> Float[np.ndarray, "s t c"]:
    """The evaluation pipeline of ImageNet: the shorter side at ``shorter``, the middle ``size``, normalised."""
    return np.asarray(normalize(center_crop(resize_shorter(image, shorter, mode), size)))


def cifar10(images: Pixels) -> Normalized:
    """Images normalised by the mean and the deviation of CIFAR-10."""
    return normalize(images, CIFAR10_MEAN, CIFAR10_STD)


def mnist(digits: Pixels) -> Normalized:
    """Digits (*n, h, w, 1), from 0 to 255, normalised by the mean and the deviation of MNIST."""
    return (rescale(digits) - 0.1307) / 0.3081
