"""Rethinking the Inception Architecture - Szegedy, Vanhoucke, Ioffe, Shlens, Wojna 2016, https://arxiv.org/abs/1512.00567

Follows: pytorch/vision's Inception v3, each block with the SELayer that moskomule/senet.pytorch adds to it. The forward
pass of that code never calls the SELayer: its weights are in the files and do nothing.
Differs: ``gated=True`` is ours and scales the block's input by the SELayer. torchvision's kernels start as a normal
distribution cut at 20 standard deviations; here it is not cut.
"""

import dataclasses

import jax.numpy as jnp

from flax_attn.blocks.se import SELayer
from flax_attn.layers import BatchNorm2d, Conv2d, Linear, Module, avg_pool, init, max_pool, relu
from flax_attn.layers.conv import Ints
from flax_attn.shapes import Features, Image, Scores, Widened


class BasicConv2d(Module):
    """A convolution of x, BatchNorm and ReLU.

    Args:
        stddev: the kernel starts from N(0, stddev).
    """

    in_channels: int
    out_channels: int
    kernel_size: Ints
    stride: int = 1
    padding: Ints = 0
    stddev: float = 0.1

    def setup(self) -> None:
        self.conv = Conv2d(
            self.in_channels,
            self.out_channels,
            self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            bias=False,
            kernel_init=init.normal(self.stddev),
        )
        self.bn = BatchNorm2d(self.out_channels, 0.001)

    def __call__(self, x: Image, train: bool = False) -> Features:
        return relu(self.bn(self.conv(x), train))


def chain(x: Image, train: bool, *layers: Module) -> Features:
    """x passed through all ``layers``, one after the other."""
    for layer in layers:
        x = layer(x, train)
    return x


class _Gated(Module):
    in_channels: int

    gated: bool = dataclasses.field(default=False, kw_only=True)

    def gate(self, x: Image) -> Image:
        """x, scaled by the SELayer if the block is ``gated``."""
        if self.gated or self.is_initializing():
            scaled = self.SELayer(x)
        return scaled if self.gated else self.cast(x)


