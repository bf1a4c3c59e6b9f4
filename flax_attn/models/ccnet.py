"""Criss-Cross Attention for Semantic Segmentation - Huang, Wang, Wei et al. 2020, https://arxiv.org/abs/1811.11721

Follows: speedinghzl/CCNet.
Differs: upstream's ``Seg_Model`` has ``recurrence=0`` as its default, which leaves the attention out; here it is the
paper's 2. Numbers of stages and blocks are arguments.
Assumed: dropout of 0.1 in front of the auxiliary scores, as in the head; PyTorch's own initialisation; bottlenecks that
stride in their 3x3 convolution.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from jaxtyping import Array, Float, Float32, UInt8

from flax_attn.blocks.criss_cross import RCCAModule
from flax_attn.blocks.inplace_abn import ABN, InPlaceABN
from flax_attn.blocks.resnet import Bottleneck, downsample, stage
from flax_attn.constructor import constructor
from flax_attn.layers import Conv2d, Dropout2d, Module, Sequential, interpolate, max_pool, relu, require
from flax_attn.models.resnet import stage_maps
from flax_attn.shapes import Features, Image, ScoreMap

SmallScores = Float[Array, "n h2 w2 k"]
SmallAuxiliary = Float[Array, "n h3 w3 k"]

BGR_MEAN = (104.00698793, 116.66876762, 122.67891434)
"""The mean of blue, green and red, which ``preprocess`` subtracts."""

GEOMETRY = ((1, 1), (2, 1), (1, 2), (1, 4))
"""For each stage, the stride of its first block and the dilation of all its blocks."""


class CCNet(Module):
    """Class scores of images x (n, h, w, 3) at 1/8 of their size, and auxiliary scores from the last stage but one.

    ``preprocess`` makes x from RGB images; ``upsample`` brings the scores to the size of the labels.

    Args:
        layers: the number of blocks in each stage.
        recurrence: how often the criss-cross attention is applied; 0 leaves it out.
        inplace_abn: whether every normalisation scales by |weight| + eps: see ``RCCAModule``.
        dropout: the probability with which a channel in front of each classifier is dropped.
    """

    num_classes: int
    layers: Sequence[int] = (3, 4, 23, 3)
    recurrence: int = 2
    inplace_abn: bool = True
    dropout: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        stages, got = 2 <= len(self.layers) <= 4 and min(self.layers) >= 1, self.layers
        require(stages, f"CCNet: expected two to four stages of blocks, got {got}")
        require(self.recurrence >= 0, f"CCNet: expected recurrence >= 0, got {self.recurrence}")

    def setup(self) -> None:
        abn = InPlaceABN if self.inplace_abn else ABN
        norm = partial(abn, activation="identity")
        self.conv1, self.bn1 = Conv2d(3, 64, 3, stride=2, padding=1, bias=False), norm(64)
        self.conv2, self.bn2 = Conv2d(64, 64, 3, padding=1, bias=False), norm(64)
        self.conv3, self.bn3 = Conv2d(64, 128, 3, padding=1, bias=False), norm(128)
        width, shortcut = 128, partial(downsample, norm_layer=norm)
        for i, (count, (stride, dilation)) in enumerate(zip(self.layers, GEOMETRY, strict=False)):
            blocks = [partial(Bottleneck, planes=64 * 2**i, dilation=dilation, norm_layer=norm)] * count
            outplanes = 64 * 2**i * Bottleneck.expansion
            setattr(self, f"layer{i + 1}", stage(blocks, width, outplanes, stride=stride, shortcut=shortcut))
            width = outplanes
        classes, dropout = self.num_classes, self.dropout
        self.head: Module = RCCAModule(width, width // 4, classes, inplace_abn=self.inplace_abn, dropout=dropout)
        first, last = Conv2d(width // 2, width // 4, 3, padding=1), Conv2d(width // 4, self.num_classes, 1)
        self.dsn = Sequential([first, abn(width // 4), Dropout2d(self.dropout), last])

    def stages(self) -> list[Callable[..., Features]]:
        return [getattr(self, f"layer{i + 1}") for i in range(len(self.layers))]

    def __call__(self, x: Image, train: bool = False) -> tuple[SmallScores, SmallAuxiliary]:
        x = relu(self.bn1(self.conv1(self.cast(x)), train))
        x = relu(self.bn2(self.conv2(x), train))
        x = relu(self.bn3(self.conv3(x), train))
        x = max_pool(x, 3, 2, padding=1, ceil_mode=True)
        *_, auxiliary, last = stage_maps(self.stages(), x, train)
        return self.head(last, self.recurrence, train=train), self.dsn(auxiliary, train)


def preprocess(images: UInt8[np.ndarray, "*n h w 3"]) -> Float32[np.ndarray, "*n h w 3"]:
    """The network's input from RGB images: blue, green and red, minus ``BGR_MEAN``."""
    return images[..., ::-1].astype(np.float32) - np.asarray(BGR_MEAN, np.float32)


def upsample(scores: SmallScores, size: Sequence[int]) -> ScoreMap:
    """The scores at ``size`` (height, width): bilinear, with ``align_corners=True``."""
    return interpolate(scores, size, mode="bilinear", align_corners=True)


@constructor(CCNet, preprocess, num_classes=19)
def ccnet_resnet101() -> None:
    """CCNet on ResNet-101, as in the published snapshots.

    Input: images (n, h, w, 3) of blue, green and red from 0 to 255, normalised by subtracting ``BGR_MEAN`` only.
    """
