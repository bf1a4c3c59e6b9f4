"""``torch.nn.ConvNd`` and ``ConvTransposeNd``. Trap: padding "SAME" is not ``padding=k//2`` once the stride is 2."""

import dataclasses
import functools
import math
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array

from flax_attn.layers.convolution import convolution
from flax_attn.layers.init import fan_in_uniform
from flax_attn.layers.module import Initializer, Module, contract, require
from flax_attn.layers.padding import Ints, pad

PADDING_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "replicate", "circular": "circular"}


def ntuple(value: Ints, n: int, who: str) -> tuple[int, ...]:
    """``value`` once an axis: 3 -> (3, 3); a sequence must already have ``n`` entries."""
    if isinstance(value, int):
        return (value,) * n
    require(len(value) == n, f"{who}: expected an int or {n} ints, got {value}")
    return tuple(value)


class _ConvNd(Module):
    in_channels: int
    out_channels: int
    kernel_size: Ints

    spatial: ClassVar[int]

    @nn.nowrap
    def axes(self, *names: str) -> list[tuple[int, ...]]:
        return [ntuple(getattr(self, name), self.spatial, f"{type(self).__name__} {name}") for name in names]

    @nn.nowrap
    def check_arguments(self, groups: int) -> None:
        who = type(self).__name__
        for name, least in (("kernel_size", 1), ("stride", 1), ("padding", 0), ("dilation", 1)):
            if isinstance(getattr(self, name), str):
                continue
            (values,) = self.axes(name)
            require(min(values) >= least, f"{who}: expected {name} >= {least}, got {getattr(self, name)}")
        require(groups >= 1, f"{who}: expected groups >= 1, got {groups}")
        for name in ("in_channels", "out_channels"):
            count = getattr(self, name)
            require(count >= 0, f"{who}: expected {name} >= 0, got {count}")
            require(count % groups == 0, f"{who}: expected {name} divisible by groups={groups}, got {count}")

    def convolve(self, x: Array, kernel: Array, **geometry: Any) -> Array:
        """Channels-last convolution of x with kernel (*k, in/groups, out); sums are kept in float32 at least."""
        y = contract(functools.partial(convolution, **geometry), x, kernel)
        who = type(self).__name__
        require(min(y.shape[1:-1]) >= 1, f"{who}: expected an input that leaves a pixel of output, got shape {x.shape}")
        return y.astype(x.dtype)


