"""``torch.nn.functional.pad`` and its modules. Trap: PyTorch lists the padding from the last axis of space to the
first; channels come after space in that list, though here they are the last axis."""

from collections.abc import Sequence
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from flax_attn.layers.module import Module, require

Ints = int | Sequence[int]

MODES = ("constant", "reflect", "replicate", "circular")


def pad(x: Array, padding: Sequence[int], mode: str = "constant", value: float | int | None = None) -> Array:
    """x (n, *space, c) with pixels added at its edges, or taken away where a number is negative.

    Args:
        padding: two numbers an axis, in PyTorch's order: (left, right, top, bottom, front, back). With
            ``mode="constant"``, two numbers for the channels and two for the batch may follow those of all space.
        mode: the added pixels are: "constant", all ``value``; "reflect", the image mirrored at its outermost pixel;
            "replicate", the outermost pixel; "circular", those of the opposite side. Pixels are taken away first.
        value: None for 0.

    Raises:
        ValueError: for another mode, an odd number of paddings or too many, or a padding that the image is too small
            for.
    """
    x = jnp.asarray(x)
    require(mode in MODES, f"pad: expected a mode of {', '.join(MODES)}, got {mode!r}")
    require(mode == "constant" or not value, f"pad: expected no value for mode {mode!r}, got {value}")
    axes = [*range(x.ndim - 2, 0, -1), *([x.ndim - 1, 0] if mode == "constant" else [])]
    pairs = [(padding[i], padding[i + 1]) for i in range(0, len(padding) - 1, 2)]
    fits = len(padding) % 2 == 0 and len(pairs) <= len(axes)
    require(fits, f"pad: expected two numbers for each of at most {len(axes)} axes, got {tuple(padding)}")
    widths = dict(zip(axes, pairs, strict=False))
    for axis, pair in widths.items():
        _check_axis(x, axis, pair, mode)
    if mode == "constant":
        config = [(*widths.get(axis, (0, 0)), 0) for axis in range(x.ndim)]
        return lax.pad(x, jnp.asarray(value or 0, x.dtype), config)
    for axis, pair in widths.items():
        if any(pair):
            x = jnp.take(x, _source(x.shape[axis], pair, mode), axis)
    return x


def _check_axis(x: Array, axis: int, pair: tuple[int, int], mode: str) -> None:
    n = x.shape[axis]
    left = n + min(pair[0], 0) + min(pair[1], 0)
    enough = left >= 0 if mode == "constant" else left > 0
    require(enough, f"pad: expected pixels to be left, got {pair} for shape {x.shape}")
    limit = {"reflect": n - 1, "circular": left}.get(mode, max(pair))
    require(max(pair) <= limit, f"pad: expected at most {limit} pixels for mode {mode!r}, got {pair}, shape {x.shape}")


def _source(n: int, pair: tuple[int, int], mode: str) -> np.ndarray:
    """The pixel of ``n`` that each pixel of the result shows."""
    place = np.arange(-pair[0], n + pair[1])
    if mode == "circular":
        kept = place[(place >= 0) & (place < n)]
        return kept[(place - kept[0]) % len(kept)]
    if mode == "replicate":
        return place.clip(0, n - 1)
    return n - 1 - np.abs(n - 1 - np.abs(place))


class _Pad(Module):
    padding: Ints

    spatial: ClassVar[int]
    mode: ClassVar[str] = "constant"

    def __post_init__(self) -> None:
        super().__post_init__()
        n, got = 2 * self.spatial, self.padding
        fits = isinstance(got, int) or len(got) == n
        require(fits, f"{type(self).__name__}: expected padding to be an int or {n} ints, got {got}")

    def __call__(self, x: Array, train: bool = False) -> Array:
        expected = f"{type(self).__name__}: expected a channels-last input of rank {self.spatial + 2}"
        require(x.ndim == self.spatial + 2, f"{expected}, got shape {x.shape}")
        sides = [self.padding] * (2 * self.spatial) if isinstance(self.padding, int) else self.padding
        return pad(self.cast(x), sides, self.mode, self.fill)

    @property
    def fill(self) -> float | int | None:
        """The value of added pixels; None where they come from the image."""
        return None


class _ConstantPad(_Pad):
    value: float | int

    @property
    def fill(self) -> float | int | None:
        return self.value


class ConstantPad1d(_ConstantPad):
    """``torch.nn.ConstantPad1d`` on (n, l, c): ``value`` at every edge."""

    spatial = 1


class ConstantPad2d(_ConstantPad):
    """``torch.nn.ConstantPad2d`` on (n, h, w, c): ``value`` at every edge."""

    spatial = 2


class ConstantPad3d(_ConstantPad):
    """``torch.nn.ConstantPad3d`` on (n, d, h, w, c): ``value`` at every edge."""

    spatial = 3


class ZeroPad1d(_Pad):
    """``torch.nn.ZeroPad1d`` on (n, l, c): zeros at every edge."""

    spatial = 1


class ZeroPad2d(_Pad):
    """``torch.nn.ZeroPad2d`` on (n, h, w, c): zeros at every edge."""

    spatial = 2


class ZeroPad3d(_Pad):
    """``torch.nn.ZeroPad3d`` on (n, d, h, w, c): zeros at every edge."""

    spatial = 3


class ReflectionPad1d(_Pad):
    """``torch.nn.ReflectionPad1d`` on (n, l, c): the image mirrored at its outermost pixels."""

    spatial = 1
    mode = "reflect"


class ReflectionPad2d(_Pad):
    """``torch.nn.ReflectionPad2d`` on (n, h, w, c): the image mirrored at its outermost pixels."""

    spatial = 2
    mode = "reflect"


class ReflectionPad3d(_Pad):
    """``torch.nn.ReflectionPad3d`` on (n, d, h, w, c): the image mirrored at its outermost pixels."""

    spatial = 3
    mode = "reflect"


class ReplicationPad1d(_Pad):
    """``torch.nn.ReplicationPad1d`` on (n, l, c): the outermost pixels again."""

    spatial = 1
    mode = "replicate"


class ReplicationPad2d(_Pad):
    """``torch.nn.ReplicationPad2d`` on (n, h, w, c): the outermost pixels again."""

    spatial = 2
    mode = "replicate"


class ReplicationPad3d(_Pad):
    """``torch.nn.ReplicationPad3d`` on (n, d, h, w, c): the outermost pixels again."""

    spatial = 3
    mode = "replicate"


class CircularPad1d(_Pad):
    """``torch.nn.CircularPad1d`` on (n, l, c): the pixels of the opposite side."""

    spatial = 1
    mode = "circular"


class CircularPad2d(_Pad):
    """``torch.nn.CircularPad2d`` on (n, h, w, c): the pixels of the opposite side."""

    spatial = 2
    mode = "circular"


class CircularPad3d(_Pad):
    """``torch.nn.CircularPad3d`` on (n, d, h, w, c): the pixels of the opposite side."""

    spatial = 3
    mode = "circular"
