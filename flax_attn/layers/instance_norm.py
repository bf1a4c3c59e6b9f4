"""``torch.nn.InstanceNormNd``. Traps: no parameters and no running statistics by default; a running statistic is the
mean over the batch of what each sample would give."""

import math
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from flax_attn.layers import init
from flax_attn.layers.module import Module, accumulator, require
from flax_attn.layers.moments import affine, moments


class InstanceNorm(Module):
    """What ``InstanceNorm1d``, ``InstanceNorm2d`` and ``InstanceNorm3d`` share: normalise each channel of each sample.

    Args:
        momentum: the share of a new batch in the running statistics. None: they stay as they are, as in PyTorch.
        track_running_stats: keep running statistics, and normalise with them unless ``train=True``.

    Leaves: with ``affine``, ``scale`` and ``bias`` (num_features,) in "params"; with ``track_running_stats``, ``mean``
    and ``var`` in "batch_stats".
    Raises ValueError for another rank or width, and for one value a channel unless running statistics are used.
    """

    num_features: int
    eps: float = 1e-5
    momentum: float | None = 0.1
    affine: bool = False
    track_running_stats: bool = False

    spatial: ClassVar[int]

    def __post_init__(self) -> None:
        super().__post_init__()
        who = type(self).__name__
        require(self.num_features >= 1, f"{who}: expected num_features >= 1, got {self.num_features}")

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        self.check_channels(x, self.num_features, [self.spatial + 2])
        shape = (self.num_features,)
        scale = self.parameter("scale", init.ones, shape) if self.affine else None
        bias = self.parameter("bias", init.zeros, shape) if self.affine else None
        statistics = {"mean": 0.0, "var": 1.0} if self.track_running_stats else {}
        running = [self.buffer(name, value, shape) for name, value in statistics.items()]
        out, scale, bias = self.promote(x, scale, bias)
        wide = out.astype(accumulator(out.dtype))
        if train or not running:
            mean, var = self.instance_statistics(wide, running)
        else:
            mean, var = (jnp.asarray(statistic.value, wide.dtype) for statistic in running)
        slope = lax.rsqrt(var + self.eps) if scale is None else lax.rsqrt(var + self.eps) * scale
        return affine(wide, mean, slope, jnp.zeros_like(mean) if bias is None else bias).astype(out.dtype)

    @property
    def follows_train(self) -> bool:
        return self.track_running_stats

    def instance_statistics(self, x: Array, running: list[nn.Variable]) -> tuple[Array, Array]:
        """Mean and biased variance (n, 1, ..., c) of each sample; moves the running statistics towards them."""
        n, axes = math.prod(x.shape[1:-1]), tuple(range(1, x.ndim - 1))
        require(n > 1, f"{type(self).__name__}: expected more than 1 value per channel of a sample, got {x.shape}")
        mean, var = moments(x, axes)
        if running and self.momentum is not None and not self.is_initializing():
            for statistic, new in zip(running, (mean, var * (n / (n - 1))), strict=True):
                old, batch = statistic.value, new.reshape(len(new), -1).mean(0)
                statistic.value = ((1 - self.momentum) * old + self.momentum * batch).astype(old.dtype)
        return mean, var


class InstanceNorm1d(InstanceNorm):
    """``torch.nn.InstanceNorm1d`` on (n, l, c)."""

    spatial = 1


class InstanceNorm2d(InstanceNorm):
    """``torch.nn.InstanceNorm2d`` on (n, h, w, c)."""

    spatial = 2


class InstanceNorm3d(InstanceNorm):
    """``torch.nn.InstanceNorm3d`` on (n, d, h, w, c)."""

    spatial = 3