class Conv(_ConvNd):
    """What ``Conv1d``, ``Conv2d`` and ``Conv3d`` share.

    Args:
        padding: pixels added at both edges of each axis; or "valid" for none; or, with ``stride=1``, "same" for an
            output of the size of the input. If "same" needs an odd number of pixels, the last edge has one more.
        padding_mode: what is added at the edges: "zeros", or pixels of the input as ``pad`` has them for "reflect",
            "replicate" and "circular".

    Leaves: ``kernel`` (*kernel_size, in_channels/groups, out_channels) and ``bias`` (out_channels,).
    Raises ValueError for channels that ``groups`` does not divide and for an input of another rank or width.
    """

    stride: Ints = 1
    padding: Ints | str = 0
    dilation: Ints = 1
    groups: int = 1
    bias: bool = True
    padding_mode: str = "zeros"
    kernel_init: Initializer | None = dataclasses.field(default=None, kw_only=True)
    bias_init: Initializer | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_arguments(self.groups)
        who, known, got = type(self).__name__, ", ".join(PADDING_MODES), self.padding_mode
        require(got in PADDING_MODES, f"{who}: expected a padding_mode of {known}, got {got!r}")
        word = self.padding if isinstance(self.padding, str) else "valid"
        require(word in ("same", "valid"), f"{who}: expected padding to be ints, 'same' or 'valid', got {word!r}")
        (stride,) = self.axes("stride")
        require(word == "valid" or max(stride) == 1, f"{who}: expected stride=1 with padding='same', got {self.stride}")

    @nn.compact
    def __call__(self, x: Array, train: bool = False, *, outputs: slice | None = None) -> Array:
        """The convolution; with ``outputs``, which needs ``groups=1``, only these of its output channels."""
        one = outputs is None or self.groups == 1
        require(one, f"{type(self).__name__}: expected groups=1 with outputs, got {self.groups}")
        self.check_channels(x, self.in_channels, [self.spatial + 2])
        size, stride, dilation = self.axes("kernel_size", "stride", "dilation")
        shape = (*size, self.in_channels // self.groups, self.out_channels)
        default = fan_in_uniform(math.prod(shape[:-1]))
        kernel = self.parameter("kernel", self.kernel_init or default, shape)
        bias = self.parameter("bias", self.bias_init or default, shape[-1:]) if self.bias else None
        if outputs is not None:
            kernel, bias = kernel[..., outputs], None if bias is None else bias[outputs]
        x, kernel, bias = self.promote(x, kernel, bias)
        pads = self.edges()
        if self.padding_mode != "zeros":
            x = pad(x, [n for pair in reversed(pads) for n in pair], PADDING_MODES[self.padding_mode])
            pads = [(0, 0)] * self.spatial
        spread = (1,) * self.spatial
        geometry = dict(strides=stride, pads=tuple(pads), dilation=dilation, lhs_dilation=spread, groups=self.groups)
        y = self.convolve(x, kernel, **geometry)
        return y if bias is None else y + bias

    def edges(self) -> list[tuple[int, int]]:
        """How many pixels are added before and after, on each axis."""
        if not isinstance(self.padding, str):
            return [(p, p) for p in self.axes("padding")[0]]
        same = self.padding == "same"
        totals = [d * (k - 1) * same for k, d in zip(*self.axes("kernel_size", "dilation"), strict=True)]
        return [(total // 2, total - total // 2) for total in totals]


class ConvTranspose(_ConvNd):
    """What ``ConvTranspose1d``, ``ConvTranspose2d`` and ``ConvTranspose3d`` share: the transpose of ``Conv``.

    Leaves: ``kernel`` (*kernel_size, in_channels, out_channels/groups) and ``bias`` (out_channels,).
    Output size: (in - 1) * stride - 2 * padding + dilation * (kernel_size - 1) + output_padding + 1 an axis.
    """

    stride: Ints = 1
    padding: Ints = 0
    output_padding: Ints = 0
    groups: int = 1
    bias: bool = True
    dilation: Ints = 1
    padding_mode: str = "zeros"
    kernel_init: Initializer | None = dataclasses.field(default=None, kw_only=True)
    bias_init: Initializer | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_arguments(self.groups)
        who, got = type(self).__name__, self.padding_mode
        require(got == "zeros", f"{who}: expected padding_mode 'zeros', got {got!r}")
        extra, stride, dilation = self.axes("output_padding", "stride", "dilation")
        expected = f"{type(self).__name__}: expected 0 <= output_padding < max(stride, dilation)"
        fits = all(0 <= e < max(s, d) for e, s, d in zip(extra, stride, dilation, strict=True))
        require(fits, f"{expected}, got {self.output_padding}")

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        self.check_channels(x, self.in_channels, [self.spatial + 2])
        size, stride, padding, dilation = self.axes("kernel_size", "stride", "padding", "dilation")
        (extra,) = self.axes("output_padding")
        shape = (*size, self.in_channels, self.out_channels // self.groups)
        default = fan_in_uniform(math.prod(size) * shape[-1])
        kernel = self.parameter("kernel", self.kernel_init or default, shape)
        bias = self.parameter("bias", self.bias_init or default, (self.out_channels,)) if self.bias else None
        x, kernel, bias = self.promote(x, kernel, bias)
        edges = [d * (k - 1) - p for k, p, d in zip(size, padding, dilation, strict=True)]
        pads = tuple((edge, edge + more) for edge, more in zip(edges, extra, strict=True))
        steps = (1,) * self.spatial
        geometry = dict(strides=steps, pads=pads, dilation=dilation, lhs_dilation=stride, groups=self.groups)
        y = self.convolve(x, self.as_forward(kernel), **geometry)
        return y if bias is None else y + bias

    def as_forward(self, kernel: Array) -> Array:
        """Turn (*k, in, out/groups) around: flipped in space, and laid out (*k, in/groups, out)."""
        space = range(self.spatial)
        grouped = jnp.flip(kernel, tuple(space)).reshape(*kernel.shape[:-2], self.groups, -1, kernel.shape[-1])
        return jnp.moveaxis(grouped, -3, -2).reshape(*kernel.shape[:-2], -1, self.out_channels)


class Conv1d(Conv):
    """``torch.nn.Conv1d`` on (n, l, c)."""

    spatial = 1


class Conv2d(Conv):
    """``torch.nn.Conv2d`` on (n, h, w, c)."""

    spatial = 2


class Conv3d(Conv):
    """``torch.nn.Conv3d`` on (n, d, h, w, c)."""

    spatial = 3


class ConvTranspose1d(ConvTranspose):
    """``torch.nn.ConvTranspose1d`` on (n, l, c)."""

    spatial = 1


class ConvTranspose2d(ConvTranspose):
    """``torch.nn.ConvTranspose2d`` on (n, h, w, c)."""

    spatial = 2


class ConvTranspose3d(ConvTranspose):
    """``torch.nn.ConvTranspose3d`` on (n, d, h, w, c)."""

    spatial = 3
