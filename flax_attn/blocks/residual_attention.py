"""Residual Attention Network for Image Classification - Wang, Jiang, Qian et al. 2017, https://arxiv.org/abs/1704.06904

Follows: tengshaofeng/ResidualAttentionNetwork-pytorch. Unlike the paper, each step of the way up also adds the feature
map that the way down had at that size, and the outermost step adds the trunk, as the authors' Caffe model does.
``conv4`` of a block exists even where it is unused. ``AttentionModule_stage3_cifar`` has the keys of
``AttentionModule_stage2_cifar``, but neither shrinks the image nor adds the trunk, and ignores ``size``.
"""

from typing import ClassVar

from flax_attn.layers import BatchNorm2d, Conv2d, Module, Sequential, interpolate, max_pool, relu, require, sigmoid
from flax_attn.shapes import Features, Image

Size = tuple[int, int]


class ResidualBlock(Module):
    """A 1x1, a 3x3 and a 1x1 convolution on a residual branch, each behind BatchNorm and ReLU.

    The shortcut is x. Where the number of channels or the size changes, it is a projection of the first ReLU's output.
    """

    input_channels: int
    output_channels: int
    stride: int = 1

    def setup(self) -> None:
        inner = self.output_channels // 4
        self.bn1 = BatchNorm2d(self.input_channels)
        self.conv1 = Conv2d(self.input_channels, inner, 1, bias=False)
        self.bn2 = BatchNorm2d(inner)
        self.conv2 = Conv2d(inner, inner, 3, stride=self.stride, padding=1, bias=False)
        self.bn3 = BatchNorm2d(inner)
        self.conv3 = Conv2d(inner, self.output_channels, 1, bias=False)
        self.conv4 = Conv2d(self.input_channels, self.output_channels, 1, stride=self.stride, bias=False)

    def __call__(self, x: Image, train: bool = False) -> Features:
        x = self.cast(x)
        a = relu(self.bn1(x, train))
        y = relu(self.bn2(self.conv1(a), train))
        y = relu(self.bn3(self.conv2(y), train))
        projects = self.input_channels != self.output_channels or self.stride != 1
        shortcut = self.conv4(a) if projects or self.is_initializing() else x
        return self.conv3(y) + (shortcut if projects else x)


