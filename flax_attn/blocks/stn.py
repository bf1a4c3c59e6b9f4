"""Spatial Transformer Networks - Jaderberg, Simonyan, Zisserman, Kavukcuoglu 2015, https://arxiv.org/abs/1506.02025

Status: fxia22/stn.pytorch, and pytorch/tutorials for ``SpatialTransformer``. Upstream's places and affine matrices are
in the order (y, x), the tutorial's in (x, y). Upstream's base grid of H rows lies at -1 + 2i/H and never reaches 1,
while its sampler has -1 and 1 at the centres of the outermost pixels; numpy's arange, from which upstream builds it,
makes a row too many for H = 49, 98, 103 and others. ``aux_loss`` of a generator that has none, and a layout other than
the two, are refused here. Coordinates are computed in float32 at least. Grids, matrices and depths have the same shape
on both sides.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jax import lax
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

Grid = Float[Array, "n h w 2"]

HALF = np.pi / 2


def transform(matrix: Float[Array, "*n i j"], points: Float[Array, "*m j"]) -> Float[Array, "*k i"]:
    """matrix @ points for each pixel; not by a matmul, which TPUs and GPUs round to fewer digits."""
    return (matrix * points[..., None, :]).sum(-1)


def wrap(x: Array) -> Array:
    """x modulo 2, between -1 and 1."""
    return jnp.arctan(jnp.tan(HALF * x)) / HALF


def sphere(grid: Float[Array, "h w 3"]) -> Float[Array, "h w 4"]:
    """(x, y, z, 1) of the point on the unit sphere at polar angle (y+1) pi/2 and azimuth x pi."""
    polar, azimuth = grid[..., 0] * HALF + HALF, grid[..., 1] * np.pi
    x, y = jnp.sin(polar) * jnp.cos(azimuth), jnp.sin(polar) * jnp.sin(azimuth)
    return jnp.stack([x, y, jnp.cos(polar), grid[..., 2]], -1)


def project(x: Array, y: Array, z: Array) -> tuple[Array, Array]:
    """The inverse of ``sphere``: (y, x) from -1 to 1 of the direction in which a point lies."""
    r = jnp.sqrt(x * x + y * y + z * z) + 1e-5
    turn = jnp.where(x < 0, jnp.where(y >= 0, 1, -1), 0)
    return jnp.arccos(z / r) / HALF - 1, jnp.arctan(y / (x + 1e-5)) / np.pi + turn


class STN(Module):
    """The pixels of an image at the places (y, x) of a grid, bilinearly; beyond the edge lies zero.

    Args:
        layout: "BHWD" for an image (n, h, w, c) and a grid (n, p, q, 2), or "BCHW" for (n, c, h, w) and (n, 2, p, q):
            the layout of arguments and result, on both sides.
    """

    layout: str = "BHWD"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.layout in ("BHWD", "BCHW"), f"STN: expected a layout of BHWD, BCHW, got {self.layout!r}")

    def __call__(self, image: Array, grid: Array, train: bool = False) -> Float[Array, "n p q r"]:
        image, axis = self.cast(image), 3 if self.layout == "BHWD" else 1
        fits = grid.ndim == 4 and grid.shape[axis] == 2
        require(fits, f"STN: expected a grid with 2 entries on axis {axis}, got shape {grid.shape}")
        if axis == 3:
            return grid_sample(image, grid[..., ::-1], align_corners=True)
        image, grid = jnp.moveaxis(image, 1, -1), jnp.moveaxis(grid, 1, -1)
        return jnp.moveaxis(grid_sample(image, grid[..., ::-1], align_corners=True), -1, 1)


class _GridGen(Module):
    """A grid (n, height, width, 2) of places (y, x) for ``STN``.

    Args:
        lr: factor of the gradient, in ``CylinderGridGen`` alone; the others ignore it, as upstream.
        aux_loss: return also the squared distance (n, 1) of the argument from the one that moves nothing.
    """

    height: int
    width: int
    lr: float = 1.0
    aux_loss: bool = False

    has_loss: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        who, size = type(self).__name__, (self.height, self.width)
        require(min(size) >= 1, f"{who}: expected height and width >= 1, got {size}")
        require(self.has_loss or not self.aux_loss, f"{who}: expected aux_loss=False, since it has none, got True")

    def wide(self, name: str, x: Array, *shape: int) -> Array:
        """x (n, *shape) in float32 at least."""
        expected = f"(n, {', '.join(map(str, shape))})"
        require(x.shape[1:] == shape, f"{type(self).__name__}: expected {name} {expected}, got shape {x.shape}")
        return x.astype(accumulator(self.dtype or x.dtype))

    def base(self, dtype: DTypeLike) -> Float[Array, "h w 3"]:
        """(y, x, 1) of each pixel."""
        y, x = (2 * np.arange(n) / n - 1 for n in (self.height, self.width))
        return jnp.stack([jnp.asarray(a, dtype) for a in np.broadcast_arrays(y[:, None], x, 1.0)], -1)

    def result(self, x: Array, grid: Array, loss: Array | None = None) -> Any:
        """Grid and loss in the precision of x, or the one set."""
        dtype = self.dtype or x.dtype
        return grid.astype(dtype) if loss is None or not self.aux_loss else (grid.astype(dtype), loss.astype(dtype))


class AffineGridGen(_GridGen):
    """theta (n, 2, 3) times (y, x, 1): its rows and first two columns are in the order y, x, unlike ``affine_grid``."""

    has_loss = True

    def __call__(self, theta: Array, train: bool = False) -> Grid | tuple[Grid, Float[Array, "n 1"]]:
        wide = self.wide("theta", theta, 2, 3)
        grid = transform(wide[:, None, None], self.base(wide.dtype))
        loss = ((wide - jnp.eye(2, 3)) ** 2).sum((1, 2))[:, None]
        return self.result(theta, grid, loss)


class AffineGridGenV2(AffineGridGen):
    """The same; upstream it differs in how its gradient is computed."""


class CylinderGridGen(_GridGen):
    """Turn a cylinder by theta (n, 1): to every x, (1 + cos theta) is added, less 2 where that leaves the image.

    The gradient is the derivative of the shift, times ``lr``.
    """

    has_loss = True

    def __call__(self, theta: Array, train: bool = False) -> Grid | tuple[Grid, Float[Array, "n 1"]]:
        wide = self.wide("theta", theta, 1)
        fixed = lax.stop_gradient(wide)
        x = (1 + jnp.cos(fixed + self.lr * (wide - fixed))) / 2
        shift = jnp.where(jnp.arange(self.width) < self.width * x, 2 * (1 - x), -2 * x)[:, None]  # (n, 1, w)
        base = self.base(wide.dtype)
        y = jnp.broadcast_to(base[..., 0], (len(theta), self.height, self.width))
        return self.result(theta, jnp.stack([y, base[..., 1] + shift], -1), wide**2)


class CylinderGridGenV2(_GridGen):
    """Turn a cylinder by u (n, 1): u is added to every x, modulo 2."""

    def __call__(self, u: Array, train: bool = False) -> Grid:
        wide = self.wide("u", u, 1)
        base = self.base(wide.dtype)
        x = wrap(base[..., 1] + wide[..., None])
        return self.result(u, jnp.stack([jnp.broadcast_to(base[..., 0], x.shape), x], -1))


class DenseAffineGridGen(_GridGen):
    """An affine matrix for each pixel, its rows one after the other in theta (n, height, width, 6)."""

    def __call__(self, theta: Array, train: bool = False) -> Grid:
        wide = self.wide("theta", theta, self.height, self.width, 6)
        return self.result(theta, transform(wide.reshape(*wide.shape[:3], 2, 3), self.base(wide.dtype)))


class _Dense3D(_GridGen):
    def moved(self, theta: Array) -> tuple[Array, Array]:
        """(y, x) of the pixels on the sphere, each moved by its own matrix."""
        wide = self.wide("theta", theta, self.height, self.width, 12)
        points = transform(wide.reshape(*wide.shape[:3], 3, 4), sphere(self.base(wide.dtype)))
        return project(*jnp.moveaxis(points, -1, 0))


class DenseAffine3DGridGen(_Dense3D):
    """A 3x4 matrix for each pixel on the sphere, its rows one after the other in theta (n, height, width, 12)."""

    def __call__(self, theta: Array, train: bool = False) -> Grid:
        return self.result(theta, jnp.stack(self.moved(theta), -1))


class DenseAffine3DGridGen_rotate(_Dense3D):
    """The same, then turned by rotate (n, 1): it is added to every x, modulo 2."""

    def __call__(self, theta: Array, rotate: Array, train: bool = False) -> Grid:
        y, x = self.moved(theta)
        turn = self.wide("rotate", rotate, 1)[..., None]
        return self.result(theta, jnp.stack([y, wrap(x + turn)], -1))


class _Depth3D(_GridGen):
    def moved(self, depth: Array, trans0: Array, trans1: Array) -> Array:
        """x, y and z (3, n, h, w) of the pixels on the sphere, each at its own depth, moved by (trans0, trans1, 0)."""
        wide = self.wide("depth", depth, self.height, self.width, 1)
        trans0, trans1 = self.wide("trans0", trans0, 1), self.wide("trans1", trans1, 1)
        shift = jnp.concatenate([trans0, trans1, jnp.zeros_like(trans0)], -1)[:, None, None]
        return jnp.moveaxis(sphere(self.base(wide.dtype))[..., :3] * wide + shift, -1, 0)


class Depth3DGridGen(_Depth3D):
    """The sphere at depth (n, height, width, 1), moved by (trans0, trans1), each (n, 1), and turned by rotate (n, 1).

    The turn is added to every x, modulo 2.
    """

    def __call__(self, depth: Array, trans0: Array, trans1: Array, rotate: Array, train: bool = False) -> Grid:
        y, x = project(*self.moved(depth, trans0, trans1))
        turn = self.wide("rotate", rotate, 1)[..., None]
        return self.result(depth, jnp.stack([y, wrap(x + turn)], -1))


class Depth3DGridGen_with_mask(_Depth3D):
    """The same, but the points are turned, by rotate times pi about the z axis, before they are projected."""

    def __call__(self, depth: Array, trans0: Array, trans1: Array, rotate: Array, train: bool = False) -> Grid:
        x, y, z = self.moved(depth, trans0, trans1)
        turn = self.wide("rotate", rotate, 1)[..., None] * np.pi
        x, y = x * jnp.cos(turn) - y * jnp.sin(turn), x * jnp.sin(turn) + y * jnp.cos(turn)
        return self.result(depth, jnp.stack(project(x, y, z), -1))


def identity(key: Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> Array:
    """The affine matrix that moves nothing, its rows one after the other."""
    return jnp.asarray([1, 0, 0, 0, 1, 0], dtype).reshape(shape)


def pixels(size: Sequence[int], kernel_sizes: Sequence[int], pools: Sequence[int]) -> int:
    """How many pixels convolutions and poolings leave of an image."""
    h, w = size
    for kernel, pool in zip(kernel_sizes, pools, strict=True):
        h, w = ((side - kernel + 1) // pool for side in (h, w))
    return max(0, h) * max(0, w)


class SpatialTransformer(Module):
    """Resample x by the affine matrix that a small network reads off it; fresh, the matrix is the identity.

    The defaults are the tutorial's network for MNIST.

    Args:
        in_channels: channels of x.
        size: height and width of x, from which the width of ``fc_loc`` follows.
        channels: output channels of each convolution, followed by max pooling and a relu.
        kernel_sizes: of each convolution.
        pools: window and stride of each pooling.
        hidden: width of the layer before the matrix.
        align_corners: False since torch 1.3; networks trained before need True.
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

    def __call__(self, x: Float[Array, "n h w c"], train: bool = False) -> Float[Array, "n h w c"]:
        x = self.cast(x)
        features = flatten(self.localization(x, train))
        expected = f"{type(self).__name__}: expected an image of height and width {tuple(self.size)}"
        require(features.shape[1] == self.features, f"{expected}, got shape {x.shape}")
        theta = self.fc_loc(features, train).reshape(-1, 2, 3)
        grid = affine_grid(theta.astype(accumulator(x.dtype)), x.shape, self.align_corners)
        return grid_sample(x, grid, align_corners=self.align_corners)
