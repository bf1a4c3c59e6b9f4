"""The published input pipelines' common steps, on images (3, h, w) before they are batched."""

import torch
from torch import Tensor
from torch.nn.functional import interpolate

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalize(images: Tensor, mean=IMAGENET_MEAN, std=IMAGENET_STD) -> Tensor:
    x = images / 255 if images.dtype == torch.uint8 else images
    return (x - x.new_tensor(mean)[:, None, None]) / x.new_tensor(std)[:, None, None]


def resize(image: Tensor, size, mode="bilinear") -> Tensor:
    return interpolate(image[None], size, mode=mode, antialias=True)[0]


def resize_shorter(image: Tensor, size, mode="bilinear") -> Tensor:
    _, h, w = image.shape
    return resize(image, (size, int(size * w / h)) if h <= w else (int(size * h / w), size), mode)


def center_crop(image: Tensor, size) -> Tensor:
    _, h, w = image.shape
    top, left = round((h - size) / 2), round((w - size) / 2)
    return image[:, top : top + size, left : left + size]


def imagenet(image: Tensor, size=224, shorter=256, mode="bilinear") -> Tensor:
    return normalize(center_crop(resize_shorter(image, shorter, mode), size))
