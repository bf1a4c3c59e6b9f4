"""Res2Net: A New Multi-scale Backbone Architecture - Gao et al. 2019, https://arxiv.org/abs/1904.01169

Follows: gasvn/Res2Net's v1b as ReaFly/LDNet has it: a stem of three 3x3 convolutions, and shortcuts that average before
they project.
Differs: upstream's ``baseWidth`` and ``stype="stage"`` are called ``base_width`` and ``first=True``. Upstream's form
for ``scale=1``, a plain bottleneck, is refused.
Assumed: the ReLU behind each inner BatchNorm.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array

from flax_attn.blocks.resnet import add_shortcut, stage
from flax_attn.constructor import constructor
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
from flax_attn.models.preprocess import imagenet
from flax_attn.models.resnet import deep_stem, stage_maps
from flax_attn.shapes import Features, Image, Scores


def pooled_downsample(inplanes: int, planes: int, stride: int = 1) -> Sequential:
    """The projection shortcut that strides by average pooling, without padding in the mean."""
    pool = AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False)
    return Sequential([pool, Conv2d(inplanes, planes, 1, bias=False), BatchNorm2d(planes)])


class Bottle2neck(Module):
    """A bottleneck on a residual branch: between its 1x1 convolutions the channels are split into ``scale`` groups.

    Each group but the last passes a 3x3 convolution, and each result is added to the next group. In the ``first`` block
    of a stage nothing is added, the last group passes an average pooling, and the block may stride.

    Args:
        downsample: the module of the shortcut; x itself when None.
        base_width: a group has ``floor(planes * base_width / 64)`` channels.
    """

    inplanes: int
    planes: int
    stride: int = 1
    downsample: Module | None = None
    base_width: int = 26
    scale: int = 4
    first: bool = False

    expansion: ClassVar[int] = 4
    registered_last: ClassVar[Sequence[str]] = ("downsample",)

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
        self.convs = ModuleList([Conv2d(width, width, 3, stride=self.stride, padding=1, bias=False) for _ in convolved])
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
        done.append(avg_pool(last, 3, self.stride, padding=1) if self.first else last)
        y = self.bn3(self.conv3(jnp.concatenate(done, -1)), train)
        return relu(add_shortcut(self, y, x, train))


def res2net_stage(
    inplanes: int, planes: int, layers: int, stride: int = 1, base_width: int = 26, scale: int = 4
) -> Sequential:
    """A stage of ``layers`` Bottle2necks, from ``inplanes`` to 4 * ``planes`` channels."""
    block = partial(Bottle2neck, planes=planes, base_width=base_width, scale=scale)
    blocks = [partial(block, first=i == 0) for i in range(layers)]
    return stage(blocks, inplanes, planes * Bottle2neck.expansion, stride=stride, shortcut=pooled_downsample)


class Res2Net(Module):
    """Class scores (n, num_classes) of images x (n, h, w, 3); ``features`` gives the feature maps of all stages.

    Args:
        layers: the number of blocks in each stage; the stages have 64, 128, ... planes.
        base_width, scale: those of the blocks.
        num_classes: 0 for no classifier; the result is then the spatial mean of the last feature map.
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
        width = 64
        for i, blocks in enumerate(self.layers):
            planes, stride = 64 * 2**i, 1 if i == 0 else 2
            made = res2net_stage(width, planes, blocks, stride=stride, base_width=self.base_width, scale=self.scale)
            setattr(self, f"layer{i + 1}", made)
            width = planes * Bottle2neck.expansion
        if self.num_classes:
            self.fc = Linear(width, self.num_classes)

    def stages(self) -> list[Callable[..., Features]]:
        return [getattr(self, f"layer{i + 1}") for i in range(len(self.layers))]

    def features(self, x: Image, train: bool = False) -> list[Features]:
        """The feature map of each stage, at 1/4, 1/8, 1/16 and 1/32 of the size of x."""
        x = relu(self.bn1(self.conv1(self.cast(x), train), train))
        return stage_maps(self.stages(), max_pool(x, 3, 2, padding=1), train)

    def __call__(self, x: Image, train: bool = False) -> Scores:
        x = self.features(x, train)[-1].mean((1, 2))
        return self.fc(x) if self.num_classes else x


preprocess = imagenet


@constructor(Res2Net, preprocess, layers=(3, 4, 6, 3))
def res2net50_v1b_26w_4s() -> None:
    """50 layers, four groups of 26 channels: the encoder of LDNet.

    Input: images (n, 224, 224, 3), pixels from 0 to 1, then normalised as for ImageNet.
    """
