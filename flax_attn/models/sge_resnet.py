"""Spatial Group-wise Enhance - Li, Hu, Yang 2019, https://arxiv.org/abs/1905.09646

Follows: implus/PytorchInsight: torchvision's ResNet with a gate at the end of each residual branch (SGE, SE, CBAM),
with selective kernels, or with a BAM between the stages.
Differs: upstream's BAM network ends in a 7x7 pooling and takes images of 224x224 only; here, as in the other networks,
the last step is the mean over all pixels, which is the same number at 224x224.
Assumed: SE, SK, CBAM and BAM networks of other than 50 layers are made as SGE's are; no key list of them is known.
"""

from collections.abc import Callable

from flax_attn.blocks.bam import BAM
from flax_attn.blocks.cbam import CBAMBasicBlock, CBAMBottleneck
from flax_attn.blocks.resnet import BasicBlock, Bottleneck
from flax_attn.blocks.se import InsightSEBasicBlock, InsightSEBottleneck
from flax_attn.blocks.sge import SGEBasicBlock, SGEBottleneck
from flax_attn.blocks.sk import SKBottleneck
from flax_attn.constructor import constructor
from flax_attn.models.preprocess import imagenet
from flax_attn.models.resnet import ResNet
from flax_attn.shapes import Features


def in_turn(first: Callable[..., Features], second: Callable[..., Features]) -> Callable[..., Features]:
    """The function that applies ``first``, then ``second``."""
    return lambda x, train: second(first(x, train=train), train=train)


class BAMResNet(ResNet):
    """A ResNet with a BAM behind each stage but the last; ``features`` gives the feature maps behind the BAMs."""

    def setup_stages(self, width: int) -> None:
        for i in range(len(self.layers) - 1):
            setattr(self, f"bam{i + 1}", BAM(64 * 2**i * self.block.expansion))
        super().setup_stages(width)

    def stages(self) -> list[Callable[..., Features]]:
        *stages, last = super().stages()
        bams = [getattr(self, f"bam{i + 1}") for i in range(len(stages))]
        return [*map(in_turn, stages, bams), last]


preprocess = imagenet


@constructor(ResNet, preprocess, block=SGEBasicBlock, layers=(2, 2, 2, 2))
def sge_resnet18() -> None:
    """18 layers, with a SpatialGroupEnhance in each block.

    Input: images (n, 224, 224, 3), pixels from 0 to 1, then normalised as for ImageNet.
    """


@constructor(ResNet, preprocess, block=SGEBottleneck, layers=(3, 4, 6, 3))
def sge_resnet50() -> None:
    """50 layers, with a SpatialGroupEnhance in each block.

    Input: images (n, 224, 224, 3), pixels from 0 to 1, then normalised as for ImageNet.
    """


@constructor(ResNet, preprocess, block=SGEBottleneck, layers=(3, 4, 23, 3))
def sge_resnet101() -> None:
    """101 layers, with a SpatialGroupEnhance in each block.

    Input: images (n, 224, 224, 3), pixels from 0 to 1, then normalised as for ImageNet.
    """


@constructor(ResNet, preprocess, block=InsightSEBasicBlock, layers=(2, 2, 2, 2))
def insight_se_resnet18() -> None:
    """18 layers, with an SELayer in each block, upstream's ``se_resnet18``.

    Input: images (n, 224, 224, 3), pixels from 0 to 1, then normalised as for ImageNet.
    """


@constructor(ResNet, preprocess, block=InsightSEBottleneck, layers=(3, 4, 6, 3))
def insight_se_resnet50() -> None:
    """50 layers, with an SELayer in each block, upstream's ``se_resnet50``.

    Input: images (n, 224, 224, 3), pixels from 0 to 1, then normalised as for ImageNet.
    """


@constructor(ResNet, preprocess, block=InsightSEBottleneck, layers=(3, 4, 23, 3))
def insight_se_resnet101() -> None:
    """101 layers, with an SELayer in each block, upstream's ``se_resnet101``.

    Input: images (n, 224, 224, 3), pixels from 0 to 1, then normalised as for ImageNet.
    """


@constructor(ResNet, preprocess, block=SKBottleneck, layers=(3, 4, 6, 3))
def sk_resnet50() -> None:
    """50 layers, of SKBottlenecks.

    Input: images (n, 224, 224, 3), pixels from 0 to 1, then normalised as for ImageNet.
    """


@constructor(ResNet, preprocess, block=SKBottleneck, layers=(3, 4, 23, 3))
def sk_resnet101() -> None:
    """101 layers, of SKBottlenecks.

    Input: images (n, 224, 224, 3), pixels from 0 to 1, then normalised as for ImageNet.
    """


@constructor(ResNet, preprocess, block=CBAMBasicBlock, layers=(2, 2, 2, 2))
def cbam_resnet18() -> None:
    """18 layers, with a CBAM in each block.

    Input: images (n, 224, 224, 3), pixels from 0 to 1, then normalised as for ImageNet.
    """


@constructor(ResNet, preprocess, block=CBAMBottleneck, layers=(3, 4, 6, 3))
def cbam_resnet50() -> None:
    """50 layers, with a CBAM in each block.

    Input: images (n, 224, 224, 3), pixels from 0 to 1, then normalised as for ImageNet.
    """


@constructor(ResNet, preprocess, block=CBAMBottleneck, layers=(3, 4, 23, 3))
def cbam_resnet101() -> None:
    """101 layers, with a CBAM in each block.

    Input: images (n, 224, 224, 3), pixels from 0 to 1, then normalised as for ImageNet.
    """


@constructor(BAMResNet, preprocess, block=BasicBlock, layers=(2, 2, 2, 2))
def bam_resnet18() -> None:
    """18 layers, with a BAM between stages.

    Input: images (n, 224, 224, 3), pixels from 0 to 1, then normalised as for ImageNet.
    """


@constructor(BAMResNet, preprocess, block=Bottleneck, layers=(3, 4, 6, 3))
def bam_resnet50() -> None:
    """50 layers, with a BAM between stages.

    Input: images (n, 224, 224, 3), pixels from 0 to 1, then normalised as for ImageNet.
    """


@constructor(BAMResNet, preprocess, block=Bottleneck, layers=(3, 4, 23, 3))
def bam_resnet101() -> None:
    """101 layers, with a BAM between stages.

    Input: images (n, 224, 224, 3), pixels from 0 to 1, then normalised as for ImageNet.
    """
