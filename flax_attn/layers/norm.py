"""PyTorch's normalisations. Traps: eps 1e-5 everywhere, two-pass variance, and BatchNorm's two variances: the biased
one normalises, the unbiased one enters the running statistic, with ``momentum`` as the share of the NEW value."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from flax_attn.layers import init
from flax_attn.layers.module import Initializer, Module, accumulator, require, require_floats
from flax_attn.layers.moments import affine, moments


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def standardized(x: Array, axes: tuple[int, ...], eps: float) -> Array:
    """``standardize`` for floating point numbers that are wide enough."""
    mean, variance = moments(x, axes)
    return (x - mean) * lax.rsqrt(variance + eps)


@standardized.defjvp
def _standardized_jvp(axes: tuple[int, ...], eps: float, primals: tuple[Array], tangents: tuple[Array]) -> Any:
    """The gradient ends in a division. XLA computes that once, and not again for each later residual connection."""
    (x,), (dx,) = primals, tangents
    y, (_, variance) = standardized(x, axes, eps), moments(x, axes)
    dx = dx / jnp.sqrt(variance + eps)
    return y, dx - dx.mean(axes, keepdims=True) - y * (y * dx).mean(axes, keepdims=True)


def standardize(x: Array, axes: Sequence[int], eps: float) -> Array:
    """(x - mean) / sqrt(biased variance + eps) over ``axes``, in float32 at least."""
    x = jnp.asarray(x)
    return standardized(x.astype(accumulator(x.dtype)), tuple(axes), eps)


def std(x: Array, axes: Sequence[int]) -> Array:
    """``Tensor.std``: the unbiased deviation over ``axes``, which are kept; NaN for one element, gradient 0 at 0."""
    require_floats("std", x)
    x = jnp.asarray(x)
    n = math.prod(x.shape[axis] for axis in axes)
    wide = x.astype(accumulator(x.dtype))
    _, biased = moments(wide, tuple(axes))
    variance = biased * (n / (n - 1)) if n > 1 else jnp.full_like(biased, jnp.nan)
    return jnp.where(variance == 0, 0, jnp.sqrt(jnp.where(variance == 0, 1, variance))).astype(x.dtype)


class BatchNorm(Module):
    """What ``BatchNorm1d``, ``BatchNorm2d`` and ``BatchNorm3d`` share.

    Args:
        momentum: the share of a new batch in the running statistics. None: they are the mean over all batches so far,
            which ``num_batches_tracked`` counts; in PyTorch's state dict it has the same name.

    Leaves: ``scale`` and ``bias`` (num_features,) in "params", ``mean`` and ``var`` in "batch_stats"; with
    ``momentum=None`` also ``num_batches_tracked``.
    With ``train=True`` apply with ``mutable=["batch_stats"]``; linen raises when that is forgotten.
    Under a jit over a sharded batch the statistics are those of the whole batch (torch's SyncBatchNorm).
    Raises ValueError for another rank or width, and for one value a channel in training, as torch does.
    """

    num_features: int
    eps: float = 1e-5
    momentum: float | None = 0.1
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
        if running and self.momentum is None:
            self.buffer("num_batches_tracked", np.zeros((), int))
        if train or not running:
            mean, var = self.batch_statistics(x, running)
        else:
            mean, var = (jnp.asarray(statistic.value) for statistic in running)
        out, scale, bias = self.promote(x, scale, bias)
        wide = accumulator(out.dtype)
        mean, slope = mean.astype(wide), lax.rsqrt(var.astype(wide) + self.eps)
        slope = slope if scale is None else slope * self.gain(scale)
        return affine(out.astype(wide), mean, slope, jnp.zeros_like(mean) if bias is None else bias).astype(out.dtype)

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
        x = jnp.asarray(x)
        x = x.astype(accumulator(x.dtype))
        mean, var = (moment.squeeze(axes) for moment in moments(x, axes))
        if running and not self.is_initializing():
            momentum = self.count_batch() if self.momentum is None else self.momentum
            for statistic, new in zip(running, (mean, var * (n / (n - 1))), strict=True):
                old = statistic.value
                statistic.value = ((1 - momentum) * old + momentum * new).astype(old.dtype)
        return mean, var

    def count_batch(self) -> Array:
        """The share of this batch in the mean over all batches so far."""
        counter = jnp.asarray(self.get_variable("batch_stats", "num_batches_tracked")) + 1
        self.put_variable("batch_stats", "num_batches_tracked", counter)
        return 1 / counter.astype(float)


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


def channels_last(who: str, x: Array, normalized_shape: int | Sequence[int]) -> tuple[int, ...]:
    """The shape (*space, c) of PyTorch's ``normalized_shape``, in which x must end."""
    channels, *space = [normalized_shape] if isinstance(normalized_shape, int) else normalized_shape
    shape = (*space, channels)
    if x.shape[x.ndim - len(shape) :] != shape:
        raise ValueError(f"{who}: expected an input that ends in {shape}, got shape {x.shape}")
    return shape


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
        shape = channels_last("LayerNorm", x, self.normalized_shape)
        scale = self.parameter("scale", init.ones, shape) if self.elementwise_affine else None
        bias = self.parameter("bias", init.zeros, shape) if self.elementwise_affine and self.bias else None
        out, scale, bias = self.promote(x, scale, bias)
        y = standardize(out, range(x.ndim - len(shape), x.ndim), self.eps)
        y = y if scale is None else y * scale
        return (y if bias is None else y + bias).astype(out.dtype)


class RMSNorm(Module):
    """Divide by the root of the mean square over the last axis, or over channels and space together; no mean is taken.

    Args:
        normalized_shape: as that of ``LayerNorm``.
        eps: what is added to the mean square. None: the smallest step from 1, in the dtype of the computation.

    Leaf: ``scale``, which PyTorch calls ``weight``.
    """

    normalized_shape: int | Sequence[int]
    eps: float | None = None
    elementwise_affine: bool = True

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        shape = channels_last("RMSNorm", x, self.normalized_shape)
        scale = self.parameter("scale", init.ones, shape) if self.elementwise_affine else None
        out, scale = self.promote(x, scale)
        wide = out.astype(accumulator(out.dtype))
        eps = jnp.finfo(wide.dtype).eps if self.eps is None else self.eps
        y = wide * lax.rsqrt(jnp.square(wide).mean(range(x.ndim - len(shape), x.ndim), keepdims=True) + eps)
        return (y if scale is None else y * scale).astype(out.dtype)


class LocalResponseNorm(Module):
    """Divide each value by (k + alpha * mean square of ``size`` neighbouring channels) ** beta, on (n, *space, c).

    The neighbours are ``size // 2`` channels before, the channel itself, and the rest after; missing ones count as 0.
    """

    size: int
    alpha: float = 1e-4
    beta: float = 0.75
    k: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.size >= 1, f"LocalResponseNorm: expected size >= 1, got {self.size}")

    def __call__(self, x: Array, train: bool = False) -> Array:
        require(x.ndim >= 3, f"LocalResponseNorm: expected a channels-last input of rank 3 or more, got {x.shape}")
        (x,) = self.promote(x)
        wide = x.astype(accumulator(x.dtype))
        edges = [(0, 0)] * (x.ndim - 1) + [(self.size // 2, (self.size - 1) // 2)]
        squares = jnp.pad(jnp.square(wide), edges)
        total = sum(lax.slice_in_dim(squares, i, i + x.shape[-1], axis=x.ndim - 1) for i in range(self.size))
        return (wide / (self.k + self.alpha / self.size * total) ** self.beta).astype(x.dtype)


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
        grouped = out.reshape(*x.shape[:-1], self.num_groups, self.num_channels // self.num_groups)
        y = standardize(grouped, [*range(1, x.ndim - 1), x.ndim], self.eps).reshape(x.shape)
        return (y if scale is None else y * scale + bias).astype(out.dtype)