class _AttentionModule(Module):
    """A trunk of two blocks, times 1 + mask. The mask is an hourglass with ``blocks`` on the way down and up.

    Args:
        in_channels, out_channels: must be equal.
        size1, size2, ...: (height, width) of x, of x at half size, at a quarter, ...

    With ``attention_weights=True`` the call returns also the mask (n, h, w, c).
    """

    in_channels: int
    out_channels: int

    blocks: ClassVar[tuple[str, ...]]

    def __post_init__(self) -> None:
        super().__post_init__()
        who, got = type(self).__name__, f"{self.in_channels}, {self.out_channels}"
        require(self.in_channels == self.out_channels, f"{who}: expected in_channels == out_channels, got {got}")
        for size, half in zip(self.sizes, self.sizes[1:], strict=False):
            expected = tuple((n + 1) // 2 for n in size)
            require(tuple(half) == expected, f"{who}: expected size {expected} below {tuple(size)}, got {tuple(half)}")

    @property
    def depth(self) -> int:
        return len(self.blocks) // 2

    @property
    def sizes(self) -> tuple[Size, ...]:
        return tuple(getattr(self, f"size{level}") for level in range(1, self.depth + 1))

    def setup(self) -> None:
        self.first_residual_blocks = self.residual(1)
        self.trunk_branches = self.residual(2)
        for i, name in enumerate(self.blocks[:-1], 1):
            setattr(self, name, self.residual(2 if i == self.depth else 1))
            if i < self.depth:
                setattr(self, f"skip{i}_connection_residual_block", self.residual(1))
        setattr(self, self.blocks[-1], self.gate())
        self.last_blocks = self.residual(1)

    def residual(self, n: int) -> Module:
        blocks = [ResidualBlock(self.in_channels, self.out_channels) for _ in range(n)]
        return blocks[0] if n == 1 else Sequential(blocks)

    def gate(self) -> Sequential:
        c = self.out_channels
        first, second = Conv2d(c, c, 1, bias=False), Conv2d(c, c, 1, bias=False)
        return Sequential([BatchNorm2d(c), relu, first, BatchNorm2d(c), relu, second, sigmoid])

    def block(self, i: int) -> Module:
        return getattr(self, self.blocks[i])

    def hourglass(self, x: Image, level: int, train: bool) -> Features:
        """The hourglass from ``level`` (1 at the top) downwards: x is halved, processed, and resized to this level."""
        y = self.block(level - 1)(max_pool(x, 3, 2, 1), train)
        if level < self.depth:
            skip = getattr(self, f"skip{level}_connection_residual_block")
            y = self.block(-level - 1)(self.hourglass(y, level + 1, train) + y + skip(y, train), train)
        return interpolate(y, self.sizes[level - 1], mode="bilinear", align_corners=True)

    def mask(self, x: Image, trunk: Image, train: bool) -> Image:
        size = tuple(self.sizes[0])
        require(x.shape[1:3] == size, f"{type(self).__name__}: expected an image of {size}, got shape {x.shape}")
        return self.block(-1)(self.hourglass(x, 1, train) + trunk, train)

    def __call__(self, x: Image, train: bool = False, attention_weights: bool = False) -> Image | tuple[Image, Image]:
        x = self.first_residual_blocks(x, train)
        trunk = self.trunk_branches(x, train)
        mask = self.mask(x, trunk, train)
        y = self.last_blocks((1 + mask) * trunk, train)
        return (y, mask) if attention_weights else y


class AttentionModule_stage0(_AttentionModule):
    """x times 1 + a mask that is computed at 1/2, 1/4, 1/8 and 1/16 of the size of x."""

    size1: Size = (112, 112)
    size2: Size = (56, 56)
    size3: Size = (28, 28)
    size4: Size = (14, 14)

    blocks = tuple(f"softmax{i}_blocks" for i in range(1, 9))


class AttentionModule_stage1(_AttentionModule):
    """x times 1 + a mask that is computed at 1/2, 1/4 and 1/8 of the size of x."""

    size1: Size = (56, 56)
    size2: Size = (28, 28)
    size3: Size = (14, 14)

    blocks = tuple(f"softmax{i}_blocks" for i in range(1, 7))


class AttentionModule_stage2(_AttentionModule):
    """x times 1 + a mask that is computed at 1/2 and 1/4 of the size of x."""

    size1: Size = (28, 28)
    size2: Size = (14, 14)

    blocks = tuple(f"softmax{i}_blocks" for i in range(1, 5))


class AttentionModule_stage3(_AttentionModule):
    """x times 1 + a mask that is computed at half the size of x."""

    size1: Size = (14, 14)

    blocks = ("softmax1_blocks", "softmax2_blocks")


class AttentionModule_stage1_cifar(_AttentionModule):
    """x times 1 + a mask that is computed at 1/2 and 1/4 of the size of x."""

    size1: Size = (16, 16)
    size2: Size = (8, 8)

    blocks = ("down_residual_blocks1", "middle_2r_blocks", "up_residual_blocks1", "conv1_1_blocks")


class AttentionModule_stage2_cifar(_AttentionModule):
    """x times 1 + a mask that is computed at half the size of x."""

    size: Size = (8, 8)

    blocks = ("middle_2r_blocks", "conv1_1_blocks")

    @property
    def sizes(self) -> tuple[Size, ...]:
        return (self.size,)


class AttentionModule_stage3_cifar(AttentionModule_stage2_cifar):
    """x times 1 + a mask that is computed at the size of x, which may be any; ``size`` is ignored."""

    def mask(self, x: Image, trunk: Image, train: bool) -> Image:
        return self.conv1_1_blocks(self.middle_2r_blocks(x, train), train)
