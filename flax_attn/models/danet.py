"""Dual Attention Network for Scene Segmentation - Fu, Liu, Tian et al. 2019, https://arxiv.org/abs/1809.02983

Follows: junfu1115/DANet on the dilated ResNet of zhanghang1989/PyTorch-Encoding. The released DANet101.pth.tar has one
7x7 convolution as its stem, and the multi-grid: ``danet_resnet101``. Upstream's defaults are a stem of three
convolutions and no multi-grid: ``danet_resnet50``, of which no file is released.
Differs: upstream's synchronised BatchNorm is plain BatchNorm here. Numbers of stages and blocks are arguments.
Assumed: the backbone starts as ``ResNet`` does, the head as PyTorch's layers do.
"""

from collections.abc import Sequence

from jaxtyping import Array, Float

from flax_attn.blocks.danet import DANetHead
from flax_attn.blocks.resnet import Bottleneck
from flax_attn.constructor import constructor
from flax_attn.layers import Module, interpolate, require
from flax_attn.models.preprocess import normalize
from flax_attn.models.resnet import ResNet
from flax_attn.shapes import Image, ScoreMap


class DANet(Module):
    """Class scores of each pixel of images x (n, h, w, 3), three times, as ``DANetHead`` has them.

    The first of the three is the result.

    Args:
        layers: the number of blocks in each stage; the third and the fourth stage dilate instead of striding.
        deep_stem: whether the stem is three 3x3 convolutions instead of one 7x7 convolution.
        multi_grid: the dilation of each block of the last stage; 2, 4, 4, ... when None.
        dropout: that of ``DANetHead``.
    """

    num_classes: int
    layers: Sequence[int] = (3, 4, 23, 3)
    deep_stem: bool = True
    multi_grid: Sequence[int] | None = (4, 8, 16)
    dropout: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        stages, got = 1 <= len(self.layers) <= 4 and min(self.layers) >= 1, self.layers
        require(stages, f"DANet: expected one to four stages of blocks, got {got}")
        blocks, grid = self.layers[-1], self.multi_grid
        expected = f"DANet: expected a dilation for each of the last stage's {blocks} blocks"
        fits = grid is None or (isinstance(grid, Sequence) and len(grid) == blocks)
        require(fits, f"{expected}, got {grid}")

    def setup(self) -> None:
        stem, dilated = 64 if self.deep_stem else None, (False, True, True)
        self.pretrained = ResNet(
            Bottleneck,
            self.layers,
            num_classes=0,
            replace_stride_with_dilation=dilated,
            stem_width=stem,
            multi_grid=self.multi_grid,
        )
        width = 32 * 2 ** len(self.layers) * Bottleneck.expansion
        self.head: Module = DANetHead(width, self.num_classes, dropout=self.dropout)

    def __call__(self, x: Image, train: bool = False) -> tuple[ScoreMap, ScoreMap, ScoreMap]:
        both, position, channel = self.head(self.pretrained.features(x, train)[-1], train=train)
        return upsample(both, x), upsample(position, x), upsample(channel, x)


def upsample(scores: Float[Array, "n a b k"], x: Image) -> ScoreMap:
    """The scores at the height and width of x: bilinear, with ``align_corners=True``."""
    return interpolate(scores, x.shape[1:3], mode="bilinear", align_corners=True)


preprocess = normalize


@constructor(DANet, preprocess, num_classes=19, layers=(3, 4, 6, 3), multi_grid=None)
def danet_resnet50() -> None:
    """DANet on ResNet-50, with upstream's default stem and without multi-grid, which is upstream's default too.

    Input: images (n, h, w, 3), pixels from 0 to 1, then normalised as for ImageNet.
    """


@constructor(DANet, preprocess, num_classes=19, deep_stem=False)
def danet_resnet101() -> None:
    """DANet on ResNet-101, with the stem and the multi-grid of the released DANet101.pth.tar.

    Input: images (n, h, w, 3), pixels from 0 to 1, then normalised as for ImageNet.
    """
