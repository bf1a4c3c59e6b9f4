"""Deep Residual Learning for Image Recognition - He, Zhang, Ren, Sun 2016, https://arxiv.org/abs/1512.03385

Follows: pytorch/vision. The stem of three convolutions and the multi-grid are those of the dilated networks of
zhanghang1989/PyTorch-Encoding.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, ClassVar

from jaxtyping import Array

from flax_attn.blocks.resnet import BasicBlock, Bottleneck, Norm, downsample, stage
from flax_attn.constructor import constructor
from flax_attn.layers import BatchNorm2d, Conv2d, InitRule, Linear, Module, Sequential, init, max_pool, relu, require
from flax_attn.models.preprocess import imagenet
from flax_attn.shapes import Features, Image, Scores

Block = Any  # type[Module], called as BasicBlock is, with an ``expansion``


def deep_stem(width: int, norm: Norm) -> Sequential:
    """Three 3x3 convolutions: the first has stride 2, the last has 2 * ``width`` channels."""
    first = Conv2d(3, width, 3, stride=2, padding=1, bias=False)
    second = Conv2d(width, width, 3, padding=1, bias=False)
    third = Conv2d(width, 2 * width, 3, padding=1, bias=False)
    return Sequential([first, norm(width), relu, second, norm(width), relu, third])


def stage_maps(stages: Iterable[Callable[..., Array]], x: Array, train: bool) -> list[Array]:
    """The feature map behind each of ``stages``, which x passes one after the other."""
    maps = []
    for layers in stages:
        x = layers(x, train)
        maps.append(x)
    return maps


class ResNet(Module):
    """Class scores (n, num_classes) of images x (n, h, w, 3); ``features`` gives the feature maps of all stages.

    Args:
        block: the class of the blocks.
        layers: the number of blocks in each stage; the stages have 64, 128, ... planes.
        num_classes: 0 for no classifier; the result is then the spatial mean of the last feature map.
        groups, width_per_group: ``groups`` and ``base_width`` of the blocks.
        replace_stride_with_dilation: for each stage but the first, whether it dilates instead of striding.
        norm_layer: the class of the normalisations; BatchNorm2d when None.
        stem_width: channels of a stem of three 3x3 convolutions; None for one 7x7 convolution.
        multi_grid: the dilation of each block of the last stage.
    """

    block: Block
    layers: Sequence[int]
    num_classes: int = 1000
    groups: int = 1
    width_per_group: int = 64
    replace_stride_with_dilation: Sequence[bool] = (False, False, False)
    norm_layer: Norm | None = None
    stem_width: int | None = None
    multi_grid: Sequence[int] | None = None

    init_rules: ClassVar[Sequence[InitRule]] = (InitRule(Conv2d, "kernel", init.kaiming_normal("fan_out")),)

    def __post_init__(self) -> None:
        super().__post_init__()
        who, stages = type(self).__name__, len(self.layers)
        few = 1 <= stages <= 1 + len(self.replace_stride_with_dilation)
        require(few and min(self.layers) >= 1, f"{who}: expected one to four stages of blocks, got {self.layers}")
        grid = self.multi_grid or (1,) * self.layers[-1]
        expected = f"{who}: expected a dilation for each of the last stage's {self.layers[-1]} blocks"
        require(len(grid) == self.layers[-1], f"{expected}, got {self.multi_grid}")

    def norm(self, planes: int) -> Module:
        return (self.norm_layer or BatchNorm2d)(planes)

    def setup(self) -> None:
        width = 64 if self.stem_width is None else 2 * self.stem_width
        stem = Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.conv1 = stem if self.stem_width is None else deep_stem(self.stem_width, self.norm)
        self.bn1 = self.norm(width)
        self.setup_stages(width)

    def setup_stages(self, width: int) -> None:
        """Create the layers that follow a stem of ``width`` channels."""
        for i, (stride, dilations) in enumerate(self.geometry()):
            planes = 64 * 2**i
            blocks = [self.make(planes, dilation) for dilation in dilations]
            outplanes = planes * self.block.expansion
            setattr(self, f"layer{i + 1}", stage(blocks, width, outplanes, stride=stride, shortcut=self.shortcut))
            width = outplanes
        if self.num_classes:
            self.fc = Linear(width, self.num_classes)

    def geometry(self) -> list[tuple[int, list[int]]]:
        """For each stage, the stride of its first block and the dilation of each of its blocks."""
        stages, dilation = [(1, [1] * self.layers[0])], 1
        for blocks, dilated in zip(self.layers[1:], self.replace_stride_with_dilation, strict=False):
            first, dilation = dilation, dilation * (2 if dilated else 1)
            stages.append((1 if dilated else 2, [first] + [dilation] * (blocks - 1)))
        if self.multi_grid is not None:
            stages[-1] = (stages[-1][0], list(self.multi_grid))
        return stages

    def make(self, planes: int, dilation: int) -> Callable[..., Module]:
        """A block, as ``stage`` takes it."""
        return partial(
            self.block,
            planes=planes,
            groups=self.groups,
            base_width=self.width_per_group,
            dilation=dilation,
            norm_layer=self.norm_layer,
        )

    def shortcut(self, inplanes: int, planes: int, stride: int) -> Sequential:
        return downsample(inplanes, planes, stride, norm_layer=self.norm)

    def pool(self, x: Image) -> Features:
        return max_pool(x, 3, 2, padding=1)

    def stages(self) -> list[Callable[..., Features]]:
        return [getattr(self, f"layer{i + 1}") for i in range(len(self.layers))]

    def features(self, x: Image, train: bool = False) -> list[Features]:
        """The feature map of each stage, at 1/4, 1/8, 1/16 and 1/32 of the size of x where nothing is dilated."""
        x = relu(self.bn1(self.conv1(self.cast(x), train), train))
        return stage_maps(self.stages(), self.pool(x), train)

    def __call__(self, x: Image, train: bool = False) -> Scores:
        x = self.features(x, train)[-1].mean((1, 2))
        return self.fc(x) if self.num_classes else x


preprocess = imagenet


@constructor(ResNet, preprocess, block=BasicBlock, layers=(2, 2, 2, 2))
def resnet18() -> None:
    """torchvision's and timm's ``resnet18``.

    Input: images (n, 224, 224, 3), pixels from 0 to 1, then normalised as for ImageNet.
    """


@constructor(ResNet, preprocess, block=BasicBlock, layers=(3, 4, 6, 3))
def resnet34() -> None:
    """torchvision's and timm's ``resnet34``.

    Input: images (n, 224, 224, 3), pixels from 0 to 1, then normalised as for ImageNet.
    """


@constructor(ResNet, preprocess, block=Bottleneck, layers=(3, 4, 6, 3))
def resnet50() -> None:
    """torchvision's and timm's ``resnet50``.

    Input: images (n, 224, 224, 3), pixels from 0 to 1, then normalised as for ImageNet.
    """


@constructor(ResNet, preprocess, block=Bottleneck, layers=(3, 4, 23, 3))
def resnet101() -> None:
    """torchvision's and timm's ``resnet101``.

    Input: images (n, 224, 224, 3), pixels from 0 to 1, then normalised as for ImageNet.
    """


@constructor(ResNet, preprocess, block=Bottleneck, layers=(3, 8, 36, 3))
def resnet152() -> None:
    """torchvision's and timm's ``resnet152``.

    Input: images (n, 224, 224, 3), pixels from 0 to 1, then normalised as for ImageNet.
    """
