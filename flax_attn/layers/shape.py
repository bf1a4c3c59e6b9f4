"""Changes of shape, and checks of it. Trap: a Linear trained on a flattened NCHW tensor expects channel-major order."""

import math
from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from flax_attn.layers.module import Module, require


def flatten(x: Array) -> Array:
    """(n, *space, c) -> (n, c*space) in the order in which torch flattens (n, c, *space)."""
    x = jnp.asarray(x)
    return lax.collapse(jnp.moveaxis(x, -1, 1), 1)


def check_padding(expected: str, mask: Array | None, shape: Sequence[int], batch_first: bool = True) -> None:
    """Refuse a mask of padded tokens that is not (n, l).

    Args:
        expected: the beginning of the message: who expected what.
        shape: the shape of the tokens: (n, l, c) with ``batch_first``, else (l, n, c).
    """
    if mask is None:
        return
    n, l = shape[:2] if batch_first else shape[1::-1]  # noqa: E741
    order, other = ("(n, l, c)", "(l, n, c)") if batch_first else ("(l, n, c)", "(n, l, c)")
    swapped = f"; the tokens {tuple(shape)} look like {other}, give them as {order}" if mask.shape == (l, n) else ""
    require(mask.shape == (n, l), f"{expected} of shape (n, l) = {(n, l)}, got {mask.shape}{swapped}")


def pixel_shuffle(x: Array, upscale_factor: int) -> Array:
    """(n, h, w, c*r*r) -> (n, h*r, w*r, c) with r = ``upscale_factor``; the channels are in torch's order (c, r, r)."""
    n, h, w, channels = _image("pixel_shuffle", x)
    r = upscale_factor
    require(r >= 1, f"pixel_shuffle: expected upscale_factor >= 1, got {r}")
    require(channels % r**2 == 0, f"pixel_shuffle: expected channels divisible by {r}*{r}, got shape {x.shape}")
    parts = jnp.asarray(x).reshape(n, h, w, channels // r**2, r, r)
    return parts.transpose(0, 1, 4, 2, 5, 3).reshape(n, h * r, w * r, channels // r**2)


def pixel_unshuffle(x: Array, downscale_factor: int) -> Array:
    """(n, h*r, w*r, c) -> (n, h, w, c*r*r) with r = ``downscale_factor``: the inverse of ``pixel_shuffle``."""
    n, h, w, channels = _image("pixel_unshuffle", x)
    r = downscale_factor
    require(r >= 1, f"pixel_unshuffle: expected downscale_factor >= 1, got {r}")
    require(h % r == w % r == 0, f"pixel_unshuffle: expected height and width divisible by {r}, got shape {x.shape}")
    parts = jnp.asarray(x).reshape(n, h // r, r, w // r, r, channels)
    return parts.transpose(0, 1, 3, 5, 2, 4).reshape(n, h // r, w // r, channels * r**2)


def _image(who: str, x: Array) -> tuple[int, ...]:
    require(x.ndim == 4, f"{who}: expected an input (n, h, w, c), got shape {x.shape}")
    return tuple(x.shape)


class Flatten(Module):
    """``torch.nn.Flatten``: axes ``start_dim`` to ``end_dim`` of PyTorch's (n, c, *space) become one.

    The elements are in PyTorch's order, so a ``Linear`` after it has PyTorch's weights. The default gives (n, c*space).
    Where axes are left after the channels in PyTorch, the channels are moved to the end: ``Flatten(2)`` gives
    (n, space, c). ``Flatten(0)`` and others that flatten the batch as well give PyTorch's shape.

    Args:
        start_dim, end_dim: axes in PyTorch's order (n, c, *space).
    """

    start_dim: int = 1
    end_dim: int = -1

    def __call__(self, x: Array, train: bool = False) -> Array:
        start, end = (axis + x.ndim if axis < 0 else axis for axis in (self.start_dim, self.end_dim))
        fits = 0 <= start <= end < x.ndim
        require(fits, f"Flatten: expected axes {self.start_dim} to {self.end_dim} in the input, got shape {x.shape}")
        y = jnp.moveaxis(self.cast(x), -1, 1) if x.ndim > 1 else self.cast(x)
        y = y.reshape(*y.shape[:start], math.prod(y.shape[start : end + 1]), *y.shape[end + 1 :])
        return jnp.moveaxis(y, 1, -1) if start > 0 or end == 0 else y


class Identity(Module):
    """``torch.nn.Identity``: x as it is."""

    def __call__(self, x: Array, train: bool = False) -> Array:
        return x


class PixelShuffle(Module):
    """``torch.nn.PixelShuffle``: see ``pixel_shuffle``."""

    upscale_factor: int

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.upscale_factor >= 1, f"PixelShuffle: expected upscale_factor >= 1, got {self.upscale_factor}")

    def __call__(self, x: Array, train: bool = False) -> Array:
        return pixel_shuffle(x, self.upscale_factor)


class PixelUnshuffle(Module):
    """``torch.nn.PixelUnshuffle``: see ``pixel_unshuffle``."""

    downscale_factor: int

    def __post_init__(self) -> None:
        super().__post_init__()
        got = self.downscale_factor
        require(got >= 1, f"PixelUnshuffle: expected downscale_factor >= 1, got {got}")

    def __call__(self, x: Array, train: bool = False) -> Array:
        return pixel_unshuffle(x, self.downscale_factor)
