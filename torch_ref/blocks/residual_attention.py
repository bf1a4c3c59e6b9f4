"""Residual Attention Network for Image Classification - Wang, Jiang, Qian et al. 2017, https://arxiv.org/abs/1704.06904"""

from torch import Tensor
from torch.nn import BatchNorm2d, Conv2d, Module, ReLU, Sequential, Sigmoid
from torch.nn.functional import interpolate, max_pool2d, relu


class ResidualBlock(Module):
    def __init__(self, input_channels, output_channels, stride=1):
        super().__init__()
        inner = output_channels // 4
        self.projects = input_channels != output_channels or stride != 1
        self.bn1 = BatchNorm2d(input_channels)
        self.conv1 = Conv2d(input_channels, inner, 1, bias=False)
        self.bn2 = BatchNorm2d(inner)
        self.conv2 = Conv2d(inner, inner, 3, stride=stride, padding=1, bias=False)
        self.bn3 = BatchNorm2d(inner)
        self.conv3 = Conv2d(inner, output_channels, 1, bias=False)
        self.conv4 = Conv2d(input_channels, output_channels, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        a = relu(self.bn1(x))
        y = relu(self.bn2(self.conv1(a)))
        y = relu(self.bn3(self.conv2(y)))
        return self.conv3(y) + (self.conv4(a) if self.projects else x)


class _AttentionModule(Module):
    blocks: tuple[str, ...]

    def __init__(self, in_channels, out_channels, *sizes):
        super().__init__()
        if in_channels != out_channels:
            got = f"{in_channels}, {out_channels}"
            raise ValueError(f"{type(self).__name__}: expected in_channels == out_channels, got {got}")
        self.channels = out_channels
        self.sizes = sizes
        self.depth = len(self.blocks) // 2
        self.first_residual_blocks = self.residual(1)
        self.trunk_branches = self.residual(2)
        for i, name in enumerate(self.blocks[:-1], 1):
            setattr(self, name, self.residual(2 if i == self.depth else 1))
            if i < self.depth:
                setattr(self, f"skip{i}_connection_residual_block", self.residual(1))
        setattr(self, self.blocks[-1], self.gate())
        self.last_blocks = self.residual(1)

    def residual(self, n):
        blocks = [ResidualBlock(self.channels, self.channels) for _ in range(n)]
        return blocks[0] if n == 1 else Sequential(*blocks)

    def gate(self):
        c = self.channels
        first, second = Conv2d(c, c, 1, bias=False), Conv2d(c, c, 1, bias=False)
        return Sequential(BatchNorm2d(c), ReLU(), first, BatchNorm2d(c), ReLU(), second, Sigmoid())

    def block(self, i):
        return getattr(self, self.blocks[i])

    def hourglass(self, x: Tensor, level) -> Tensor:
        y = self.block(level - 1)(max_pool2d(x, 3, 2, 1))
        if level < self.depth:
            skip = getattr(self, f"skip{level}_connection_residual_block")
            y = self.block(-level - 1)(self.hourglass(y, level + 1) + y + skip(y))
        return interpolate(y, self.sizes[level - 1], mode="bilinear", align_corners=True)

    def mask(self, x: Tensor, trunk: Tensor) -> Tensor:
        return self.block(-1)(self.hourglass(x, 1) + trunk)

    def forward(self, x: Tensor, attention_weights=False) -> Tensor | tuple[Tensor, Tensor]:
        x = self.first_residual_blocks(x)
        trunk = self.trunk_branches(x)
        mask = self.mask(x, trunk)
        y = self.last_blocks((1 + mask) * trunk)
        return (y, mask) if attention_weights else y


class AttentionModule_stage0(_AttentionModule):
    blocks = tuple(f"softmax{i}_blocks" for i in range(1, 9))

    def __init__(self, in_channels, out_channels, size1=(112, 112), size2=(56, 56), size3=(28, 28), size4=(14, 14)):
        super().__init__(in_channels, out_channels, size1, size2, size3, size4)


class AttentionModule_stage1(_AttentionModule):
    blocks = tuple(f"softmax{i}_blocks" for i in range(1, 7))

    def __init__(self, in_channels, out_channels, size1=(56, 56), size2=(28, 28), size3=(14, 14)):
        super().__init__(in_channels, out_channels, size1, size2, size3)


class AttentionModule_stage2(_AttentionModule):
    blocks = tuple(f"softmax{i}_blocks" for i in range(1, 5))

    def __init__(self, in_channels, out_channels, size1=(28, 28), size2=(14, 14)):
        super().__init__(in_channels, out_channels, size1, size2)


class AttentionModule_stage3(_AttentionModule):
    blocks = ("softmax1_blocks", "softmax2_blocks")

    def __init__(self, in_channels, out_channels, size1=(14, 14)):
        super().__init__(in_channels, out_channels, size1)


class AttentionModule_stage1_cifar(_AttentionModule):
    blocks = ("down_residual_blocks1", "middle_2r_blocks", "up_residual_blocks1", "conv1_1_blocks")

    def __init__(self, in_channels, out_channels, size1=(16, 16), size2=(8, 8)):
        super().__init__(in_channels, out_channels, size1, size2)


class AttentionModule_stage2_cifar(_AttentionModule):
    blocks = ("middle_2r_blocks", "conv1_1_blocks")

    def __init__(self, in_channels, out_channels, size=(8, 8)):
        super().__init__(in_channels, out_channels, size)


class AttentionModule_stage3_cifar(AttentionModule_stage2_cifar):
    def mask(self, x: Tensor, trunk: Tensor) -> Tensor:
        return self.conv1_1_blocks(self.middle_2r_blocks(x))
