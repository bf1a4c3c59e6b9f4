"""PyTorch's normalisations. Traps: eps 1e-5 everywhere, two-pass variance, and BatchNorm's two variances: the biased
one normalises, the unbiased one enters the running statistic, with ``momentum`` as the share of the NEW value."""

import dataclasses
import math
from collections.abc import Sequence
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from flax_attn.layers import init
from flax_attn.layers.module import Initializer, Module, accumulator, require


def standardize(x: Array, axes: Sequence[int], eps: float) -> Array:
    """(x - mean) / sqrt(biased variance + eps) over ``axes``, in float32 at least."""
    x = x.astype(accumulator(x.dtype))
    mean = x.mean(axes, keepdims=True)
    variance = jnp.square(x - mean).mean(axes, keepdims=True)
    return (x - mean) * lax.rsqrt(variance + eps)


def std(x: Array, axes: Sequence[int]) -> Array:
    """``Tensor.std``: the unbiased deviation over ``axes``, which are kept; NaN for one element, gradient 0 at 0."""
    n = math.prod(x.shape[axis] for axis in axes)
    wide = x.astype(accumulator(x.dtype))
    square = jnp.square(wide - wide.mean(axes, keepdims=True)).sum(axes, keepdims=True)
    variance = square / (n - 1) if n > 1 else jnp.full_like(square, jnp.nan)
    return jnp.where(variance == 0, 0, jnp.sqrt(jnp.where(variance == 0, 1, variance))).astype(x.dtype)


class BatchNorm(Module):
    """What ``BatchNorm1d``, ``BatchNorm2d`` and ``BatchNorm3d`` share.

    Leaves: ``scale`` and ``bias`` (num_features,) in "params", ``mean`` and ``var`` in "batch_stats".
    With ``train=True`` apply with ``mutable=["batch_stats"]``; linen raises when that is forgotten.
    Under a jit over a sharded batch the statistics are those of the whole batch (torch's SyncBatchNorm).
    Raises ValueError for another rank or width, and for one value a channel in training, as torch does.
    """

    num_features: int
    eps: float = 1e-5
    momentum: float = 0.1
    affine: bool = True
    track_running_stats: bool = True
    scale_init: Initializer = dataclasses.field(default=init.ones, kw_only=True)

    ndims: ClassVar[tuple[int, ...]]

    def __post_init__(self) -> None:
        super().__post_init__()
        who = type(self).__name__
        require(self.num_features >= 1, f"{who}: expected num_features >= 1, got {self.num_features}")

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        self.check_channels(x, self.num_features, self.ndims)
        shape = (self.num_features,)
        scale = self.parameter("scale", self.scale_init, shape) if self.affine else None
        bias = self.parameter("bias", init.zeros, shape) if self.affine else None
        statistics = {"mean": 0.0, "var": 1.0} if self.track_running_stats else {}
        running = [self.buffer(name, value, shape) for name, value in statistics.items()]
        if train or not running:
            mean, var = self.batch_statistics(x, running)
        else:
            mean, var = (statistic.value for statistic in running)
        out, scale, bias = self.promote(x, scale, bias)
        wide = accumulator(out.dtype)
        y = (out.astype(wide) - mean.astype(wide)) / jnp.sqrt(var.astype(wide) + self.eps)
        y = y if scale is None else y * self.gain(scale) + bias
        return y.astype(out.dtype)

    @property
    def follows_train(self) -> bool:
        return self.track_running_stats

    def gain(self, scale: Array) -> Array:
        """What the normalised input is multiplied with."""
        return scale

    def batch_statistics(self, x: Array, running: list[nn.Variable]) -> tuple[Array, Array]:
        """Mean and biased variance of this batch; moves the running statistics towards them."""
        n = math.prod(x.shape[:-1])
        require(n > 1, f"{type(self).__name__}: expected more than 1 value per channel in training, got {x.shape}")
        axes = tuple(range(x.ndim - 1))
        x = x.astype(accumulator(x.dtype))
        mean = x.mean(axes)
        var = jnp.square(x - mean).mean(axes)
        if running and not self.is_initializing():
            for statistic, new in zip(running, (mean, var * (n / (n - 1))), strict=True):
                old = statistic.value
                statistic.value = ((1 - self.momentum) * old + self.momentum * new).astype(old.dtype)
        return mean, var


