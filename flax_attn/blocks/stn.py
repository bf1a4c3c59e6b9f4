"""Spatial Transformer Networks - Jaderberg, Simonyan, Zisserman, Kavukcuoglu 2015, https://arxiv.org/abs/1506.02025

Follows: fxia22/stn.pytorch. Places and affine matrices are in the order (y, x). The base grid of H rows lies at
-1 + 2i/H and never reaches 1, though the sampler has -1 and 1 at the centres of the outermost pixels.
Differs: upstream builds the base grid with numpy's arange, which makes a row too many for H = 49, 98, 103 and others;
here a grid always has H rows. ``aux_loss`` of a generator that has none, and a layout other than the two, are refused.
Coordinates are computed in float32 at least.
Assumed: the direction in which ``Depth3DGridGen_with_mask`` turns; it is that of ``Depth3DGridGen``.
"""

from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from flax_attn.layers import Module, accumulator, grid_sample, require

Grid = Float[Array, "n h w 2"]

HALF = np.pi / 2


def transform(matrix: Float[Array, "*n i j"], points: Float[Array, "*m j"]) -> Float[Array, "*k i"]:
    """matrix @ points for each pixel, as a sum of products: TPUs and GPUs would round a matrix product."""
    return (matrix * points[..., None, :]).sum(-1)


def wrap(x: Array) -> Array:
    """x modulo 2, between -1 and 1."""
    return jnp.arctan(jnp.tan(HALF * x)) / HALF


def sphere(grid: Float[Array, "h w 3"]) -> Float[Array, "h w 4"]:
    """(x, y, z, 1) of the point on the unit sphere with polar angle (y + 1) pi/2 and azimuth x pi, for (y, x, 1)."""
    polar, azimuth = grid[..., 0] * HALF + HALF, grid[..., 1] * np.pi
    x, y = jnp.sin(polar) * jnp.cos(azimuth), jnp.sin(polar) * jnp.sin(azimuth)
    return jnp.stack([x, y, jnp.cos(polar), grid[..., 2]], -1)


def project(x: Array, y: Array, z: Array) -> tuple[Array, Array]:
    """The inverse of ``sphere``: (y, x), each from -1 to 1, of the direction of a point."""
    r = jnp.sqrt(x * x + y * y + z * z) + 1e-5
    turn = jnp.where(x < 0, jnp.where(y >= 0, 1, -1), 0)
    return jnp.arccos(z / r) / HALF - 1, jnp.arctan(y / (x + 1e-5)) / np.pi + turn


class STN(Module):
    """Sample an image at the places (y, x) of a grid, bilinearly. Beyond its edge the image is zero.

    Args:
        layout: "BHWD" for an image (n, h, w, c) and a grid (n, p, q, 2); "BCHW" for (n, c, h, w) and (n, 2, p, q). The
            result has the layout of the image. The PyTorch twin takes the same arrays.

    With ``attention_weights=True`` the call returns also the grid as ``grid_sample`` takes it: (n, p, q, 2), with the
    places in the order (x, y), in both layouts.
    """

    layout: str = "BHWD"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.layout in ("BHWD", "BCHW"), f"STN: expected a layout of BHWD, BCHW, got {self.layout!r}")

    def __call__(
        self, image: Array, grid: Array, train: bool = False, attention_weights: bool = False
    ) -> Float[Array, "n p q r"] | tuple[Float[Array, "n p q r"], Float[Array, "n s t 2"]]:
        image, axis = self.cast(image), 3 if self.layout == "BHWD" else 1
        fits = grid.ndim == 4 and grid.shape[axis] == 2
        require(fits, f"STN: expected a grid with 2 entries on axis {axis}, got shape {grid.shape}")
        if axis == 1:
            image, grid = jnp.moveaxis(image, 1, -1), jnp.moveaxis(grid, 1, -1)
        grid = grid[..., ::-1]
        y = grid_sample(image, grid, align_corners=True)
        y = jnp.moveaxis(y, -1, axis)
        return (y, grid) if attention_weights else y


