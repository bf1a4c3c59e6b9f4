"""Lesion-aware Dynamic Kernel for Polyp Segmentation - Zhang et al. 2022, https://arxiv.org/abs/2301.04904

Follows: ReaFly/LDNet; ``LDNetResNet34`` is upstream's ``LDNet_ResNet34``.
Differs: kernels are 1x1, as in both networks of upstream: its ``conv_kernel_size`` is left out. Upstream takes
``num_classes`` other than 1 and fails later; here they are refused, as are images whose height or width 32 does not
divide. The number of blocks is an argument. ``resize_prediction`` is ours.
"""

from collections.abc import Sequence
from functools import partial
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from flax_attn.blocks.esa import ESABlock, LCABlock
from flax_attn.blocks.resnet import BasicBlock, stage
from flax_attn.constructor import constructor
from flax_attn.layers import (
    AdaptiveAvgPool2d,
    BatchNorm2d,
    Conv2d,
    GroupNorm,
    InitRule,
    LayerNorm,
    Linear,
    Module,
    ModuleList,
    Sequential,
    einsum,
    init,
    interpolate,
    max_pool,
    relu,
    require,
    sigmoid,
)
from flax_attn.models.preprocess import rescale
from flax_attn.models.res2net import res2net_stage
from flax_attn.models.resnet import deep_stem, stage_maps
from flax_attn.shapes import Features, Image, ScoreMap, Widened

Heads = Float[Array, "n k c"]


def dynamic_conv(x: Image, head: Heads) -> ScoreMap:
    """The 1x1 convolution of each sample of x with its own k kernels, ``head``."""
    return einsum("nhwc,nkc->nhwk", x, head)


class _ConvBlock(Module):
    in_channels: int
    out_channels: int

    def setup(self) -> None:
        self.conv = Conv2d(self.in_channels, self.out_channels, 3, padding=1)
        self.bn = BatchNorm2d(self.out_channels)

    def __call__(self, x: Image, train: bool = False) -> Widened:
        return relu(self.bn(self.conv(x), train))


