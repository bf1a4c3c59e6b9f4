"""Spatial Group-wise Enhance - Li, Hu, Yang 2019, https://arxiv.org/abs/1905.09646

Status: implus/PytorchInsight, also for the blocks, which have 64 groups at every width. The gate's bias starts at 1;
External-Attention's copy starts it at 0 (``init_bias=0``). The deviation is the unbiased one and eps is added to it, so
this is not a GroupNorm. On a 1x1 map the deviation of one element is NaN, and so is the output, as in PyTorch.
"""

from flax_attn.blocks.resnet import BasicBlock, Bottleneck
from flax_attn.layers import Module, accumulator, init, require, sigmoid, std
from flax_attn.shapes import Features, Image


class SpatialGroupEnhance(Module):
    """Gate each group of channels of x at each position by its likeness to the group's spatial mean."""

    groups: int = 64
    init_bias: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.groups >= 1, f"SpatialGroupEnhance: expected groups >= 1, got {self.groups}")

    def setup(self) -> None:
        self.weight = self.parameter("weight", init.zeros, (1, self.groups, 1, 1))
        self.bias = self.parameter("bias", init.constant(self.init_bias), (1, self.groups, 1, 1))

    def __call__(self, x: Image, train: bool = False) -> Image:
        require(x.ndim == 4, f"SpatialGroupEnhance: expected an input (n, h, w, c), got shape {x.shape}")
        n, h, w, c = x.shape
        require(c % self.groups == 0, f"SpatialGroupEnhance: {self.groups} groups do not divide {c} channels")
        x, weight, bias = self.promote(x, self.weight, self.bias)
        x = x.reshape(n, h, w, self.groups, c // self.groups)
        wide = x.astype(accumulator(x.dtype))
        t = (wide * wide.mean((1, 2), keepdims=True)).sum(-1)
        t = (t - t.mean((1, 2), keepdims=True)) / (std(t, (1, 2)) + 1e-5)
        gate = sigmoid(t * weight.reshape(-1) + bias.reshape(-1)).astype(x.dtype)
        return (x * gate[..., None]).reshape(n, h, w, c)


class SGEBasicBlock(BasicBlock):
    """A BasicBlock with a SpatialGroupEnhance at the end of its residual branch; 64 divides ``planes``."""

    def setup(self) -> None:
        super().setup()
        self.sge = SpatialGroupEnhance(64)

    def residual(self, x: Image, train: bool) -> Features:
        return self.sge(super().residual(x, train))


class SGEBottleneck(Bottleneck):
    """A Bottleneck with a SpatialGroupEnhance at the end of its residual branch; 64 divides ``4 * planes``."""

    def setup(self) -> None:
        super().setup()
        self.sge = SpatialGroupEnhance(64)

    def residual(self, x: Image, train: bool) -> Features:
        return self.sge(super().residual(x, train))