class BatchNorm1d(BatchNorm):
    """``torch.nn.BatchNorm1d`` on (n, c) or (n, l, c)."""

    ndims = (2, 3)


class BatchNorm2d(BatchNorm):
    """``torch.nn.BatchNorm2d`` on (n, h, w, c)."""

    ndims = (4,)


class BatchNorm3d(BatchNorm):
    """``torch.nn.BatchNorm3d`` on (n, d, h, w, c)."""

    ndims = (5,)


class FrozenBatchNorm2d(Module):
    """BatchNorm with constant statistics and affine (DETR's, torchvision's); all four leaves are in "batch_stats"."""

    num_features: int
    eps: float = 1e-5

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        self.check_channels(x, self.num_features, (4,))
        names = (("scale", 1.0), ("bias", 0.0), ("mean", 0.0), ("var", 1.0))
        leaves = [self.buffer(name, value, (self.num_features,)).value for name, value in names]
        (out,) = self.promote(x)
        scale, bias, mean, var = (leaf.astype(accumulator(out.dtype)) for leaf in leaves)
        scale = scale * lax.rsqrt(var + self.eps)
        return (out * scale + (bias - mean * scale)).astype(out.dtype)


class LayerNorm(Module):
    """Normalise over the last axis, or over channels and space together.

    Args:
        normalized_shape: torch's: ``c`` for (..., c); ``(c, *space)`` for (n, *space, c), channels first as torch has
            them, though the leaves ``scale`` and ``bias`` are stored (*space, c).
    """

    normalized_shape: int | Sequence[int]
    eps: float = 1e-5
    elementwise_affine: bool = True
    bias: bool = True

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        channels, *space = [self.normalized_shape] if isinstance(self.normalized_shape, int) else self.normalized_shape
        shape = (*space, channels)
        if x.shape[x.ndim - len(shape) :] != shape:
            raise ValueError(f"LayerNorm: expected an input that ends in {shape}, got shape {x.shape}")
        scale = self.parameter("scale", init.ones, shape) if self.elementwise_affine else None
        bias = self.parameter("bias", init.zeros, shape) if self.elementwise_affine and self.bias else None
        out, scale, bias = self.promote(x, scale, bias)
        y = standardize(out, range(x.ndim - len(shape), x.ndim), self.eps)
        y = y if scale is None else y * scale
        return (y if bias is None else y + bias).astype(out.dtype)


class GroupNorm(Module):
    """Normalise each of ``num_groups`` runs of channels over space and run together, on (n, *space, c).

    Raises ValueError when ``num_groups`` does not divide ``num_channels``.
    """

    num_groups: int
    num_channels: int
    eps: float = 1e-5
    affine: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        groups, channels = self.num_groups, self.num_channels
        require(groups >= 1 and channels % groups == 0, f"GroupNorm: {groups} groups do not divide {channels} channels")

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        self.check_channels(x, self.num_channels, range(2, 6))
        scale = self.parameter("scale", init.ones, (self.num_channels,)) if self.affine else None
        bias = self.parameter("bias", init.zeros, (self.num_channels,)) if self.affine else None
        out, scale, bias = self.promote(x, scale, bias)
        grouped = out.reshape(*x.shape[:-1], self.num_groups, -1)
        y = standardize(grouped, [*range(1, x.ndim - 1), x.ndim], self.eps).reshape(x.shape)
        return (y if scale is None else y * scale + bias).astype(out.dtype)
