"""The shapes of a convolution, and of the convolutions that compute its gradients."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

OPERANDS = {"output": ("input", "kernel"), "input": ("kernel", "output"), "kernel": ("input", "output")}
"""What each of the three arrays is computed from."""


def spans(shape: tuple[int, ...], steps: tuple[int, ...]) -> list[int]:
    """How many pixels the axes of space take up when they are ``steps`` apart."""
    return [(n - 1) * step + 1 for n, step in zip(shape[1:-1], steps, strict=True)]


class Convolution(NamedTuple):
    """The shapes of the three arrays, and how the kernel moves: one entry an axis of space, but for ``groups``."""

    input: tuple[int, ...]
    kernel: tuple[int, ...]
    output: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    lhs_dilation: tuple[int, ...]
    groups: int

    @classmethod
    def of(cls, input: tuple[int, ...], kernel: tuple[int, ...], **geometry: Any) -> "Convolution":
        """From the shapes of input and kernel; an axis of the output that the kernel does not fit in is 0 long."""
        conv = cls(input=input, kernel=kernel, output=(), **geometry)
        rows = zip(spans(input, conv.lhs_dilation), conv.pads, conv.reach, conv.strides, strict=True)
        space = [max(0, (n + sum(pad) - reach - 1) // stride + 1) for n, pad, reach, stride in rows]
        return conv._replace(output=(input[0], *space, kernel[-1]))

    @property
    def size(self) -> tuple[int, ...]:
        """The extent of the kernel in space."""
        return self.kernel[:-2]

    @property
    def reach(self) -> tuple[int, ...]:
        """The pixels between the first and the last element of the kernel, on each axis."""
        return tuple(d * (k - 1) for k, d in zip(self.size, self.dilation, strict=True))

    def reversed(self) -> "Convolution":
        """The convolution from output to input that is the gradient of the input; its kernel is ``turned``."""
        low = [r - before for r, (before, _) in zip(self.reach, self.pads, strict=True)]
        given, back = spans(self.input, self.lhs_dilation), spans(self.output, self.strides)
        high = [i + r - o - p for i, o, r, p in zip(given, back, self.reach, low, strict=True)]
        return self._replace(
            input=self.output,
            kernel=(*self.size, self.output[-1] // self.groups, self.input[-1]),
            output=self.input,
            strides=self.lhs_dilation,
            pads=tuple(zip(low, high, strict=True)),
            lhs_dilation=self.strides,
        )

    def swapped(self) -> "Convolution":
        """The convolution whose result is the gradient of the kernel: the images are its channels.

        Its operands are (in, *space, n) and (*space, n, out), its result is (in, *k, out).
        """
        ends = spans(self.output, self.strides)
        high = [
            reach + end - span - low
            for reach, end, span, (low, _) in zip(
                self.reach, ends, spans(self.input, self.lhs_dilation), self.pads, strict=True
            )
        ]
        return self._replace(
            input=(self.input[-1], *self.input[1:-1], self.input[0]),
            kernel=(*self.output[1:-1], self.input[0], self.output[-1]),
            output=(self.input[-1], *self.size, self.output[-1]),
            strides=self.dilation,
            pads=tuple((low, more) for (low, _), more in zip(self.pads, high, strict=True)),
            dilation=self.strides,
        )

    def turned(self, kernel: Array) -> Array:
        """The kernel flipped in space, with input and output channels swapped in each group."""
        grouped = jnp.flip(kernel, range(len(self.size))).reshape(*self.kernel[:-1], self.groups, -1)
        return jnp.swapaxes(grouped, -3, -1).reshape(*self.size, -1, self.input[-1])


def padded(conv: Convolution, x: Array) -> Array:
    """The input with its pads, and with zeros between its pixels where it is dilated."""
    space = [(low, high, d - 1) for (low, high), d in zip(conv.pads, conv.lhs_dilation, strict=True)]
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *space, (0, 0, 0)])
