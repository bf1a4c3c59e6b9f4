"""Deep Residual Learning for Image Recognition - He, Zhang, Ren, Sun 2016, https://arxiv.org/abs/1512.03385"""

from torch import Tensor, nn
from torch.nn.functional import max_pool2d, relu

from torch_ref.blocks.resnet import (
    BasicBlock,
    Bottleneck,
    downsample,
)


def deep_stem(width, norm) -> nn.Sequential:
    first, second = nn.Conv2d(3, width, 3, 2, 1, bias=False), nn.Conv2d(width, width, 3, padding=1, bias=False)
    third = nn.Conv2d(width, 2 * width, 3, padding=1, bias=False)
    return nn.Sequential(first, norm(width), nn.ReLU(), second, norm(width), nn.ReLU(), third)


class ResNet(nn.Module):
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
        super().__init__()
        self.block, self.layers, self.num_classes = block, layers, num_classes
        self.groups, self.width_per_group, self.norm_layer = groups, width_per_group, norm_layer
        self.norm = norm_layer or nn.BatchNorm2d
        width = 64 if stem_width is None else 2 * stem_width
        stem = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.conv1 = stem if stem_width is None else deep_stem(stem_width, self.norm)
        self.bn1 = self.norm(width)
        inplanes = width
        for i, (stride, dilations) in enumerate(self.geometry(replace_stride_with_dilation, multi_grid)):
            setattr(self, f"layer{i + 1}", self.stage(inplanes, 64 * 2**i, stride, dilations))
            inplanes = 64 * 2**i * block.expansion
        if num_classes:
            self.fc = nn.Linear(inplanes, num_classes)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")

    def geometry(self, replace_stride_with_dilation, multi_grid):
        stages, dilation = [(1, [1] * self.layers[0])], 1
        for blocks, dilated in zip(self.layers[1:], replace_stride_with_dilation, strict=False):
            first, dilation = dilation, dilation * (2 if dilated else 1)
            stages.append((1 if dilated else 2, [first] + [dilation] * (blocks - 1)))
        if multi_grid is not None:
            stages[-1] = (stages[-1][0], list(multi_grid))
        return stages

    def stage(self, inplanes, planes, stride, dilations) -> nn.Sequential:
        blocks = []
        for dilation in dilations:
            shortcut = None
            if stride != 1 or inplanes != planes * self.block.expansion:
                shortcut = self.shortcut(inplanes, planes * self.block.expansion, stride)
            blocks.append(self.make(inplanes, planes, stride, shortcut, dilation))
            inplanes, stride = planes * self.block.expansion, 1
        return nn.Sequential(*blocks)

    def shortcut(self, inplanes, planes, stride) -> nn.Sequential:
        return downsample(inplanes, planes, stride, self.norm)

    def make(self, inplanes, planes, stride, shortcut, dilation) -> nn.Module:
        sizes = (self.groups, self.width_per_group, dilation)
        return self.block(inplanes, planes, stride, shortcut, *sizes, self.norm_layer)

    def pool(self, x: Tensor) -> Tensor:
        return max_pool2d(x, 3, 2, 1)

    def features(self, x: Tensor) -> list[Tensor]:
        x = relu(self.bn1(self.conv1(x)))
        x = self.pool(x)
        maps = []
        for i in range(len(self.layers)):
            x = self.pass_stage(i + 1, x)
            maps.append(x)
        return maps

    def pass_stage(self, number, x: Tensor) -> Tensor:
        return getattr(self, f"layer{number}")(x)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)[-1].mean((2, 3))
        return self.fc(x) if self.num_classes else x


def resnet18(num_classes=1000) -> ResNet:
    return ResNet(BasicBlock, (2, 2, 2, 2), num_classes)


def resnet34(num_classes=1000) -> ResNet:
    return ResNet(BasicBlock, (3, 4, 6, 3), num_classes)


def resnet50(num_classes=1000) -> ResNet:
    return ResNet(Bottleneck, (3, 4, 6, 3), num_classes)


def resnet101(num_classes=1000) -> ResNet:
    return ResNet(Bottleneck, (3, 4, 23, 3), num_classes)


def resnet152(num_classes=1000) -> ResNet:
    return ResNet(Bottleneck, (3, 8, 36, 3), num_classes)
