"""Lesion-aware Dynamic Kernel for Polyp Segmentation - Zhang et al. 2022, https://arxiv.org/abs/2301.04904"""

from functools import partial

import torch
from torch import Tensor
from torch.nn import (
    AdaptiveAvgPool2d,
    BatchNorm2d,
    Conv2d,
    GroupNorm,
    LayerNorm,
    Linear,
    Module,
    ModuleList,
    ReLU,
    Sequential,
    init,
)
from torch.nn.functional import interpolate, max_pool2d, relu

from torch_ref.blocks.esa import ESABlock, LCABlock
from torch_ref.blocks.resnet import BasicBlock, stage
from torch_ref.constructor import constructor
from torch_ref.models.preprocess import rescale
from torch_ref.models.res2net import res2net_stage
from torch_ref.models.resnet import deep_stem, stage_maps


def dynamic_conv(x: Tensor, head: Tensor) -> Tensor:
    return torch.einsum("nchw,nkc->nkhw", x, head)


class _ConvBlock(Module):
    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.conv = Conv2d(in_channels, out_channels, 3, padding=1)
        self.bn = BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return relu(self.bn(self.conv(x)))


class DecoderBlock(Module):
    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.conv1 = _ConvBlock(in_channels, in_channels // 4)
        self.conv2 = _ConvBlock(in_channels // 4, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.conv1(x))
        return interpolate(y, scale_factor=2, mode="bilinear", align_corners=True)


class HeadUpdator(Module):
    def __init__(self, channels=64):
        super().__init__()
        c = channels
        self.pred_transform_layer, self.head_transform_layer = Linear(c, 2 * c), Linear(c, 2 * c)
        self.pred_gate, self.head_gate = Linear(c, c), Linear(c, c)
        self.pred_norm_in, self.head_norm_in = LayerNorm(c), LayerNorm(c)
        self.pred_norm_out, self.head_norm_out = LayerNorm(c), LayerNorm(c)
        self.fc_layer, self.fc_norm = Linear(c, c), LayerNorm(c)

    def forward(self, x: Tensor, head: Tensor, pred: Tensor) -> Tensor:
        weight = torch.sigmoid(interpolate(pred, scale_factor=2, mode="bilinear", align_corners=False))
        seen = self.pred_transform_layer(torch.einsum("nkhw,nchw->nkc", weight, x))
        pred_in, pred_out = seen.chunk(2, -1)
        head_in, head_out = self.head_transform_layer(head).chunk(2, -1)
        both = head_in * pred_in
        head_gate = torch.sigmoid(self.head_norm_in(self.head_gate(both)))
        pred_gate = torch.sigmoid(self.pred_norm_in(self.pred_gate(both)))
        new = pred_gate * self.pred_norm_out(pred_out) + head_gate * self.head_norm_out(head_out)
        return relu(self.fc_norm(self.fc_layer(new)))


class LDNet(Module):
    reduced = True

    def __init__(self, num_classes=1, unified_channels=64, layers=(3, 4, 6, 3)):
        super().__init__()
        if num_classes != 1:
            raise ValueError(f"{type(self).__name__}: expected num_classes=1, got {num_classes}")
        self.num_classes, self.unified_channels = num_classes, unified_channels
        c, widths = unified_channels, (64, 64, 128, 256, 512)
        self.make_encoder(layers, widths[1:])
        self.decoder5 = DecoderBlock(512, 512)
        for i, inside, outside in ((4, 768, 256), (3, 384, 128), (2, 192, 64), (1, 128, 64)):
            setattr(self, f"decoder{i}", DecoderBlock(inside, outside))
        self.gobal_average_pool = Sequential(GroupNorm(16, 512), ReLU(), AdaptiveAvgPool2d(1))
        self.generate_head = Linear(512, num_classes * c)
        self.headUpdators = ModuleList([HeadUpdator(c) for _ in range(4)])
        for i, width in enumerate(widths, 1):
            setattr(self, f"unify{i}", Conv2d(width, c, 1))
        for i, width in enumerate(widths[:4], 1):
            setattr(self, f"esa{i}", ESABlock(width))
        for i, width in enumerate(widths[1:], 1):
            setattr(self, f"lca{i}", LCABlock(width))
        for part in ("decoder", "unify", "esa", "lca"):
            setattr(self, f"{part}List", ModuleList([getattr(self, f"{part}{4 - i}") for i in range(4)]))

    def make_encoder(self, layers, widths) -> None:
        self.encoder1_conv = self.stem()
        self.encoder1_bn = BatchNorm2d(64)
        for i, blocks in enumerate(layers):
            setattr(self, f"encoder{i + 2}", self.stage(i, blocks))
        for i, width in enumerate(widths if self.reduced else (), 2):
            setattr(self, f"reduce{i}", Conv2d(4 * width, width, 1))
        for name, m in self.named_modules():
            if name.startswith("encoder") and isinstance(m, Conv2d):
                init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")

    def stem(self) -> Module:
        return deep_stem(32, BatchNorm2d)

    def stage(self, i, layers) -> Sequential:
        return res2net_stage(128 * 2**i if i else 64, 64 * 2**i, layers, stride=2 if i else 1)

    def encode(self, x: Tensor) -> list[Tensor]:
        x = relu(self.encoder1_bn(self.encoder1_conv(x)))
        stages = [getattr(self, f"encoder{i}") for i in range(2, 6)]
        maps = stage_maps(stages, max_pool2d(x, 3, 2, padding=1))
        if self.reduced:
            maps = [getattr(self, f"reduce{i}")(y) for i, y in enumerate(maps, 2)]
        return [x, *maps]

    def forward(self, x: Tensor) -> list[Tensor]:
        n, _, h, w = x.shape
        if h % 32 or w % 32:
            expected = f"{type(self).__name__}: expected a height and width divisible by 32"
            raise ValueError(f"{expected}, got shape {tuple(x.shape)}")
        *skips, deep = self.encode(x)
        y = self.decoder5(deep)
        pooled = self.gobal_average_pool(deep).reshape(n, 512)
        head = self.generate_head(pooled).reshape(n, self.num_classes, self.unified_channels)
        maps = [dynamic_conv(self.unify5(y), head)]
        for i, update in zip((4, 3, 2, 1), self.headUpdators, strict=True):
            lesion = getattr(self, f"lca{i}")(y, maps[-1])
            context = getattr(self, f"esa{i}")(skips[i - 1])
            y = getattr(self, f"decoder{i}")(torch.cat([lesion, context], 1))
            feature = getattr(self, f"unify{i}")(y)
            head = update(feature, head, maps[-1])
            maps.append(dynamic_conv(feature, head))
        return [torch.sigmoid(m) for m in reversed(maps)]


class LDNetResNet34(LDNet):
    reduced = False

    def stem(self) -> Module:
        return Conv2d(3, 64, 7, stride=2, padding=3, bias=False)

    def stage(self, i, layers) -> Sequential:
        blocks = [partial(BasicBlock, planes=64 * 2**i)] * layers
        return stage(blocks, 32 * 2**i if i else 64, 64 * 2**i, stride=2 if i else 1)


preprocess = rescale


def resize_prediction(prediction: Tensor, size) -> Tensor:
    return interpolate(prediction, tuple(size), mode="bilinear", align_corners=False)


@constructor(LDNet, preprocess)
def ldnet(): ...


@constructor(LDNetResNet34, preprocess)
def ldnet_resnet34(): ...
