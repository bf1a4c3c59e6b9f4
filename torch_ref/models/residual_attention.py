"""Residual Attention Network for Image Classification - Wang, Jiang, Qian et al. 2017, https://arxiv.org/abs/1704.06904"""

from torch import Tensor
from torch.nn import BatchNorm2d, Conv2d, Linear, Module, ReLU, Sequential
from torch.nn.functional import max_pool2d

from torch_ref.blocks.residual_attention import (
    AttentionModule_stage0,
    AttentionModule_stage1,
    AttentionModule_stage1_cifar,
    AttentionModule_stage2,
    AttentionModule_stage2_cifar,
    AttentionModule_stage3,
    AttentionModule_stage3_cifar,
    ResidualBlock,
)
from torch_ref.constructor import constructor
from torch_ref.models.preprocess import rescale


def windows(size, kernel_size, stride, padding):
    h, w = ((n + 2 * padding - kernel_size) // stride + 1 for n in size)
    return h, w


class ResidualAttentionModel(Module):
    stages = (
        AttentionModule_stage0,
        AttentionModule_stage1,
        AttentionModule_stage2,
        AttentionModule_stage3,
    )
    stem = (7, 2, 3)
    pool = (3, 2, 1)
    last_stride = 2

    def __init__(self, attention, num_classes=10, size=(224, 224), width=64):
        super().__init__()
        self.attention, self.size, self.width = attention, size, width
        kernel_size, stride, padding = self.stem
        first = Conv2d(3, width, kernel_size, stride=stride, padding=padding, bias=False)
        self.conv1 = Sequential(first, BatchNorm2d(width), ReLU())
        pairs = self.body()
        for name, module in pairs:
            setattr(self, name, module)
        self.names = [name for name, _ in pairs]
        self.mpool2 = Sequential(BatchNorm2d(32 * width), ReLU())
        self.fc = Linear(32 * width, num_classes)

    def sizes(self):
        sizes = [windows(windows(self.size, *self.stem), *self.pool)]
        for _ in range(len(self.attention) + 4):
            sizes.append(windows(sizes[-1], 3, 2, 1))
        return sizes

    def body(self):
        pairs = []
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

    def forward(self, x: Tensor) -> Tensor:
        x = max_pool2d(self.conv1(x), *self.pool)
        for name in self.names:
            x = getattr(self, name)(x)
        return self.fc(self.mpool2(x).mean((2, 3)))


class CifarResidualAttentionModel(ResidualAttentionModel):
    stages = (AttentionModule_stage1_cifar, AttentionModule_stage2_cifar, AttentionModule_stage3_cifar)
    stem = (3, 1, 1)
    pool = (1, 1, 0)
    last_stride = 1

    def __init__(self, attention, num_classes=10, size=(32, 32), width=32):
        super().__init__(attention, num_classes, size, width=width)


class OldCifarResidualAttentionModel(CifarResidualAttentionModel):
    stem = (5, 1, 2)
    pool = (2, 2, 0)


preprocess = rescale


@constructor(ResidualAttentionModel, preprocess, attention=(1, 1, 1))
def residual_attention_56(): ...


@constructor(ResidualAttentionModel, preprocess, attention=(1, 2, 3))
def residual_attention_92(): ...


@constructor(ResidualAttentionModel, preprocess, attention=(1, 1, 2, 3), size=(448, 448))
def residual_attention_448input(): ...


@constructor(OldCifarResidualAttentionModel, preprocess, attention=(1, 2, 3))
def residual_attention_92_32input(): ...


@constructor(CifarResidualAttentionModel, preprocess, attention=(1, 2, 3))
def residual_attention_92_32input_update(): ...
