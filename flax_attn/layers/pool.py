"""``torch.nn.functional``'s pooling. Traps: adaptive windows may overlap; a tied maximum's gradient goes to the first.

All pool one axis after another, for maxima and sums separate. Windows are shifted strided slices: on a CPU their
gradient is much faster than that of ``lax.reduce_window``, which also has none for a dilated window. A TPU takes
``lax.reduce_window`` for maxima: the slices move more bytes there."""

import functools
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from flax_attn.layers.conv import Ints, ntuple
from flax_attn.layers.module import Module, accumulator, require, require_floats

Sizes = int | Sequence[int | None] | None


def max_pool(
    x: Array,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
) -> Array:
    """The maximum of each window of (n, *space, c), with one to three axes of space; NaN wins.

    Args:
        stride: None for ``kernel_size``.
        ceil_mode: let a window that starts inside the input or its left padding reach over the right edge.
    """
    x = jnp.asarray(x)
    windows = list(_windows("max_pool", x, kernel_size, stride, padding, dilation, ceil_mode))

    def by_axis(x: Array) -> Array:
        for axis, *window in windows:
            x = functools.reduce(_first_maximum, _taps(x, _lowest(x), axis, *window))
        return x

    if not jnp.issubdtype(x.dtype, jnp.floating) or any(dilation > 1 for *_, dilation, _ in windows):
        return by_axis(x)
    return lax.platform_dependent(x, tpu=lambda x: _window_maximum(x, windows), default=by_axis)


