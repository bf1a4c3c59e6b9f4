"""Residual Attention Network for Image Classification - Wang, Jiang, Qian et al. 2017, https://arxiv.org/abs/1704.06904

Follows: tengshaofeng/ResidualAttentionNetwork-pytorch, which writes each network as a class of its own. Its attention
modules deviate from the paper: see ``blocks.residual_attention``. Its one trained file, ``model_92_sgd.pkl``, is
``residual_attention_92_32input_update`` on CIFAR-10. It trains every network on CIFAR-10, whose pixels it divides by
255 and does not normalise further. For the networks of larger images it resizes those images first.

Differs: the size of the images and the number of classes are arguments here. Upstream ends in an average pooling of 7x7
pixels, 4x4 or 8x8 for small images. Here the mean over all pixels is the same number at the published sizes.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

from flax_attn.blocks.residual_attention import (
    AttentionModule_stage0,
    AttentionModule_stage1,
    AttentionModule_stage1_cifar,
    AttentionModule_stage2,
    AttentionModule_stage2_cifar,
    AttentionModule_stage3,
    AttentionModule_stage3_cifar,
    ResidualBlock,
    Size,
)
from flax_attn.constructor import constructor
from flax_attn.layers import BatchNorm2d, Conv2d, Linear, Module, Sequential, max_pool, relu, require
from flax_attn.models.preprocess import rescale
from flax_attn.shapes import Image, Scores


def windows(size: Size, kernel_size: int, stride: int, padding: int) -> Size:
    """The number of windows, down and across, of a convolution or a pooling on an image of ``size``."""
    h, w = ((n + 2 * padding - kernel_size) // stride + 1 for n in size)
    return h, w


class ResidualAttentionModel(Module):
    """Class scores (n, num_classes) of images x (n, h, w, 3) of one size.

    Args:
        attention: the number of attention modules of each stage. Fewer numbers leave out the first stages.
        size: (height, width) of the images.
        width: channels of the first convolution. The last block has 32 times as many.
    """

    attention: Sequence[int]
    num_classes: int = 10
    size: Size = (224, 224)
    width: int = 64

    stages: ClassVar[Sequence[Any]] = (
        AttentionModule_stage0,
        AttentionModule_stage1,
        AttentionModule_stage2,
        AttentionModule_stage3,
    )
    stem: ClassVar[tuple[int, int, int]] = (7, 2, 3)
    pool: ClassVar[tuple[int, int, int]] = (3, 2, 1)
    """(kernel size, stride, padding) of the first convolution and of the pooling that follows it."""
    last_stride: ClassVar[int] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        who, most = type(self).__name__, len(self.stages)
        some = 1 <= len(self.attention) <= most and min(self.attention) >= 1
        require(some, f"{who}: expected a number of modules for each of one to {most} stages, got {self.attention}")
        least = 2 if len(self.attention) == 4 else 1
        require(self.width >= least, f"{who}: expected width >= {least}, got {self.width}")
        require(min(self.sizes()[0]) >= 1, f"{who}: no pixel is left of images of {self.size}")

    def sizes(self) -> list[Size]:
        """(height, width) of the feature maps: the size of the first stage, then again and again its half, rounded up.

        The last sizes occur only inside the attention modules.
        """
        sizes = [windows(windows(self.size, *self.stem), *self.pool)]
        for _ in range(len(self.attention) + 4):
            sizes.append(windows(sizes[-1], 3, 2, 1))
        return sizes

    def body(self) -> list[tuple[str, Module]]:
        """The residual blocks and attention modules with their names, in the order of the forward pass."""
        pairs: list[tuple[str, Module]] = []
        channels, stride, sizes = self.width, 1, self.sizes()
        for i, n in enumerate(self.attention):
            number = 4 - len(self.attention) + i
            inplanes, channels = channels, 2 ** (number + 1) * self.width
            pairs.append((f"residual_block{number}", ResidualBlock(inplanes, channels, stride)))
            stage, stride = self.stages[number - 4], 2
            for suffix in ["", *(f"_{j}" for j in range(2, n + 1))]:
                module = stage(channels, channels, *sizes[i : i + len(stage.blocks) // 2])
                pairs.append((f"attention_module{number}{suffix}", module))
        pairs.append(("residual_block4", ResidualBlock(channels, 2 * channels, self.last_stride)))
        return pairs + [(f"residual_block{i}", ResidualBlock(2 * channels, 2 * channels)) for i in (5, 6)]

    def setup(self) -> None:
        kernel_size, stride, padding = self.stem
        width = self.width
        first = Conv2d(3, width, kernel_size, stride=stride, padding=padding, bias=False)
        self.conv1 = Sequential([first, BatchNorm2d(width), relu])
        pairs = self.body()
        for name, module in pairs:
            setattr(self, name, module)
        self.names = [name for name, _ in pairs]
        self.mpool2 = Sequential([BatchNorm2d(32 * width), relu])
        self.fc = Linear(32 * width, self.num_classes)

    def __call__(self, x: Image, train: bool = False) -> Scores:
        expected = f"{type(self).__name__}: expected images of {tuple(self.size)}"
        require(x.shape[1:3] == tuple(self.size), f"{expected}, got shape {x.shape}")
        x = max_pool(self.conv1(self.cast(x), train), *self.pool)
        for name in self.names:
            x = getattr(self, name)(x, train=train)
        return self.fc(self.mpool2(x, train).mean((1, 2)))


class CifarResidualAttentionModel(ResidualAttentionModel):
    """A ``ResidualAttentionModel`` for small images: its first convolution has stride 1, and no pooling follows it."""

    size: Size = (32, 32)
    width: int = 32

    stages = (AttentionModule_stage1_cifar, AttentionModule_stage2_cifar, AttentionModule_stage3_cifar)
    stem = (3, 1, 1)
    pool = (1, 1, 0)
    last_stride = 1


class OldCifarResidualAttentionModel(CifarResidualAttentionModel):
    """A ``CifarResidualAttentionModel`` that begins with a 5x5 convolution and a pooling of 2x2 pixels."""

    stem = (5, 1, 2)
    pool = (2, 2, 0)


preprocess = rescale


@constructor(ResidualAttentionModel, preprocess, attention=(1, 1, 1))
def residual_attention_56() -> None:
    """Attention-56.

    Input: images (n, 224, 224, 3), pixels from 0 to 1, not normalised further.
    """


@constructor(ResidualAttentionModel, preprocess, attention=(1, 2, 3))
def residual_attention_92() -> None:
    """Attention-92.

    Input: images (n, 224, 224, 3), pixels from 0 to 1, not normalised further.
    """


@constructor(ResidualAttentionModel, preprocess, attention=(1, 1, 2, 3), size=(448, 448))
def residual_attention_448input() -> None:
    """Attention-92 with one more stage in front, for larger images.

    Input: images (n, 448, 448, 3), pixels from 0 to 1, not normalised further.
    """


@constructor(OldCifarResidualAttentionModel, preprocess, attention=(1, 2, 3))
def residual_attention_92_32input() -> None:
    """Attention-92 for small images. Its first stage has half the size of the images.

    Input: images (n, 32, 32, 3), pixels from 0 to 1, not normalised further.
    """


@constructor(CifarResidualAttentionModel, preprocess, attention=(1, 2, 3))
def residual_attention_92_32input_update() -> None:
    """Attention-92 for small images, the published trained network. Its first stage has the size of the images.

    Input: images (n, 32, 32, 3), pixels from 0 to 1, not normalised further.
    """
