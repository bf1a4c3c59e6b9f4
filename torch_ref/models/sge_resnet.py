"""Spatial Group-wise Enhance - Li, Hu, Yang 2019, https://arxiv.org/abs/1905.09646"""

from torch import Tensor, nn

from torch_ref.blocks.bam import BAM
from torch_ref.blocks.cbam import CBAMBasicBlock, CBAMBottleneck
from torch_ref.blocks.resnet import BasicBlock, Bottleneck
from torch_ref.blocks.se import InsightSEBasicBlock, InsightSEBottleneck
from torch_ref.blocks.sge import SGEBasicBlock, SGEBottleneck
from torch_ref.blocks.sk import SKBottleneck
from torch_ref.models.resnet import ResNet


class BAMResNet(ResNet):
    def __init__(
        self,
        block,
        layers,
        num_classes=1000,
        groups=1,
        width_per_group=64,
        replace_stride_with_dilation=(False, False, False),
        norm_layer=None,
        stem_width=None,
        multi_grid=None,
    ):
        sizes = (groups, width_per_group, replace_stride_with_dilation, norm_layer, stem_width, multi_grid)
        super().__init__(block, layers, num_classes, *sizes)
        for i in range(len(self.layers) - 1):
            setattr(self, f"bam{i + 1}", BAM(64 * 2**i * block.expansion))
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")

    def pass_stage(self, number, x: Tensor) -> Tensor:
        x = super().pass_stage(number, x)
        return x if number == len(self.layers) else getattr(self, f"bam{number}")(x)


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
