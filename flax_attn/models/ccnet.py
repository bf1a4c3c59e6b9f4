"""Criss-Cross Attention for Semantic Segmentation - Huang, Wang, Wei et al. 2020, https://arxiv.org/abs/1811.11721

Status: speedinghzl/CCNet. Upstream's ``Seg_Model`` has ``recurrence=0`` as its default, which leaves the attention out;
here it is the paper's 2. Dropout before the auxiliary scores, initialisation and where a bottleneck strides are not in
our description of upstream: 0.1, as in the head, PyTorch's own, and in the 3x3 convolution. Other numbers of stages and
blocks are ours.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
from jaxtyping import Array, Float, Float32, UInt8

from flax_attn.blocks.criss_cross import RCCAModule
from flax_attn.blocks.inplace_abn import ABN, InPlaceABN
from flax_attn.blocks.resnet import Bottleneck, Norm, downsample
from flax_attn.layers import Conv2d, Dropout2d, Module, Sequential, interpolate, max_pool, relu, require
from flax_attn.shapes import Image, ScoreMap

Scores = Float[Array, "n h2 w2 k"]
Auxiliary = Float[Array, "n h3 w3 k"]

BGR_MEAN = (104.00698793, 116.66876762, 122.67891434)
"""Of blue, green and red: what ``preprocess`` takes away."""

GEOMETRY = ((1, 1), (2, 1), (1, 2), (1, 4))
"""(stride of the first block, dilation of every block) of each stage."""


class CCNet(Module):
    """Class scores of x (n, h, w, 3) at 1/8 of its size, and the auxiliary ones of the last stage but one.

    x is what ``preprocess`` gives; ``upsample`` brings the scores to the size of the labels.

    Args:
        layers: how many blocks there are in each stage.
        recurrence: how often the criss-cross attention is applied; 0 leaves it out.
        inplace_abn: scale by |weight| + eps in every normalisation: see ``RCCAModule``.
    """

    num_classes: int
    layers: Sequence[int] = (3, 4, 23, 3)
    recurrence: int = 2
    inplace_abn: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        stages, got = 2 <= len(self.layers) <= 4 and min(self.layers) >= 1, self.layers
        require(stages, f"CCNet: expected two to four stages of blocks, got {got}")
        require(self.recurrence >= 0, f"CCNet: expected recurrence >= 0, got {self.recurrence}")

    def setup(self) -> None:
        abn = InPlaceABN if self.inplace_abn else ABN
        norm = partial(abn, activation="identity")
        self.conv1, self.bn1 = Conv2d(3, 64, 3, 2, 1, bias=False), norm(64)
        self.conv2, self.bn2 = Conv2d(64, 64, 3, padding=1, bias=False), norm(64)
        self.conv3, self.bn3 = Conv2d(64, 128, 3, padding=1, bias=False), norm(128)
        width = 128
        for i, (blocks, (stride, dilation)) in enumerate(zip(self.layers, GEOMETRY, strict=False)):
            setattr(self, f"layer{i + 1}", stage(width, 64 * 2**i, blocks, stride, dilation, norm))
            width = 64 * 2**i * Bottleneck.expansion
        self.head = RCCAModule(width, width // 4, self.num_classes, self.inplace_abn)
        first, last = Conv2d(width // 2, width // 4, 3, padding=1), Conv2d(width // 4, self.num_classes, 1)
        self.dsn = Sequential([first, abn(width // 4), Dropout2d(0.1), last])

    def __call__(self, x: Image, train: bool = False) -> tuple[Scores, Auxiliary]:
        x = relu(self.bn1(self.conv1(self.cast(x)), train))
        x = relu(self.bn2(self.conv2(x), train))
        x = relu(self.bn3(self.conv3(x), train))
        x = max_pool(x, 3, 2, 1, ceil_mode=True)
        maps = [x]
        for i in range(len(self.layers)):
            maps.append(getattr(self, f"layer{i + 1}")(maps[-1], train))
        return self.head(maps[-1], self.recurrence, train), self.dsn(maps[-2], train)


def stage(inplanes: int, planes: int, blocks: int, stride: int, dilation: int, norm: Norm) -> Sequential:
    """Bottlenecks, of which the first strides and projects; all dilate."""
    outside = planes * Bottleneck.expansion
    first = Bottleneck(inplanes, planes, stride, downsample(inplanes, outside, stride, norm), 1, 64, dilation, norm)
    rest = [Bottleneck(outside, planes, 1, None, 1, 64, dilation, norm) for _ in range(blocks - 1)]
    return Sequential([first, *rest])


def preprocess(images: UInt8[np.ndarray, "*n h w 3"]) -> Float32[np.ndarray, "*n h w 3"]:
    """What the published weights read: blue, green, red of RGB images, less ``BGR_MEAN``."""
    return images[..., ::-1].astype(np.float32) - np.asarray(BGR_MEAN, np.float32)


def upsample(scores: Scores, size: Sequence[int]) -> ScoreMap:
    """The scores at ``size`` (height, width), corners on corners."""
    return interpolate(scores, size, mode="bilinear", align_corners=True)


def ccnet_resnet101(num_classes: int = 19, recurrence: int = 2, inplace_abn: bool = True) -> CCNet:
    """CCNet on ResNet-101, as in the published snapshots."""
    return CCNet(num_classes, (3, 4, 23, 3), recurrence, inplace_abn)
