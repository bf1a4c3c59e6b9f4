"""Spatial Group-wise Enhance - Li, Hu, Yang 2019, https://arxiv.org/abs/1905.09646"""

from torch_ref.blocks.bam import BAM
from torch_ref.blocks.cbam import CBAMBasicBlock, CBAMBottleneck
from torch_ref.blocks.resnet import BasicBlock, Bottleneck
from torch_ref.blocks.se import InsightSEBasicBlock, InsightSEBottleneck
from torch_ref.blocks.sge import SGEBasicBlock, SGEBottleneck
from torch_ref.blocks.sk import SKBottleneck
from torch_ref.constructor import constructor
from torch_ref.models.preprocess import imagenet
from torch_ref.models.resnet import ResNet


def in_turn(first, second):
    return lambda x: second(first(x))


class BAMResNet(ResNet):
    def setup_stages(self, width):
        for i in range(len(self.layers) - 1):
            setattr(self, f"bam{i + 1}", BAM(64 * 2**i * self.block.expansion))
        super().setup_stages(width)

    def stages(self):
        *stages, last = super().stages()
        bams = [getattr(self, f"bam{i + 1}") for i in range(len(stages))]
        return [*map(in_turn, stages, bams), last]


preprocess = imagenet


@constructor(ResNet, preprocess, block=SGEBasicBlock, layers=(2, 2, 2, 2))
def sge_resnet18(): ...


@constructor(ResNet, preprocess, block=SGEBottleneck, layers=(3, 4, 6, 3))
def sge_resnet50(): ...


@constructor(ResNet, preprocess, block=SGEBottleneck, layers=(3, 4, 23, 3))
def sge_resnet101(): ...


@constructor(ResNet, preprocess, block=InsightSEBasicBlock, layers=(2, 2, 2, 2))
def insight_se_resnet18(): ...


@constructor(ResNet, preprocess, block=InsightSEBottleneck, layers=(3, 4, 6, 3))
def insight_se_resnet50(): ...


@constructor(ResNet, preprocess, block=InsightSEBottleneck, layers=(3, 4, 23, 3))
def insight_se_resnet101(): ...


@constructor(ResNet, preprocess, block=SKBottleneck, layers=(3, 4, 6, 3))
def sk_resnet50(): ...


@constructor(ResNet, preprocess, block=SKBottleneck, layers=(3, 4, 23, 3))
def sk_resnet101(): ...


@constructor(ResNet, preprocess, block=CBAMBasicBlock, layers=(2, 2, 2, 2))
def cbam_resnet18(): ...


@constructor(ResNet, preprocess, block=CBAMBottleneck, layers=(3, 4, 6, 3))
def cbam_resnet50(): ...


@constructor(ResNet, preprocess, block=CBAMBottleneck, layers=(3, 4, 23, 3))
def cbam_resnet101(): ...


@constructor(BAMResNet, preprocess, block=BasicBlock, layers=(2, 2, 2, 2))
def bam_resnet18(): ...


@constructor(BAMResNet, preprocess, block=Bottleneck, layers=(3, 4, 6, 3))
def bam_resnet50(): ...


@constructor(BAMResNet, preprocess, block=Bottleneck, layers=(3, 4, 23, 3))
def bam_resnet101(): ...