class _GridGen(Module):
    """A grid (n, height, width, 2) of places (y, x) for ``STN``.

    Args:
        lr: a factor of the gradient in ``CylinderGridGen``; the other classes ignore it, as upstream.
        aux_loss: whether to return also the squared distance (n, 1) of the argument from that of the identity.
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
        """x, which must have the shape (n, *shape), in float32 at least."""
        expected = f"(n, {', '.join(map(str, shape))})"
        require(x.shape[1:] == shape, f"{type(self).__name__}: expected {name} {expected}, got shape {x.shape}")
        return x.astype(accumulator(self.compute_dtype or x.dtype))

    def base(self, dtype: DTypeLike) -> Float[Array, "h w 3"]:
        """(y, x, 1) of each pixel."""
        y, x = (2 * np.arange(n) / n - 1 for n in (self.height, self.width))
        return jnp.stack([jnp.asarray(a, dtype) for a in np.broadcast_arrays(y[:, None], x, 1.0)], -1)

    def result(self, x: Array, grid: Array, loss: Array | None = None) -> Any:
        """Grid and loss in the dtype to compute in, or else in that of x."""
        dtype = self.compute_dtype or x.dtype
        return grid.astype(dtype) if loss is None or not self.aux_loss else (grid.astype(dtype), loss.astype(dtype))


class AffineGridGen(_GridGen):
    """The grid theta @ (y, x, 1), for theta (n, 2, 3). The order is (y, x), unlike that of ``affine_grid``."""

    has_loss = True

    def __call__(self, theta: Array, train: bool = False) -> Grid | tuple[Grid, Float[Array, "n 1"]]:
        wide = self.wide("theta", theta, 2, 3)
        grid = transform(wide[:, None, None], self.base(wide.dtype))
        loss = ((wide - jnp.eye(2, 3)) ** 2).sum((1, 2))[:, None]
        return self.result(theta, grid, loss)


class AffineGridGenV2(AffineGridGen):
    """An ``AffineGridGen``; upstream computes the gradient in another way."""


class CylinderGridGen(_GridGen):
    """Turn a cylinder by theta (n, 1): add 1 + cos(theta) to every x, and subtract 2 where the sum leaves the image.

    The gradient is that of the shift, times ``lr``.
    """

    has_loss = True

    def __call__(self, theta: Array, train: bool = False) -> Grid | tuple[Grid, Float[Array, "n 1"]]:
        wide = self.wide("theta", theta, 1)
        fixed = lax.stop_gradient(wide)
        x = (1 + jnp.cos(fixed + self.lr * (wide - fixed))) / 2
        shift = jnp.where(jnp.arange(self.width) < self.width * x, 2 * (1 - x), -2 * x)[:, None]  # (n, 1, w)
        base = self.base(wide.dtype)
        y = jnp.broadcast_to(base[..., 0], (theta.shape[0], self.height, self.width))
        return self.result(theta, jnp.stack([y, base[..., 1] + shift], -1), wide**2)


class CylinderGridGenV2(_GridGen):
    """Turn a cylinder by u (n, 1): add u to every x, modulo 2."""

    def __call__(self, u: Array, train: bool = False) -> Grid:
        wide = self.wide("u", u, 1)
        base = self.base(wide.dtype)
        x = wrap(base[..., 1] + wide[..., None])
        return self.result(u, jnp.stack([jnp.broadcast_to(base[..., 0], x.shape), x], -1))


class DenseAffineGridGen(_GridGen):
    """An affine matrix for each pixel: theta (n, height, width, 6) holds its rows one after the other."""

    def __call__(self, theta: Array, train: bool = False) -> Grid:
        wide = self.wide("theta", theta, self.height, self.width, 6)
        return self.result(theta, transform(wide.reshape(*wide.shape[:3], 2, 3), self.base(wide.dtype)))


class _Dense3D(_GridGen):
    def moved(self, theta: Array) -> tuple[Array, Array]:
        """(y, x) of all pixels on the sphere, after each pixel is moved by its own matrix."""
        wide = self.wide("theta", theta, self.height, self.width, 12)
        points = transform(wide.reshape(*wide.shape[:3], 3, 4), sphere(self.base(wide.dtype)))
        return project(*jnp.moveaxis(points, -1, 0))


class DenseAffine3DGridGen(_Dense3D):
    """A 3x4 matrix for each pixel on the sphere: theta (n, height, width, 12) holds its rows one after the other."""

    def __call__(self, theta: Array, train: bool = False) -> Grid:
        return self.result(theta, jnp.stack(self.moved(theta), -1))


class DenseAffine3DGridGen_rotate(_Dense3D):
    """The grid of ``DenseAffine3DGridGen``, turned by rotate (n, 1): rotate is added to every x, modulo 2."""

    def __call__(self, theta: Array, rotate: Array, train: bool = False) -> Grid:
        y, x = self.moved(theta)
        turn = self.wide("rotate", rotate, 1)[..., None]
        return self.result(theta, jnp.stack([y, wrap(x + turn)], -1))


class _Depth3D(_GridGen):
    def moved(self, depth: Array, trans0: Array, trans1: Array) -> Array:
        """x, y and z (3, n, h, w) of all pixels on the sphere, each at its own depth, moved by (trans0, trans1, 0)."""
        wide = self.wide("depth", depth, self.height, self.width, 1)
        trans0, trans1 = self.wide("trans0", trans0, 1), self.wide("trans1", trans1, 1)
        shift = jnp.concatenate([trans0, trans1, jnp.zeros_like(trans0)], -1)[:, None, None]
        return jnp.moveaxis(sphere(self.base(wide.dtype))[..., :3] * wide + shift, -1, 0)


class Depth3DGridGen(_Depth3D):
    """The sphere at depth (n, height, width, 1), moved by trans0 and trans1 (n, 1), and turned by rotate (n, 1).

    rotate is added to every x, modulo 2.
    """

    def __call__(self, depth: Array, trans0: Array, trans1: Array, rotate: Array, train: bool = False) -> Grid:
        y, x = project(*self.moved(depth, trans0, trans1))
        turn = self.wide("rotate", rotate, 1)[..., None]
        return self.result(depth, jnp.stack([y, wrap(x + turn)], -1))


class Depth3DGridGen_with_mask(_Depth3D):
    """A ``Depth3DGridGen`` that turns the points, by rotate * pi about the z axis, before it projects them."""

    def __call__(self, depth: Array, trans0: Array, trans1: Array, rotate: Array, train: bool = False) -> Grid:
        x, y, z = self.moved(depth, trans0, trans1)
        turn = self.wide("rotate", rotate, 1)[..., None] * np.pi
        x, y = x * jnp.cos(turn) - y * jnp.sin(turn), x * jnp.sin(turn) + y * jnp.cos(turn)
        return self.result(depth, jnp.stack(project(x, y, z), -1))
