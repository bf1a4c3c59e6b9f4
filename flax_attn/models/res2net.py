"""Res2Net: A New Multi-scale Backbone Architecture - Gao et al. 2019, https://arxiv.org/abs/1904.01169

Status: gasvn/Res2Net's v1b as ReaFly/LDNet has it: a stem of three 3x3 convolutions and shortcuts that pool before they
project. What upstream calls ``baseWidth`` and ``stype="stage"`` is ``base_width`` and ``first=True`` here. Upstream has
a second form for ``scale=1``, which is a plain bottleneck; it is refused here.
"""

from collections.abc import Sequence
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array

from flax_attn.blocks.resnet import add_shortcut
from flax_attn.layers import (
    AvgPool2d,
    BatchNorm2d,
    Conv2d,
    InitRule,
    Linear,
    Module,
    ModuleList,
    Sequential,
    avg_pool,
    init,
    max_pool,
    relu,
    require,
)
from flax_attn.models.resnet import deep_stem
from flax_attn.shapes import Features, Image, Scores


def pooled_downsample(inplanes: int, planes: int, stride: int = 1) -> Sequential:
    """The projection shortcut that strides by a mean; at the edges over what there is of the image."""
    pool = AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False)
    return Sequential([pool, Conv2d(inplanes, planes, 1, bias=False), BatchNorm2d(planes)])


class Bottle2neck(Module):
    """A bottleneck of ``scale`` groups of channels on a residual branch: each but the last has a 3x3 convolution.

    A group is added to the result of the one before it; not so in the ``first`` block of a stage, whose last group is
    pooled, and which alone may stride. Groups are ``floor(planes * base_width / 64)`` wide; ``downsample`` is the
    shortcut's module.
    """

    inplanes: int
    planes: int
    stride: int = 1
    downsample: Module | None = None
    base_width: int = 26
    scale: int = 4
    first: bool = False

    expansion: ClassVar[int] = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.scale >= 2, f"Bottle2neck: expected scale >= 2, got {self.scale}")
        fits = self.stride == 1 or self.first
        require(fits, f"Bottle2neck: expected stride 1 in a block that is not first, got {self.stride}")

    def setup(self) -> None:
        width, convolved = int(self.planes * (self.base_width / 64)), range(self.scale - 1)
        planes, inner = self.planes * self.expansion, width * self.scale
        self.conv1 = Conv2d(self.inplanes, inner, 1, bias=False)
        self.bn1 = BatchNorm2d(inner)
        self.convs = ModuleList([Conv2d(width, width, 3, self.stride, 1, bias=False) for _ in convolved])
        self.bns = ModuleList([BatchNorm2d(width) for _ in convolved])
        self.conv3 = Conv2d(inner, planes, 1, bias=False)
        self.bn3 = BatchNorm2d(planes)

    def __call__(self, x: Image, train: bool = False) -> Features:
        y = relu(self.bn1(self.conv1(x), train))
        *groups, last = jnp.split(y, self.scale, -1)
        done: list[Array] = []
        for group, conv, bn in zip(groups, self.convs, self.bns, strict=True):
            group = group + done[-1] if done and not self.first else group
            done.append(relu(bn(conv(group), train)))
        done.append(avg_pool(last, 3, self.stride, 1) if self.first else last)
        y = self.bn3(self.conv3(jnp.concatenate(done, -1)), train)
        return relu(add_shortcut(self, y, x, train))


def stage(inplanes: int, planes: int, blocks: int, stride: int, base_width: int = 26, scale: int = 4) -> Sequential:
    """A row of Bottle2necks from ``inplanes`` channels to ``4 * planes``; the first one strides."""
    outside, sizes = planes * Bottle2neck.expansion, (base_width, scale)
    shortcut = pooled_downsample(inplanes, outside, stride)
    first = Bottle2neck(inplanes, planes, stride, shortcut, *sizes, first=True)
    return Sequential([first, *[Bottle2neck(outside, planes, 1, None, *sizes) for _ in range(blocks - 1)]])


class Res2Net(Module):
    """Class scores (n, num_classes) of images x (n, h, w, 3); ``features`` gives the maps of all stages.

    Args:
        layers: how many blocks there are in each stage, of 64, 128, ... planes.
        base_width, scale: of the blocks.
        num_classes: 0 for no classifier, and the spatial mean of the last map as the result.
    """

    layers: Sequence[int]
    base_width: int = 26
    scale: int = 4
    num_classes: int = 1000

    init_rules: ClassVar[Sequence[InitRule]] = (InitRule(Conv2d, "kernel", init.kaiming_normal("fan_out")),)

    def __post_init__(self) -> None:
        super().__post_init__()
        some = len(self.layers) >= 1 and min(self.layers) >= 1
        require(some, f"Res2Net: expected at least one block in each stage, got {self.layers}")

    def setup(self) -> None:
        self.conv1 = deep_stem(32, BatchNorm2d)
        self.bn1 = BatchNorm2d(64)
        inplanes, planes = 64, 64
        for i, blocks in enumerate(self.layers):
            made = stage(inplanes, planes, blocks, 1 if i == 0 else 2, self.base_width, self.scale)
            setattr(self, f"layer{i + 1}", made)
            inplanes, planes = planes * Bottle2neck.expansion, 2 * planes
        if self.num_classes:
            self.fc = Linear(inplanes, self.num_classes)

    def features(self, x: Image, train: bool = False) -> list[Features]:
        """The map of each stage, at 1/4, 1/8, 1/16 and 1/32 of the size of x."""
        x = relu(self.bn1(self.conv1(self.cast(x), train), train))
        x = max_pool(x, 3, 2, 1)
        maps = []
        for i in range(len(self.layers)):
            x = getattr(self, f"layer{i + 1}")(x, train)
            maps.append(x)
        return maps

    def __call__(self, x: Image, train: bool = False) -> Scores:
        x = self.features(x, train)[-1].mean((1, 2))
        return self.fc(x) if self.num_classes else x


def res2net50_v1b_26w_4s(num_classes: int = 1000) -> Res2Net:
    """50 layers, four groups 26 wide: LDNet's encoder."""
    return Res2Net((3, 4, 6, 3), num_classes=num_classes)
