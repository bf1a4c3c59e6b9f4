"""``torch.nn.functional.interpolate``. Traps: ``jax.image.resize`` antialiases, knows no ``align_corners``, and its
"nearest" is torch's "nearest-exact".

Status: where torch's own kernels round the nearest pixel differently (float64 and "nearest-exact" on CPU), this is
the float32 rule of its CUDA kernels and of its CPU kernel for small images.
"""

import functools
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from flax_attn.layers.conv import Ints
from flax_attn.layers.module import Module, accumulator, require, require_floats

Floats = int | float | Sequence[int | float]
Taps = tuple[np.ndarray, np.ndarray]

TAPS = 48
"""Where an input pixel is in more output pixels of an axis, the gradient along the axis is a matrix product."""


def interpolate(
    x: Array,
    size: Ints | None = None,
    scale_factor: Floats | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    antialias: bool = False,
) -> Array:
    """Resize the axes of space of (n, *space, c).

    Args:
        size: output length of every axis of space, or of each. Either this or ``scale_factor``.
        scale_factor: gives floor(n * scale_factor) pixels, 1/scale_factor apart in the input.
        mode: "nearest", "nearest-exact", "linear" (rank 3), "bilinear", "bicubic" (rank 4) or "trilinear" (rank 5).
        align_corners: whether the centres of the corner pixels coincide, or (by default) their outer corners.
        antialias: average over all that an output pixel covers, as PIL does; for "bilinear" and "bicubic".
    """
    _check("interpolate", size, scale_factor, mode, align_corners)
    smooth = not antialias or mode in FILTERS
    require(smooth, f"interpolate: expected antialias=False or a mode of {', '.join(FILTERS)}, got {mode!r}")
    ranks = _MODES[mode].ranks
    expected = f"interpolate: expected a channels-last input of rank {' or '.join(map(str, ranks))} for mode {mode!r}"
    require(x.ndim in ranks, f"{expected}, got shape {x.shape}")
    if not mode.startswith("nearest"):
        require_floats(f"interpolate in mode {mode!r}", x)
    x = jnp.asarray(x)
    wide = x if mode.startswith("nearest") else x.astype(accumulator(x.dtype))
    for axis, out, ratio in _lengths(x, size, scale_factor):
        if antialias:
            wide = _mix(wide, axis, antialias_weights(x.shape[axis], out, mode, align_corners or False, ratio))
            continue
        position = _positions(x.shape[axis], out, ratio, mode, align_corners or False, wide.dtype)
        wide = _resample(wide, axis, *_MODES[mode].taps(position, x.shape[axis]))
    return wide.astype(x.dtype)


def _check(who: str, size: Ints | None, scale: Floats | None, mode: str, align_corners: bool | None) -> None:
    require(mode in _MODES, f"{who}: expected a mode of {', '.join(_MODES)}, got {mode!r}")
    one = (size is None) != (scale is None)
    require(one, f"{who}: expected size or scale_factor, got size={size} and scale_factor={scale}")
    centred = align_corners is None or not mode.startswith("nearest")
    require(centred, f"{who}: expected align_corners=None for mode {mode!r}, got {align_corners}")


def _lengths(x: Array, size: Ints | None, scale_factor: Floats | None) -> Iterator[tuple[int, int, int | float | None]]:
    """(axis, output length, scale factor or None) of each axis of space, last first: its gradient is faster so."""
    given: Any = scale_factor if size is None else size
    values = [given] * (x.ndim - 2) if isinstance(given, int | float) else list(given)
    require(len(values) == x.ndim - 2, f"interpolate: expected one number or {x.ndim - 2}, got {given}")
    for axis, value in reversed(list(enumerate(values, 1))):
        out = int(x.shape[axis] * value) if size is None else int(value)
        wanted = "interpolate: expected at least one pixel of input and output"
        require(min(out, x.shape[axis]) >= 1, f"{wanted}, got {given} for shape {x.shape}")
        yield axis, out, value if size is None else None


def _positions(n: int, out: int, ratio: int | float | None, mode: str, align_corners: bool, dtype: Any) -> np.ndarray:
    """Where each output pixel lies among ``n`` input pixels, in torch's arithmetic: float32 unless x is float64."""
    real: Any = np.float64 if dtype == jnp.float64 and not mode.startswith("nearest") else np.float32
    i = np.arange(out, dtype=real)
    if align_corners:
        return i * (real(n - 1) / real(max(out - 1, 1)))
    scale = real(n) / real(out) if ratio is None or out / n in _MODES[mode].snaps else real(1 / ratio)
    if mode == "nearest":
        return i * scale
    return (i + real(0.5)) * scale - real(0 if mode == "nearest-exact" else 0.5)


def _nearest(position: np.ndarray, n: int) -> Taps:
    return _floor(position, n)[None], np.ones((1, len(position)))


def _linear(position: np.ndarray, n: int) -> Taps:
    position = np.maximum(position, 0)
    low = _floor(position, n)
    t = np.clip(position - low, 0, 1)
    return np.stack([low, np.minimum(low + 1, n - 1)]), np.stack([1 - t, t])


def _cubic(position: np.ndarray, n: int) -> Taps:
    low = _floor(position, n)
    t = np.clip(position - low, 0, 1)
    taps = np.clip(low + np.arange(-1, 3)[:, None], 0, n - 1)
    return taps, np.stack([_keys(1 + t), _keys(t), _keys(1 - t), _keys(2 - t)])


def antialias_weights(
    n: int, out: int, mode: str, align_corners: bool = False, ratio: int | float | None = None
) -> np.ndarray:
    """(out, n): how much of each of ``n`` pixels goes into each of ``out``, for "bilinear" and "bicubic"."""
    scale = (n - 1) * (out > 1) / max(out - 1, 1) if align_corners else 1 / ratio if ratio else n / out
    centre = scale * (np.arange(out)[:, None] + 0.5)
    weights = FILTERS[mode](np.abs(np.arange(n) + 0.5 - centre) / max(scale, 1))
    return weights / weights.sum(1, keepdims=True)


