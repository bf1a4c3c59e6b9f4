"""Spatial Group-wise Enhance - Li, Hu, Yang 2019, https://arxiv.org/abs/1905.09646"""

from torch_ref.blocks.bam import BAM
from torch_ref.blocks.cbam import CBAMBasicBlock, CBAMBottleneck
from torch_ref.blocks.resnet import BasicBlock, Bottleneck
from torch_ref.blocks.se import InsightSEBasicBlock, InsightSEBottleneck
from torch_ref.blocks.sge import SGEBasicBlock, SGEBottleneck
from torch_ref.blocks.sk import SKBottleneck
from torch_ref.models.preprocess import imagenet
from torch_ref.models.resnet import ResNet


def in_turn(first, second):
    return lambda x: second(first(x))


class BAMResNet(ResNet):
    def setup(self):
        super().setup()
        for i in range(len(self.layers) - 1):
            setattr(self, f"bam{i + 1}", BAM(64 * 2**i * self.block.expansion))

    def stages(self):
        *stages, last = super().stages()
        bams = [getattr(self, f"bam{i + 1}") for i in range(len(stages))]
        return [*map(in_turn, stages, bams), last]


preprocess = imagenet


def sge_resnet18(num_classes=1000) -> ResNet:
    return ResNet(SGEBasicBlock, (2, 2, 2, 2), num_classes)


def sge_resnet50(num_classes=1000) -> ResNet:
    return ResNet(SGEBottleneck, (3, 4, 6, 3), num_classes)


def sge_resnet101(num_classes=1000) -> ResNet:
    return ResNet(SGEBottleneck, (3, 4, 23, 3), num_classes)


def insight_se_resnet18(num_classes=1000) -> ResNet:
    return ResNet(InsightSEBasicBlock, (2, 2, 2, 2), num_classes)


def insight_se_resnet50(num_classes=1000) -> ResNet:
    return ResNet(InsightSEBottleneck, (3, 4, 6, 3), num_classes)


def insight_se_resnet101(num_classes=1000) -> ResNet:
    return ResNet(InsightSEBottleneck, (3, 4, 23, 3), num_classes)


def sk_resnet50(num_classes=1000) -> ResNet:
    return ResNet(SKBottleneck, (3, 4, 6, 3), num_classes)


def sk_resnet101(num_classes=1000) -> ResNet:
    return ResNet(SKBottleneck, (3, 4, 23, 3), num_classes)


def cbam_resnet18(num_classes=1000) -> ResNet:
    return ResNet(CBAMBasicBlock, (2, 2, 2, 2), num_classes)


def cbam_resnet50(num_classes=1000) -> ResNet:
    return ResNet(CBAMBottleneck, (3, 4, 6, 3), num_classes)


def cbam_resnet101(num_classes=1000) -> ResNet:
    return ResNet(CBAMBottleneck, (3, 4, 23, 3), num_classes)


def bam_resnet18(num_classes=1000) -> BAMResNet:
    return BAMResNet(BasicBlock, (2, 2, 2, 2), num_classes)


def bam_resnet50(num_classes=1000) -> BAMResNet:
    return BAMResNet(Bottleneck, (3, 4, 6, 3), num_classes)


def bam_resnet101(num_classes=1000) -> BAMResNet:
    return BAMResNet(Bottleneck, (3, 4, 23, 3), num_classes)
