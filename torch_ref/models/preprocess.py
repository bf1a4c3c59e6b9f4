"""The steps that the published input pipelines share."""

import torch
from torch import Tensor
from torch.nn.functional import interpolate

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2023, 0.1994, 0.2010)


def rescale(images: Tensor) -> Tensor:
    return images / 255


def normalize(images: Tensor, mean=IMAGENET_MEAN, std=IMAGENET_STD) -> Tensor:
    x = rescale(images) if images.dtype == torch.uint8 else images
    return (x - x.new_tensor(mean)[:, None, None]) / x.new_tensor(std)[:, None, None]


def resize(image: Tensor, size, mode="bilinear") -> Tensor:
    return interpolate(image[None], size, mode=mode, antialias=True)[0]


def resize_shorter(image: Tensor, size, mode="bilinear") -> Tensor:
    _, h, w = image.shape
    return resize(image, (size, int(size * w / h)) if h <= w else (int(size * h / w), size), mode)


def center_crop(image: Tensor, size) -> Tensor:
    _, h, w = image.shape
    if min(h, w) < size:
        raise ValueError(f"center_crop: expected at least {size} pixels a side, got shape {tuple(image.shape)}")
    top, left = round((h - size) / 2), round((w - size) / 2)
    return image[:, top : top + size, left : left + size]


def imagenet(image: Tensor, size=224, shorter=256, mode="bilinear") -> Tensor:
    return normalize(center_crop(resize_shorter(image, shorter, mode), size))


def cifar10(images: Tensor) -> Tensor:
    return normalize(images, CIFAR10_MEAN, CIFAR10_STD)


def mnist(digits: Tensor) -> Tensor:
    return (rescale(digits) - 0.1307) / 0.3081
