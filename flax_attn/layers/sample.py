"""``torch.nn.functional.affine_grid`` and ``grid_sample`` for images (n, h, w, c). Trap: ``align_corners`` is False by
default, as in torch since 1.3; networks trained before need True."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from flax_attn.layers.module import accumulator, require, require_floats

AT_ONCE = 2**19
"""How many numbers of pixels the gradient of ``grid_sample`` gathers at one time on a CPU."""


def affine_grid(theta: Array, size: Sequence[int], align_corners: bool = False) -> Float[Array, "n h w 2"]:
    """Where the pixels of an image come from under ``theta``: (x, y) @ theta[:, :, :2].T + theta[:, :, 2].

    Args:
        theta: (n, 2, 3); its rows and first two columns are in the order x, y.
        size: the image's (n, h, w, c).
        align_corners: whether -1 and 1 are the centres of the outermost pixels or (by default) their outer edges.
    """
    require(len(size) == 4, f"affine_grid: expected a size (n, h, w, c), got {tuple(size)}")
    shape = (size[0], 2, 3)
    require(theta.shape == shape, f"affine_grid: expected theta of shape {shape} for size {size}, got {theta.shape}")
    require(all(length >= 1 for length in size), f"affine_grid: expected a size of positive ints, got {tuple(size)}")
    require_floats("affine_grid", theta)
    theta = jnp.asarray(theta)
    wide = theta.astype(accumulator(theta.dtype))[:, None, None]  # (n, 1, 1, 2, 3)
    y, x = (((2 * np.arange(n) + 1 - n) / max(1, n - align_corners)).astype(wide.dtype) for n in size[1:3])
    return (x[:, None] * wide[..., 0] + y[:, None, None] * wide[..., 1] + wide[..., 2]).astype(theta.dtype)


def grid_sample(
    x: Array, grid: Array, mode: str = "bilinear", padding_mode: str = "zeros", align_corners: bool = False
) -> Float[Array, "n p q c"]:
    """The pixels of x (n, h, w, c) at the places ``grid`` (n, p, q, 2), given as (x, y) from -1 to 1.

    Args:
        mode: "bilinear", or "nearest" with ties to the even pixel.
        padding_mode: beyond the edge lie "zeros", the "border" pixel or the "reflection" of the image.
        align_corners: whether -1 and 1 are the centres of the outermost pixels or (by default) their outer edges.
    """
    _check(x, grid, mode, padding_mode)
    require_floats("grid_sample", x, grid)
    x, grid = jnp.asarray(x), jnp.asarray(grid)
    wide = grid.astype(accumulator(grid.dtype))
    sizes = (x.shape[2], x.shape[1])
    px, py = (_position(wide[..., i], sizes[i], padding_mode, align_corners) for i in range(2))
    if mode == "nearest":
        return _pixel(x, jnp.round(py), jnp.round(px))
    return _sample(x, py, px)


def _bilinear(x: Array, py: Array, px: Array) -> Array:
    left, top = jnp.floor(px), jnp.floor(py)
    u, v = (px - left)[..., None], (py - top)[..., None]
    upper = _pixel(x, top, left) * (1 - u) + _pixel(x, top, left + 1) * u
    lower = _pixel(x, top + 1, left) * (1 - u) + _pixel(x, top + 1, left + 1) * u
    return (upper * (1 - v) + lower * v).astype(x.dtype)


_sample = jax.custom_jvp(_bilinear)


@_sample.defjvp
def _tangent(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> tuple[Array, Array]:
    """The derivative. On a CPU, windows of 2x2 pixels are faster than single pixels, but not with a single channel."""
    x, py, _ = primals
    forms: dict[str, Any] = dict(default=_tangent_of_pixels)
    if x.size and py.size and x.shape[3] > 1:
        forms["cpu"] = _tangent_of_windows
    return _sample(*primals), lax.platform_dependent(*primals, *tangents, **forms)


def _tangent_of_pixels(x: Array, py: Array, px: Array, *tangents: Array) -> Array:
    return jax.jvp(_bilinear, (x, py, px), tangents)[1]


def _tangent_of_windows(x: Array, py: Array, *others: Array) -> Array:
    """The tangent, a few samples at a time."""
    n, p, q = py.shape
    count = max(1, AT_ONCE // (4 * p * q * x.shape[3]))
    return lax.map(jax.checkpoint(_tangent_of_one), (x, py, *others), batch_size=min(n, count))


def _tangent_of_one(arrays: tuple[Array, ...]) -> Array:
    x, py, px, dx, dpy, dpx = arrays
    top, left = jnp.floor(py), jnp.floor(px)
    weights, change = jax.jvp(_weights, (py - top, px - left), (dpy, dpx))
    from_x = (_window(dx, top, left) * weights[..., None]).sum((2, 3))
    from_place = jnp.einsum("pqabc,pqab->pqc", _window(x, top, left), change)
    return (from_x + from_place).astype(x.dtype)


def _weights(v: Array, u: Array) -> Float[Array, "p q 2 2"]:
    return jnp.stack([1 - v, v], -1)[..., None] * jnp.stack([1 - u, u], -1)[..., None, :]


def _window(x: Float[Array, "h w c"], top: Array, left: Array) -> Float[Array, "p q 2 2 c"]:
    """The 2x2 pixels from x[top, left] on, zero outside the image."""
    h, w, c = x.shape
    corner = [jnp.clip(jnp.nan_to_num(i, nan=-2), -2, n).astype(int) + 2 for i, n in ((top, h), (left, w))]
    numbers = lax.GatherDimensionNumbers(offset_dims=(2, 3, 4), collapsed_slice_dims=(), start_index_map=(0, 1))
    padded = jnp.pad(x, ((2, 2), (2, 2), (0, 0)))
    return lax.gather(padded, jnp.stack(corner, -1), numbers, (2, 2, c), mode="promise_in_bounds")


def _check(x: Array, grid: Array, mode: str, padding_mode: str) -> None:
    require(x.ndim == 4, f"grid_sample: expected an input (n, h, w, c), got shape {x.shape}")
    fits = grid.ndim == 4 and grid.shape[0] == x.shape[0] and grid.shape[3] == 2
    require(fits, f"grid_sample: expected a grid ({x.shape[0]}, p, q, 2) for {x.shape}, got shape {grid.shape}")
    require(min(x.shape[1:]) >= 1, f"grid_sample: expected an input with pixels, got shape {x.shape}")
    for name, given, known in (
        ("mode", mode, ("bilinear", "nearest")),
        ("padding_mode", padding_mode, ("zeros", "border", "reflection")),
    ):
        require(given in known, f"grid_sample: expected a {name} of {', '.join(known)}, got {given!r}")


def _position(coordinate: Array, n: int, padding_mode: str, align_corners: bool) -> Array:
    """The place among ``n`` pixels of a coordinate from -1 to 1."""
    position = (coordinate + 1) / 2 * (n - 1) if align_corners else ((coordinate + 1) * n - 1) / 2
    if padding_mode == "zeros":
        return position
    if padding_mode == "reflection":
        position = _reflect(position, 0.0, n - 1.0) if align_corners else _reflect(position, -0.5, n - 0.5)
    return jnp.where(position >= n - 1, n - 1, jnp.where(position > 0, position, 0))


def _reflect(position: Array, low: float, high: float) -> Array:
    if low == high:
        return jnp.zeros_like(position)
    span = high - low
    distance = jnp.where(position < low, low - position, position - low)
    extra, flips = jnp.fmod(distance, span), jnp.floor(distance / span)
    return low + jnp.where(flips % 2 == 0, extra, span - extra)


def _pixel(x: Array, row: Array, column: Array) -> Array:
    """x[i, row, column] of each sample i, zero outside the image; no gradient flows to the place."""
    _, h, w, _ = x.shape
    sample = jnp.arange(x.shape[0])[:, None, None]
    row, column = (jnp.clip(jnp.nan_to_num(place, nan=-1), -1, n).astype(int) for place, n in ((row, h), (column, w)))
    return x.at[sample, row, column].get(mode="fill", fill_value=0, wrap_negative_indices=False)