class InceptionA(_Gated):
    """Four branches side by side: 1x1, 5x5, two 3x3, and average pooling; 224 + ``pool_features`` channels."""

    pool_features: int

    def setup(self) -> None:
        self.branch1x1 = BasicConv2d(self.in_channels, 64, 1)
        self.branch5x5_1 = BasicConv2d(self.in_channels, 48, 1)
        self.branch5x5_2 = BasicConv2d(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = BasicConv2d(self.in_channels, 64, 1)
        self.branch3x3dbl_2 = BasicConv2d(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = BasicConv2d(96, 96, 3, padding=1)
        self.branch_pool = BasicConv2d(self.in_channels, self.pool_features, 1)
        self.SELayer = SELayer(self.in_channels)

    def __call__(self, x: Image, train: bool = False) -> Widened:
        x = self.gate(x)
        five = chain(x, train, self.branch5x5_1, self.branch5x5_2)
        three = chain(x, train, self.branch3x3dbl_1, self.branch3x3dbl_2, self.branch3x3dbl_3)
        pooled = self.branch_pool(avg_pool(x, 3, 1, 1), train)
        return jnp.concatenate([self.branch1x1(x, train), five, three, pooled], -1)


class InceptionB(_Gated):
    """Three branches of stride 2 side by side: 3x3, two 3x3, and max pooling; 480 channels more than x has."""

    def setup(self) -> None:
        self.branch3x3 = BasicConv2d(self.in_channels, 384, 3, stride=2)
        self.branch3x3dbl_1 = BasicConv2d(self.in_channels, 64, 1)
        self.branch3x3dbl_2 = BasicConv2d(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = BasicConv2d(96, 96, 3, stride=2)
        self.SELayer = SELayer(self.in_channels)

    def __call__(self, x: Image, train: bool = False) -> Features:
        x = self.gate(x)
        double = chain(x, train, self.branch3x3dbl_1, self.branch3x3dbl_2, self.branch3x3dbl_3)
        return jnp.concatenate([self.branch3x3(x, train), double, max_pool(x, 3, 2)], -1)


class InceptionC(_Gated):
    """Four branches side by side: 1x1, 7x7, two 7x7, and average pooling; 768 channels. A 7x7 is a 1x7 and a 7x1."""

    channels_7x7: int

    def setup(self) -> None:
        c = self.channels_7x7
        self.branch1x1 = BasicConv2d(self.in_channels, 192, 1)
        self.branch7x7_1 = BasicConv2d(self.in_channels, c, 1)
        self.branch7x7_2 = BasicConv2d(c, c, (1, 7), padding=(0, 3))
        self.branch7x7_3 = BasicConv2d(c, 192, (7, 1), padding=(3, 0))
        self.branch7x7dbl_1 = BasicConv2d(self.in_channels, c, 1)
        self.branch7x7dbl_2 = BasicConv2d(c, c, (7, 1), padding=(3, 0))
        self.branch7x7dbl_3 = BasicConv2d(c, c, (1, 7), padding=(0, 3))
        self.branch7x7dbl_4 = BasicConv2d(c, c, (7, 1), padding=(3, 0))
        self.branch7x7dbl_5 = BasicConv2d(c, 192, (1, 7), padding=(0, 3))
        self.branch_pool = BasicConv2d(self.in_channels, 192, 1)
        self.SELayer = SELayer(self.in_channels)

    def __call__(self, x: Image, train: bool = False) -> Widened:
        x = self.gate(x)
        seven = chain(x, train, self.branch7x7_1, self.branch7x7_2, self.branch7x7_3)
        double = chain(x, train, self.branch7x7dbl_1, self.branch7x7dbl_2, self.branch7x7dbl_3)
        double = chain(double, train, self.branch7x7dbl_4, self.branch7x7dbl_5)
        pooled = self.branch_pool(avg_pool(x, 3, 1, 1), train)
        return jnp.concatenate([self.branch1x1(x, train), seven, double, pooled], -1)


class InceptionD(_Gated):
    """Three branches of stride 2 side by side: 3x3, 7x7 with 3x3, and max pooling; 512 channels more than x has."""

    def setup(self) -> None:
        self.branch3x3_1 = BasicConv2d(self.in_channels, 192, 1)
        self.branch3x3_2 = BasicConv2d(192, 320, 3, stride=2)
        self.branch7x7x3_1 = BasicConv2d(self.in_channels, 192, 1)
        self.branch7x7x3_2 = BasicConv2d(192, 192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3 = BasicConv2d(192, 192, (7, 1), padding=(3, 0))
        self.branch7x7x3_4 = BasicConv2d(192, 192, 3, stride=2)
        self.SELayer = SELayer(self.in_channels)

    def __call__(self, x: Image, train: bool = False) -> Features:
        x = self.gate(x)
        three = chain(x, train, self.branch3x3_1, self.branch3x3_2)
        seven = chain(x, train, self.branch7x7x3_1, self.branch7x7x3_2, self.branch7x7x3_3, self.branch7x7x3_4)
        return jnp.concatenate([three, seven, max_pool(x, 3, 2)], -1)


class InceptionE(_Gated):
    """Four branches side by side: 1x1, 3x3, two 3x3, and average pooling; 2048 channels.

    The last 3x3 of a branch is a 1x3 and a 3x1 side by side.
    """

    def setup(self) -> None:
        self.branch1x1 = BasicConv2d(self.in_channels, 320, 1)
        self.branch3x3_1 = BasicConv2d(self.in_channels, 384, 1)
        self.branch3x3_2a = BasicConv2d(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3_2b = BasicConv2d(384, 384, (3, 1), padding=(1, 0))
        self.branch3x3dbl_1 = BasicConv2d(self.in_channels, 448, 1)
        self.branch3x3dbl_2 = BasicConv2d(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = BasicConv2d(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3dbl_3b = BasicConv2d(384, 384, (3, 1), padding=(1, 0))
        self.branch_pool = BasicConv2d(self.in_channels, 192, 1)
        self.SELayer = SELayer(self.in_channels)

    def __call__(self, x: Image, train: bool = False) -> Widened:
        x = self.gate(x)
        y = self.branch3x3_1(x, train)
        three = [self.branch3x3_2a(y, train), self.branch3x3_2b(y, train)]
        y = chain(x, train, self.branch3x3dbl_1, self.branch3x3dbl_2)
        double = [self.branch3x3dbl_3a(y, train), self.branch3x3dbl_3b(y, train)]
        pooled = self.branch_pool(avg_pool(x, 3, 1, 1), train)
        return jnp.concatenate([self.branch1x1(x, train), *three, *double, pooled], -1)


class InceptionAux(_Gated):
    """Class scores (n, num_classes) from a feature map x of at least 17x17 pixels."""

    num_classes: int

    def setup(self) -> None:
        self.conv0 = BasicConv2d(self.in_channels, 128, 1)
        self.conv1 = BasicConv2d(128, 768, 5, stddev=0.01)
        self.fc = Linear(768, self.num_classes, kernel_init=init.normal(0.001))
        self.SELayer = SELayer(self.in_channels)

    def __call__(self, x: Image, train: bool = False) -> Scores:
        x = avg_pool(self.gate(x), 5, 3)
        return self.fc(chain(x, train, self.conv0, self.conv1).mean((1, 2)))
