"""Spatial Transformer Networks - Jaderberg, Simonyan, Zisserman, Kavukcuoglu 2015, https://arxiv.org/abs/1506.02025

Follows: pytorch/tutorials, ``spatial_transformer_tutorial``. Affine matrices are in the order (x, y).
Differs: sizes, channels and kernels are arguments.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from flax_attn.layers import (
    Conv2d,
    Linear,
    MaxPool2d,
    Module,
    Sequential,
    accumulator,
    affine_grid,
    flatten,
    grid_sample,
    init,
    relu,
    require,
)
from flax_attn.shapes import Image


def identity(key: Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> Array:
    """The identity as an affine matrix (2, 3), flattened row by row."""
    return jnp.asarray([1, 0, 0, 0, 1, 0], dtype).reshape(shape)


def pixels(size: Sequence[int], kernel_sizes: Sequence[int], pools: Sequence[int]) -> int:
    """The number of pixels of an image of ``size`` behind convolutions and poolings without padding."""
    h, w = size
    for kernel, pool in zip(kernel_sizes, pools, strict=True):
        h, w = ((side - kernel + 1) // pool for side in (h, w))
    return max(0, h) * max(0, w)


class SpatialTransformer(Module):
    """Resample x by an affine matrix that a small network computes from x; at first the matrix is the identity.

    The defaults are the tutorial's network for MNIST.

    Args:
        in_channels: channels of x.
        size: (height, width) of x; the first layer of ``fc_loc`` depends on it.
        channels: output channels of each convolution; max pooling and ReLU follow.
        kernel_sizes: kernel size of each convolution.
        pools: window and stride of each max pooling.
        hidden: units of the layer in front of the matrix.
        align_corners: False, as in torch since 1.3; a network trained with an older torch needs True.

    With ``attention_weights=True`` the call returns also the grid (n, h, w, 2) of the places (x, y), from -1 to 1, that
    the pixels come from, and the matrix (n, 2, 3).
    """

    in_channels: int = 1
    size: Sequence[int] = (28, 28)
    channels: Sequence[int] = (8, 10)
    kernel_sizes: Sequence[int] = (7, 5)
    pools: Sequence[int] = (2, 2)
    hidden: int = 32
    align_corners: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        who = type(self).__name__
        counts = [len(stages) for stages in (self.channels, self.kernel_sizes, self.pools)]
        expected = f"{who}: expected as many channels as kernel_sizes and pools"
        require(min(counts) == max(counts) >= 1, f"{expected}, got {counts}")
        expected = f"{who}: expected a size that leaves a pixel after the localisation network"
        require(pixels(self.size, self.kernel_sizes, self.pools) >= 1, f"{expected}, got {tuple(self.size)}")

    def setup(self) -> None:
        stages: list[Any] = []
        inputs = [self.in_channels, *self.channels[:-1]]
        for c, out, kernel, pool in zip(inputs, self.channels, self.kernel_sizes, self.pools, strict=True):
            stages += [Conv2d(c, out, kernel), MaxPool2d(pool), relu]
        self.localization = Sequential(stages)
        self.features = self.channels[-1] * pixels(self.size, self.kernel_sizes, self.pools)
        theta = Linear(self.hidden, 6, kernel_init=init.zeros, bias_init=identity)
        self.fc_loc = Sequential([Linear(self.features, self.hidden), relu, theta])

    def __call__(
        self, x: Image, attention_weights: bool = False, train: bool = False
    ) -> Image | tuple[Image, Float[Array, "n h w 2"], Float[Array, "n 2 3"]]:
        x = self.cast(x)
        features = flatten(self.localization(x, train))
        expected = f"{type(self).__name__}: expected an image of height and width {tuple(self.size)}"
        require(features.shape[1] == self.features, f"{expected}, got shape {x.shape}")
        theta = self.fc_loc(features, train).reshape(-1, 2, 3)
        grid = affine_grid(theta.astype(accumulator(x.dtype)), x.shape, self.align_corners)
        y = grid_sample(x, grid, align_corners=self.align_corners)
        return (y, grid, theta) if attention_weights else y
