"""Spatial Group-wise Enhance - Li, Hu, Yang 2019, https://arxiv.org/abs/1905.09646

Follows: implus/PytorchInsight, also for the blocks, which have 64 groups at every width. The bias of the gate starts at
1. The standard deviation is the unbiased one and eps is added to it, so this is not a GroupNorm. On a map of one pixel
the standard deviation is NaN, and so is the output, as in PyTorch.
Differs: ``init_bias`` is ours. External-Attention-pytorch's copy starts the bias at 0 (``init_bias=0``).
"""

from collections.abc import Sequence
from typing import ClassVar

from jaxtyping import Array, Float

from flax_attn.blocks.resnet import BasicBlock, Bottleneck
from flax_attn.layers import Module, accumulator, init, require, sigmoid, std
from flax_attn.layers.grouped import scale_groups, weighted_group_sums
from flax_attn.shapes import Features, Image


class SpatialGroupEnhance(Module):
    """Scale each group of channels of x at each pixel by a gate: how similar the pixel is to the group's spatial mean.

    Args:
        groups: number of groups of channels; ValueError for an input whose channels they do not divide.
        init_bias: the bias of the gate at the start of training.

    With ``attention_weights=True`` the call returns also the gate (n, h, w, groups).
    """

    groups: int = 64
    init_bias: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.groups >= 1, f"SpatialGroupEnhance: expected groups >= 1, got {self.groups}")

    def setup(self) -> None:
        self.weight = self.parameter("weight", init.zeros, (1, self.groups, 1, 1))
        self.bias = self.parameter("bias", init.constant(self.init_bias), (1, self.groups, 1, 1))

    def __call__(
        self, x: Image, train: bool = False, attention_weights: bool = False
    ) -> Image | tuple[Image, Float[Array, "n h w g"]]:
        require(x.ndim == 4, f"SpatialGroupEnhance: expected an input (n, h, w, c), got shape {x.shape}")
        c = x.shape[-1]
        require(c % self.groups == 0, f"SpatialGroupEnhance: {self.groups} groups do not divide {c} channels")
        x, weight, bias = self.promote(x, self.weight, self.bias)
        mean = x.astype(accumulator(x.dtype)).mean((1, 2))
        t = weighted_group_sums(x, mean, self.groups)
        t = (t - t.mean((1, 2), keepdims=True)) / (std(t, (1, 2)) + 1e-5)
        gate = sigmoid(t * weight.reshape(-1) + bias.reshape(-1)).astype(x.dtype)
        y = scale_groups(x, gate)
        return (y, gate) if attention_weights else y


class _SGEGate(Module):
    """Mixed into a residual block: its residual branch ends in a SpatialGroupEnhance of 64 groups."""

    registered_last: ClassVar[Sequence[str]] = ("downsample", "sge")

    def setup(self) -> None:
        super().setup()
        self.sge: Module = SpatialGroupEnhance(64)

    def gate(self, y: Features, train: bool) -> Features:
        return self.sge(y, train=train)


class SGEBasicBlock(_SGEGate, BasicBlock):
    """A BasicBlock whose residual branch ends in a SpatialGroupEnhance; 64 divides ``planes``."""


class SGEBottleneck(_SGEGate, Bottleneck):
    """A Bottleneck whose residual branch ends in a SpatialGroupEnhance; 64 divides ``4 * planes``."""