def avg_pool(
    x: Array,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Array:
    """The mean of each window of (n, *space, c), with one to three axes of space; summed in float32 at least.

    Args:
        stride: None for ``kernel_size``.
        ceil_mode: let a window that starts inside the input or its left padding reach over the right edge.
        count_include_pad: divide by the size of the window within the padded input, not within the input.
        divisor_override: divide by this instead.
    """
    require(divisor_override != 0, "avg_pool: expected divisor_override other than 0, got 0")
    require_floats("avg_pool", x)
    x = jnp.asarray(x)
    dtype, divisor = x.dtype, np.ones(())
    x = x.astype(accumulator(dtype))
    for axis, kernel, stride_, pad, _, out in _windows("avg_pool", x, kernel_size, stride, padding, 1, ceil_mode):
        edge = pad if count_include_pad else 0
        start = np.arange(out) * stride_ - pad
        count = np.minimum(start + kernel, x.shape[axis] + edge) - np.maximum(start, -edge)
        divisor = np.multiply.outer(count, divisor)
        x = functools.reduce(operator.add, _taps(x, 0, axis, kernel, stride_, pad, 1, out))
    return (x / jnp.asarray(divisor_override or divisor[..., None], x.dtype)).astype(dtype)


def adaptive_avg_pool(x: Array, output_size: Sizes) -> Array:
    """The mean over windows [floor(i*n/s), ceil((i+1)*n/s)) on every axis of (n, *space, c), in float32 at least.

    Args:
        output_size: s for all axes or for each; None keeps an axis as it is; s may be larger than n.
    """
    require_floats("adaptive_avg_pool", x)
    x = jnp.asarray(x)
    wide = x.astype(accumulator(x.dtype))
    return _adaptive("adaptive_avg_pool", wide, output_size, jnp.mean).astype(x.dtype)


def adaptive_max_pool(x: Array, output_size: Sizes) -> Array:
    """As ``adaptive_avg_pool`` with the maximum; NaN wins."""
    return _adaptive("adaptive_max_pool", jnp.asarray(x), output_size, _maximum)


def _windows(
    who: str, x: Array, kernel_size: Ints, stride: Ints | None, padding: Ints, dilation: Ints, ceil_mode: bool
) -> Iterator[tuple[int, ...]]:
    """(axis, kernel, stride, padding, dilation, output length) of each axis of space, last first."""
    space = _space(who, x)
    rows = _geometry(who, len(space), kernel_size, stride, padding, dilation)
    for axis, (k, s, p, d) in zip(space, reversed(rows), strict=True):
        room = x.shape[axis] + 2 * p - d * (k - 1) - 1
        out = (-(-room // s) if ceil_mode else room // s) + 1
        if ceil_mode and (out - 1) * s >= x.shape[axis] + p:
            out -= 1
        require(out >= 1, f"{who}: expected an input that holds a window of {d * (k - 1) + 1}, got shape {x.shape}")
        yield axis, k, s, p, d, out


def _space(who: str, x: Array) -> range:
    """The axes of space, last first: so the first of equal maxima is that of the window in row-major order."""
    require(3 <= x.ndim <= 5, f"{who}: expected a channels-last input of rank 3, 4 or 5, got shape {x.shape}")
    return range(x.ndim - 2, 0, -1)


def _geometry(
    who: str, axes: int, kernel_size: Ints, stride: Ints | None, padding: Ints, dilation: Ints = 1
) -> list[tuple[int, ...]]:
    """(kernel, stride, padding, dilation) of each axis."""
    stride = kernel_size if stride is None else stride
    named = dict(kernel_size=kernel_size, stride=stride, padding=padding, dilation=dilation)
    rows = list(zip(*(ntuple(value, axes, f"{who} {name}") for name, value in named.items()), strict=True))
    for k, s, p, d in rows:
        require(min(k, s, d) >= 1, f"{who}: expected kernel_size, stride and dilation >= 1, got {k}, {s}, {d}")
        require(0 <= p <= k // 2, f"{who}: expected padding from 0 to half of kernel_size={k}, got {p}")
    return rows


def _sizes(who: str, axes: int, output_size: Sizes) -> tuple[int | None, ...]:
    sizes = (output_size,) * axes if output_size is None or isinstance(output_size, int) else tuple(output_size)
    require(len(sizes) == axes, f"{who}: expected one output_size or {axes}, got {output_size}")
    require(all(size is None or size >= 1 for size in sizes), f"{who}: expected output_size >= 1, got {output_size}")
    return sizes


def _taps(
    x: Array, fill: int | float, axis: int, kernel: int, stride: int, padding: int, dilation: int, out: int
) -> list[Array]:
    """The first, second, ... element of all ``out`` windows along ``axis``.

    Each is cut out of x before it is padded, so that no padded copy of x is made.
    """
    taps = []
    for offset in range(-padding, kernel * dilation - padding, dilation):
        first = min(max(0, -(offset // stride)), out)
        last = max(min(out, (x.shape[axis] - 1 - offset) // stride + 1), first)
        start = min(max(0, offset + first * stride), x.shape[axis])
        end = min(start + max(0, (last - first - 1) * stride + 1), x.shape[axis]) if last > first else start
        tap = lax.slice_in_dim(x, start, end, stride, axis)
        pads = [(first, out - last, 0) if i == axis else (0, 0, 0) for i in range(x.ndim)]
        taps.append(lax.pad(tap, jnp.asarray(fill, x.dtype), pads) if first or last < out else tap)
    return taps


def _window_maximum(x: Array, windows: Sequence[tuple[int, ...]]) -> Array:
    """The maxima of windows without dilation, all axes at once."""
    lengths, strides, pads = [1] * x.ndim, [1] * x.ndim, [(0, 0)] * x.ndim
    for axis, kernel, stride, padding, _, out in windows:
        missing = (out - 1) * stride + kernel - x.shape[axis] - padding
        lengths[axis], strides[axis], pads[axis] = kernel, stride, (padding, max(0, missing))
    return lax.reduce_window(x, -jnp.inf, lax.max, lengths, strides, pads)


def _lowest(x: Array) -> int | float:
    return -jnp.inf if jnp.issubdtype(x.dtype, jnp.inexact) else jnp.iinfo(x.dtype).min


def _first_maximum(a: Array, b: Array) -> Array:
    return jnp.where((b > a) | (b != b), b, a)


def _maximum(x: Array, axis: int) -> Array:
    """The maximum over ``axis``; its gradient goes to the first of equals."""
    return _highest(x, axis) if jnp.issubdtype(x.dtype, jnp.inexact) else x.max(axis)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _highest(x: Array, axis: int) -> Array:
    return x.max(axis)


@_highest.defjvp
def _highest_jvp(axis: int, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    """The tangent at the first maximum, or at the last NaN: those count as -1 and below, and the lowest place wins."""
    (x,), (dx,) = primals, tangents
    y = _highest(x, axis)
    place = jnp.zeros_like(x, jnp.int32) + lax.broadcasted_iota(jnp.int32, x.shape, axis)
    top = jnp.where(x == jnp.expand_dims(y, axis), place, x.shape[axis])
    chosen = jnp.where(x != x, -1 - place, top).min(axis, keepdims=True)
    chosen = jnp.where(chosen < 0, -1 - chosen, chosen)
    return y, jnp.where(place == chosen, dx, 0).sum(axis)


def _adaptive(who: str, x: Array, output_size: Sizes, pool: Callable[..., Array]) -> Array:
    space = _space(who, x)
    for axis, size in zip(space, reversed(_sizes(who, len(space), output_size)), strict=True):
        if size is not None:
            x = jnp.concatenate([pool(part, axis=axis + 1) for part in _parts(x, axis, size)], axis)
    return x


def _parts(x: Array, axis: int, size: int) -> list[Array]:
    """The ``size`` adaptive windows along ``axis``, as arrays with axes (windows, elements) in its place."""
    n = x.shape[axis]
    if n % size == 0:
        return [x.reshape(*x.shape[:axis], size, n // size, *x.shape[axis + 1 :])]
    bounds = [(i * n // size, -(-(i + 1) * n // size)) for i in range(size)]
    return [jnp.expand_dims(lax.slice_in_dim(x, low, high, axis=axis), axis) for low, high in bounds]


class _Pool(Module):
    spatial: ClassVar[int]

    def check_rank(self, x: Array) -> None:
        expected = f"{type(self).__name__}: expected a channels-last input of rank {self.spatial + 2}"
        require(x.ndim == self.spatial + 2, f"{expected}, got shape {x.shape}")


class MaxPool(_Pool):
    """What ``MaxPool1d``, ``MaxPool2d`` and ``MaxPool3d`` share: see ``max_pool``."""

    kernel_size: Ints
    stride: Ints | None = None
    padding: Ints = 0
    dilation: Ints = 1
    return_indices: bool = False
    ceil_mode: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        who = type(self).__name__
        require(not self.return_indices, f"{who}: expected return_indices=False, got True")
        _geometry(who, self.spatial, self.kernel_size, self.stride, self.padding, self.dilation)

    def __call__(self, x: Array, train: bool = False) -> Array:
        self.check_rank(x)
        return max_pool(x, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode)


class AvgPool(_Pool):
    """What ``AvgPool1d``, ``AvgPool2d`` and ``AvgPool3d`` share: see ``avg_pool``."""

    kernel_size: Ints
    stride: Ints | None = None
    padding: Ints = 0
    ceil_mode: bool = False
    count_include_pad: bool = True
    divisor_override: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _geometry(type(self).__name__, self.spatial, self.kernel_size, self.stride, self.padding)

    def __call__(self, x: Array, train: bool = False) -> Array:
        self.check_rank(x)
        window = (self.kernel_size, self.stride, self.padding, self.ceil_mode)
        return avg_pool(x, *window, self.count_include_pad, self.divisor_override)


class AdaptiveAvgPool(_Pool):
    """What ``AdaptiveAvgPool1d``, ``AdaptiveAvgPool2d`` and ``AdaptiveAvgPool3d`` share: see ``adaptive_avg_pool``."""

    output_size: Sizes

    def __post_init__(self) -> None:
        super().__post_init__()
        _sizes(type(self).__name__, self.spatial, self.output_size)

    def __call__(self, x: Array, train: bool = False) -> Array:
        self.check_rank(x)
        return adaptive_avg_pool(x, self.output_size)


class AdaptiveMaxPool(_Pool):
    """What ``AdaptiveMaxPool1d``, ``AdaptiveMaxPool2d`` and ``AdaptiveMaxPool3d`` share: see ``adaptive_max_pool``."""

    output_size: Sizes
    return_indices: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require(not self.return_indices, f"{type(self).__name__}: expected return_indices=False, got True")
        _sizes(type(self).__name__, self.spatial, self.output_size)

    def __call__(self, x: Array, train: bool = False) -> Array:
        self.check_rank(x)
        return adaptive_max_pool(x, self.output_size)


class MaxPool1d(MaxPool):
    """``torch.nn.MaxPool1d`` on (n, l, c)."""

    spatial = 1


class MaxPool2d(MaxPool):
    """``torch.nn.MaxPool2d`` on (n, h, w, c)."""

    spatial = 2


class MaxPool3d(MaxPool):
    """``torch.nn.MaxPool3d`` on (n, d, h, w, c)."""

    spatial = 3


class AvgPool1d(AvgPool):
    """``torch.nn.AvgPool1d`` on (n, l, c)."""

    spatial = 1


class AvgPool2d(AvgPool):
    """``torch.nn.AvgPool2d`` on (n, h, w, c)."""

    spatial = 2


class AvgPool3d(AvgPool):
    """``torch.nn.AvgPool3d`` on (n, d, h, w, c)."""

    spatial = 3


class AdaptiveAvgPool1d(AdaptiveAvgPool):
    """``torch.nn.AdaptiveAvgPool1d`` on (n, l, c)."""

    spatial = 1


class AdaptiveAvgPool2d(AdaptiveAvgPool):
    """``torch.nn.AdaptiveAvgPool2d`` on (n, h, w, c)."""

    spatial = 2


class AdaptiveAvgPool3d(AdaptiveAvgPool):
    """``torch.nn.AdaptiveAvgPool3d`` on (n, d, h, w, c)."""

    spatial = 3


class AdaptiveMaxPool1d(AdaptiveMaxPool):
    """``torch.nn.AdaptiveMaxPool1d`` on (n, l, c)."""

    spatial = 1


class AdaptiveMaxPool2d(AdaptiveMaxPool):
    """``torch.nn.AdaptiveMaxPool2d`` on (n, h, w, c)."""

    spatial = 2


class AdaptiveMaxPool3d(AdaptiveMaxPool):
    """``torch.nn.AdaptiveMaxPool3d`` on (n, d, h, w, c)."""

    spatial = 3