def _mix(x: Array, axis: int, weights: np.ndarray) -> Array:
    """Every output pixel of ``axis`` as its own mixture of all."""
    mixed = jnp.tensordot(jnp.asarray(weights, x.dtype), x, (1, axis), precision="highest")
    return jnp.moveaxis(mixed, 0, axis)


def _keys(d: np.ndarray, a: float = -0.75) -> np.ndarray:
    """Keys' cubic kernel at distance 0 <= d <= 2."""
    return np.where(d <= 1, ((a + 2) * d - (a + 3)) * d * d + 1, ((a * d - 5 * a) * d + 8 * a) * d - 4 * a)


def _floor(position: np.ndarray, n: int) -> np.ndarray:
    return np.minimum(np.floor(position).astype(int), n - 1)


FILTERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "bilinear": lambda d: np.maximum(1 - d, 0),
    "bicubic": lambda d: np.where(d < 2, _keys(d, -0.5), 0),
}
"""The kernels of antialiased resizing, by distance; the cubic one is PIL's, not that of the mode without antialias."""


class _Mode(NamedTuple):
    """Taps of one axis; ranks it takes; enlargements at which torch ignores the scale factor that led to them."""

    taps: Callable[[np.ndarray, int], Taps]
    ranks: tuple[int, ...] = (3, 4, 5)
    snaps: tuple[int, ...] = ()


_MODES = {
    "nearest": _Mode(_nearest, snaps=(1, 2)),
    "nearest-exact": _Mode(_nearest),
    "linear": _Mode(_linear, (3,), (1,)),
    "bilinear": _Mode(_linear, (4,), (1,)),
    "trilinear": _Mode(_linear, (5,), (1,)),
    "bicubic": _Mode(_cubic, (4,)),
}


def _resample(x: Array, axis: int, index: np.ndarray, weight: np.ndarray) -> Array:
    """The sum over t of ``weight[t] * x[index[t]]`` along ``axis``.

    The gradient that JAX derives adds one pixel after another to an array of zeros, which is slow. Here the gradient is
    a sum like this one: each input pixel reads the output pixels that it is part of. The tangent is its transpose.
    """
    if not jnp.issubdtype(x.dtype, jnp.inexact) or any(jax.typeof(x).sharding.spec):
        return _mixture(x, axis, index, weight)
    resample = jax.custom_jvp(lambda x: _mixture(x, axis, index, weight))
    gradient = _gradient(x.shape[axis], axis, index, weight)

    @resample.defjvp
    def tangent(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
        y = resample(*primals)
        return y, jax.linear_transpose(gradient, y)(*tangents)[0]

    return resample(x)


def _mixture(x: Array, axis: int, index: np.ndarray, weight: np.ndarray) -> Array:
    """As ``_resample``, with 0 for an index that is too large."""
    column = (-1,) + (1,) * (x.ndim - axis - 1)
    terms = [
        jnp.take(x, i, axis, fill_value=0) * w.reshape(column).astype(x.dtype)
        for i, w in zip(index, weight, strict=True)
    ]
    return functools.reduce(operator.add, terms)


def _gradient(n: int, axis: int, index: np.ndarray, weight: np.ndarray) -> Callable[[Array], Array]:
    """What maps the cotangent of ``_mixture`` to that of its input, whose ``axis`` has ``n`` pixels."""
    length = index.shape[1]
    pairs, place = np.unique(index * length + np.arange(length), return_inverse=True)
    pixel, out = np.divmod(pairs, length)
    share = np.bincount(place.ravel(), weight.ravel())
    nth = np.arange(len(pixel)) - np.searchsorted(pixel, pixel)
    if max(nth) >= TAPS:
        dense = np.zeros((n, length))
        dense[pixel, out] = share
        return lambda ct: _mix(ct, axis, dense)
    taps, weights = np.full((max(nth) + 1, n), length), np.zeros((max(nth) + 1, n))
    taps[nth, pixel], weights[nth, pixel] = out, share
    return lambda ct: _mixture(ct, axis, taps, weights)


class Upsample(Module):
    """``torch.nn.Upsample``: see ``interpolate``.

    Args:
        recompute_scale_factor: use ``scale_factor`` for the size of the output only; the distance of the output pixels
            in the input then follows from the two sizes.
    """

    size: Ints | None = None
    scale_factor: Floats | None = None
    mode: str = "nearest"
    align_corners: bool | None = None
    recompute_scale_factor: bool | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check("Upsample", self.size, self.scale_factor, self.mode, self.align_corners)
        possible = self.size is None or not self.recompute_scale_factor
        require(possible, "Upsample: expected recompute_scale_factor=None with size, got True")

    def __call__(self, x: Array, train: bool = False) -> Array:
        size, scale_factor = self.size, self.scale_factor
        if self.recompute_scale_factor:
            lengths = sorted(_lengths(x, None, scale_factor), key=lambda row: row[0])
            size, scale_factor = [out for _, out, _ in lengths], None
        return interpolate(x, size, scale_factor, self.mode, self.align_corners)


class UpsamplingBilinear2d(Module):
    """``torch.nn.UpsamplingBilinear2d``: bilinear with ``align_corners=True`` on (n, h, w, c)."""

    size: Ints | None = None
    scale_factor: Floats | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check("UpsamplingBilinear2d", self.size, self.scale_factor, "bilinear", True)

    def __call__(self, x: Array, train: bool = False) -> Array:
        return interpolate(x, self.size, self.scale_factor, "bilinear", align_corners=True)