class DecoderBlock(Module):
    """Two 3x3 convolutions of x, with ``in_channels // 4`` channels between them, then twice the height and width.

    The upsampling is bilinear, with ``align_corners=True``.
    """

    in_channels: int
    out_channels: int

    def setup(self) -> None:
        self.conv1 = _ConvBlock(self.in_channels, self.in_channels // 4)
        self.conv2 = _ConvBlock(self.in_channels // 4, self.out_channels)

    def __call__(self, x: Image, train: bool = False) -> Features:
        y = self.conv2(self.conv1(x, train), train)
        return interpolate(y, scale_factor=2, mode="bilinear", align_corners=True)


class HeadUpdator(Module):
    """New kernels (n, k, channels) from the kernels ``head`` and from the pixels of x where ``pred`` is high.

    ``pred`` (n, h/2, w/2, k) are the logits that ``head`` made. They are upsampled with ``align_corners=False``, unlike
    the maps of the decoder. Raises ValueError for a ``pred`` that is not half the size of x.
    """

    channels: int = 64

    def setup(self) -> None:
        c = self.channels
        self.pred_transform_layer, self.head_transform_layer = Linear(c, 2 * c), Linear(c, 2 * c)
        self.pred_gate, self.head_gate = Linear(c, c), Linear(c, c)
        self.pred_norm_in, self.head_norm_in = LayerNorm(c), LayerNorm(c)
        self.pred_norm_out, self.head_norm_out = LayerNorm(c), LayerNorm(c)
        self.fc_layer, self.fc_norm = Linear(c, c), LayerNorm(c)

    def __call__(self, x: Image, head: Heads, pred: Float[Array, "n h2 w2 k"], train: bool = False) -> Heads:
        x, head, pred = self.cast(x), self.cast(head), self.cast(pred)
        weight = sigmoid(interpolate(pred, scale_factor=2, mode="bilinear"))
        fits, got = weight.shape[:3] == x.shape[:3], f"{pred.shape} for {x.shape}"
        require(fits, f"HeadUpdator: expected a pred of half the size of x, got shape {got}")
        seen = self.pred_transform_layer(einsum("nhwk,nhwc->nkc", weight, x))
        pred_in, pred_out = jnp.split(seen, 2, -1)
        head_in, head_out = jnp.split(self.head_transform_layer(head), 2, -1)
        both = head_in * pred_in
        head_gate = sigmoid(self.head_norm_in(self.head_gate(both)))
        pred_gate = sigmoid(self.pred_norm_in(self.pred_gate(both)))
        new = pred_gate * self.pred_norm_out(pred_out) + head_gate * self.head_norm_out(head_out)
        return relu(self.fc_norm(self.fc_layer(new)))


class LDNet(Module):
    """Five probability maps of a lesion in images x (n, h, w, 3), at the size of x and at 1/2, 1/4, 1/8 and 1/16.

    The encoder is a Res2Net. Raises ValueError for an x whose height or width 32 does not divide.

    Args:
        num_classes: refused other than 1.
        unified_channels: channels of the dynamic kernels, and of the feature maps that they are applied to.
        layers: the number of blocks in each of the four stages of the encoder.
    """

    num_classes: int = 1
    unified_channels: int = 64
    layers: Sequence[int] = (3, 4, 6, 3)

    init_rules = (InitRule(Conv2d, "kernel", init.kaiming_normal("fan_out"), under="encoder"),)
    reduced: ClassVar[bool] = True
    aliases: ClassVar[Sequence[tuple[str, str]]] = tuple(
        (f"{part}List.{i}", f"{part}{4 - i}") for part in ("decoder", "unify", "esa", "lca") for i in range(4)
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        who = type(self).__name__
        require(self.num_classes == 1, f"{who}: expected num_classes=1, got {self.num_classes}")
        some = len(self.layers) == 4 and min(self.layers) >= 1
        require(some, f"{who}: expected four stages of at least one block, got {self.layers}")

    def setup(self) -> None:
        c, widths = self.unified_channels, (64, 64, 128, 256, 512)
        self.make_encoder(widths[1:])
        self.decoder5 = DecoderBlock(512, 512)
        for i, inside, outside in ((4, 768, 256), (3, 384, 128), (2, 192, 64), (1, 128, 64)):
            setattr(self, f"decoder{i}", DecoderBlock(inside, outside))
        self.gobal_average_pool = Sequential([GroupNorm(16, 512), relu, AdaptiveAvgPool2d(1)])
        self.generate_head = Linear(512, self.num_classes * c)
        self.headUpdators = ModuleList([HeadUpdator(c) for _ in range(4)])
        for i, width in enumerate(widths, 1):
            setattr(self, f"unify{i}", Conv2d(width, c, 1))
        for i, width in enumerate(widths[:4], 1):
            setattr(self, f"esa{i}", ESABlock(width))
        for i, width in enumerate(widths[1:], 1):
            setattr(self, f"lca{i}", LCABlock(width))

    def make_encoder(self, widths: Sequence[int]) -> None:
        self.encoder1_conv = self.stem()
        self.encoder1_bn = BatchNorm2d(64)
        for i, blocks in enumerate(self.layers):
            setattr(self, f"encoder{i + 2}", self.stage(i, blocks))
        for i, width in enumerate(widths if self.reduced else (), 2):
            setattr(self, f"reduce{i}", Conv2d(4 * width, width, 1))

    def stem(self) -> Module:
        return deep_stem(32, BatchNorm2d)

    def stage(self, i: int, layers: int) -> Sequential:
        """Stage ``i`` of the encoder, from 0, with ``layers`` blocks."""
        return res2net_stage(128 * 2**i if i else 64, 64 * 2**i, layers, stride=2 if i else 1)

    def encode(self, x: Image, train: bool = False) -> list[Float[Array, "n _ _ _"]]:
        """The feature maps of the stem and of the stages, at 1/2, 1/4, ... of the size of x.

        They have 64, 64, 128, 256 and 512 channels.
        """
        x = relu(self.encoder1_bn(self.encoder1_conv(self.cast(x), train), train))
        stages = [getattr(self, f"encoder{i}") for i in range(2, 6)]
        maps = stage_maps(stages, max_pool(x, 3, 2, padding=1), train)
        if self.reduced:
            maps = [getattr(self, f"reduce{i}")(y) for i, y in enumerate(maps, 2)]
        return [x, *maps]

    def __call__(self, x: Image, train: bool = False) -> list[Float[Array, "n _ _ 1"]]:
        n, h, w, _ = x.shape
        expected = f"{type(self).__name__}: expected a height and width divisible by 32"
        require(h % 32 == w % 32 == 0, f"{expected}, got shape {x.shape}")
        *skips, deep = self.encode(x, train)
        y = self.decoder5(deep, train)
        pooled = self.gobal_average_pool(deep, train).reshape(n, 512)
        head = self.generate_head(pooled).reshape(n, self.num_classes, self.unified_channels)
        maps = [dynamic_conv(self.unify5(y), head)]
        for i, update in zip((4, 3, 2, 1), self.headUpdators, strict=True):
            lesion = getattr(self, f"lca{i}")(y, maps[-1], train)
            context = getattr(self, f"esa{i}")(skips[i - 1], train)
            y = getattr(self, f"decoder{i}")(jnp.concatenate([lesion, context], -1), train)
            feature = getattr(self, f"unify{i}")(y)
            head = update(feature, head, maps[-1], train)
            maps.append(dynamic_conv(feature, head))
        return [sigmoid(m) for m in reversed(maps)]


class LDNetResNet34(LDNet):
    """An ``LDNet`` whose encoder is torchvision's ResNet of BasicBlocks."""

    reduced = False

    def stem(self) -> Module:
        return Conv2d(3, 64, 7, stride=2, padding=3, bias=False)

    def stage(self, i: int, layers: int) -> Sequential:
        blocks = [partial(BasicBlock, planes=64 * 2**i)] * layers
        return stage(blocks, 32 * 2**i if i else 64, 64 * 2**i, stride=2 if i else 1)


preprocess = rescale
"""Upstream does not normalise its images, and resizes them to 224x224, whatever their shape."""


def resize_prediction(prediction: Image, size: Sequence[int]) -> Float[Array, "n h2 w2 c"]:
    """A map of LDNet (the first is the finest) at the height and width ``size`` of the original image.

    The resizing is bilinear, with ``align_corners=False``, as images are usually resized.
    """
    return interpolate(prediction, tuple(size), mode="bilinear", align_corners=False)


@constructor(LDNet, preprocess)
def ldnet() -> None:
    """LDNet with Res2Net-50 v1b, 26w 4s.

    Input: images (n, 224, 224, 3), pixels from 0 to 1, not normalised further.
    """


@constructor(LDNetResNet34, preprocess)
def ldnet_resnet34() -> None:
    """LDNet with ResNet-34.

    Input: images (n, 224, 224, 3), pixels from 0 to 1, not normalised further.
    """
