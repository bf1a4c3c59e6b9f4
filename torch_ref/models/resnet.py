"""Deep Residual Learning for Image Recognition - He, Zhang, Ren, Sun 2016, https://arxiv.org/abs/1512.03385"""

from functools import partial

from torch import Tensor
from torch.nn import BatchNorm2d, Conv2d, Linear, Module, ReLU, Sequential, init
from torch.nn.functional import max_pool2d, relu

from torch_ref.blocks.resnet import BasicBlock, Bottleneck, downsample, stage
from torch_ref.constructor import constructor
from torch_ref.models.preprocess import imagenet


def deep_stem(width, norm) -> Sequential:
    first = Conv2d(3, width, 3, stride=2, padding=1, bias=False)
    second = Conv2d(width, width, 3, padding=1, bias=False)
    third = Conv2d(width, 2 * width, 3, padding=1, bias=False)
    return Sequential(first, norm(width), ReLU(), second, norm(width), ReLU(), third)


def stage_maps(stages, x: Tensor) -> list[Tensor]:
    maps = []
    for layers in stages:
        x = layers(x)
        maps.append(x)
    return maps


def start_convolutions(network: Module) -> None:
    for m in network.modules():
        if isinstance(m, Conv2d):
            init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")


class ResNet(Module):
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
        self.replace_stride_with_dilation, self.multi_grid = replace_stride_with_dilation, multi_grid
        self.stem_width = stem_width
        self.norm = norm_layer or BatchNorm2d
        self.setup()
        start_convolutions(self)

    def setup(self):
        width = 64 if self.stem_width is None else 2 * self.stem_width
        stem = Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.conv1 = stem if self.stem_width is None else deep_stem(self.stem_width, self.norm)
        self.bn1 = self.norm(width)
        self.setup_stages(width)

    def setup_stages(self, width):
        for i, (stride, dilations) in enumerate(self.geometry()):
            planes = 64 * 2**i
            blocks = [self.make(planes, dilation) for dilation in dilations]
            outplanes = planes * self.block.expansion
            setattr(self, f"layer{i + 1}", stage(blocks, width, outplanes, stride=stride, shortcut=self.shortcut))
            width = outplanes
        if self.num_classes:
            self.fc = Linear(width, self.num_classes)

    def geometry(self):
        stages, dilation = [(1, [1] * self.layers[0])], 1
        for blocks, dilated in zip(self.layers[1:], self.replace_stride_with_dilation, strict=False):
            first, dilation = dilation, dilation * (2 if dilated else 1)
            stages.append((1 if dilated else 2, [first] + [dilation] * (blocks - 1)))
        if self.multi_grid is not None:
            stages[-1] = (stages[-1][0], list(self.multi_grid))
        return stages

    def make(self, planes, dilation):
        return partial(
            self.block,
            planes=planes,
            groups=self.groups,
            base_width=self.width_per_group,
            dilation=dilation,
            norm_layer=self.norm_layer,
        )

    def shortcut(self, inplanes, planes, stride) -> Sequential:
        return downsample(inplanes, planes, stride, norm_layer=self.norm)

    def pool(self, x: Tensor) -> Tensor:
        return max_pool2d(x, 3, 2, padding=1)

    def stages(self):
        return [getattr(self, f"layer{i + 1}") for i in range(len(self.layers))]

    def features(self, x: Tensor) -> list[Tensor]:
        x = relu(self.bn1(self.conv1(x)))
        return stage_maps(self.stages(), self.pool(x))

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)[-1].mean((2, 3))
        return self.fc(x) if self.num_classes else x


preprocess = imagenet


@constructor(ResNet, preprocess, block=BasicBlock, layers=(2, 2, 2, 2))
def resnet18(): ...


@constructor(ResNet, preprocess, block=BasicBlock, layers=(3, 4, 6, 3))
def resnet34(): ...


@constructor(ResNet, preprocess, block=Bottleneck, layers=(3, 4, 6, 3))
def resnet50(): ...


@constructor(ResNet, preprocess, block=Bottleneck, layers=(3, 4, 23, 3))
def resnet101(): ...


@constructor(ResNet, preprocess, block=Bottleneck, layers=(3, 8, 36, 3))
def resnet152(): ...
