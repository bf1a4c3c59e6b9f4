"""``torch.nn.functional.affine_grid`` and ``grid_sample`` for images (n, h, w, c). Trap: ``align_corners`` is False by
default, as in torch since 1.3; networks trained before need True."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from flax_attn.layers.module import accumulator, require, require_floats


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
    require(min(size) >= 1, f"affine_grid: expected a size of positive ints, got {tuple(size)}")
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
    left, top = jnp.floor(px), jnp.floor(py)
    u, v = (px - left)[..., None], (py - top)[..., None]
    upper = _pixel(x, top, left) * (1 - u) + _pixel(x, top, left + 1) * u
    lower = _pixel(x, top + 1, left) * (1 - u) + _pixel(x, top + 1, left + 1) * u
    return (upper * (1 - v) + lower * v).astype(x.dtype)


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
