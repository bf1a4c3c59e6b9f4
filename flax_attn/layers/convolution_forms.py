"""Forms of a convolution and of its gradients that a CPU computes faster than XLA's own.

A form takes two of three arrays, input (n, *space, in), kernel (*k, in/groups, out) and output (n, *space, out), and
returns the third: the output, or the gradient of the input or of the kernel for a gradient of the output.
"""

import functools
import itertools
import math
import operator
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from flax_attn.layers.convolution_shapes import Convolution, padded, spans
from flax_attn.layers.convolution_threads import (
    taller,
    taller_kernel_pays,
    taller_pays,
    with_taller_kernel,
    xla,
)
from flax_attn.layers.convolution_winograd import winograd, winograd_pays
from flax_attn.layers.layout import not_inlined

CHUNK = 32
"""How many channels of narrow groups are computed as one dense convolution."""

PIXELS = 4
"""How many pixels ``by_pixel`` adds at a time."""


Form = Callable[[Convolution, str, Array, Array], Array]


def offsets(conv: Convolution) -> list[tuple[int, ...]]:
    """Where each element of the kernel lies from the first one, in row-major order."""
    return list(itertools.product(*(range(0, r + 1, d) for r, d in zip(conv.reach, conv.dilation, strict=True))))


def taps(conv: Convolution, x: Array) -> list[Array]:
    """What each element of the kernel meets of x at all pixels of the output, in row-major order."""
    x, step = padded(conv, x), (1, *conv.strides, 1)
    ends = spans(conv.output, conv.strides)
    return [
        lax.slice(x, (0, *at, 0), (len(x), *map(sum, zip(at, ends, strict=True)), x.shape[-1]), step)
        for at in offsets(conv)
    ]


def product(conv: Convolution, wanted: str, x: Array, b: Array) -> Array:
    """x (n, *space, i) times a matrix (i, out), or the gradient of the matrix."""
    if wanted == "output":
        return jnp.tensordot(x, b.reshape(-1, conv.output[-1]), 1)
    return transposed_product(x, b).reshape(conv.kernel)


def transposed_product(x: Array, b: Array) -> Array:
    """The sum of x (n, *space, i) times b (n, *space, o) over all pixels, as (i, o).

    Eigen is faster when the first array has fewer channels; the barrier keeps XLA from an exchange of both. With more
    than one axis of pixels, XLA would write a transposed copy of one of them.
    """
    x, b = x.reshape(-1, x.shape[-1]), b.reshape(-1, b.shape[-1])
    if x.shape[-1] <= b.shape[-1]:
        return jnp.tensordot(x, b, ((0,), (0,)))
    return lax.optimization_barrier(jnp.tensordot(b, x, ((0,), (0,)))).T


def pointwise(conv: Convolution, wanted: str, x: Array, b: Array) -> Array:
    """A convolution with a kernel of one pixel is a product with a matrix."""
    if wanted == "output" and max(conv.lhs_dilation) > 1:
        return taps(conv, product(conv, wanted, x, b))[0]
    return product(conv, wanted, taps(conv, x)[0], b)


def unfolded(conv: Convolution, wanted: str, x: Array, b: Array) -> Array:
    """The pixels under the kernel side by side ("im2col"), then one product with a matrix."""
    x = padded(conv, x)
    space = x.shape[1:-1]
    steps = np.indices(conv.output[1:-1]).reshape(len(space), -1, 1) * np.reshape(conv.strides, (-1, 1, 1))
    pixels = np.ravel_multi_index(tuple(steps + np.transpose(offsets(conv))[:, None]), space)
    patches = jnp.take(x.reshape(len(x), -1, x.shape[-1]), pixels, axis=1, mode="clip")
    return product(conv, wanted, patches.reshape(*conv.output[:-1], -1), b)


def unfolded_pays(conv: Convolution, wanted: str) -> bool:
    """Whether ``unfolded`` is faster than XLA: at few pixels with many channels, and where the kernel has more pixels.

    There, XLA exchanges the input and the kernel, which makes it slow.
    """
    if wanted == "output" and math.prod(conv.size) > math.prod(conv.input[1:-1]):
        return math.prod(conv.output[:-1]) * math.prod(conv.kernel[:-1]) <= 2**24
    few_pixels = math.prod(conv.output[:-1]) <= 400 and max(conv.lhs_dilation) == 1
    return few_pixels and conv.output[-1] >= (512 if wanted == "output" else 256)


def by_images(conv: Convolution, wanted: str, x: Array, b: Array) -> Array:
    """The gradient of the kernel as a convolution over the images. In a loop, XLA's own is much slower."""
    over = conv.swapped()
    x, b = jnp.swapaxes(x, 0, -1), jnp.moveaxis(b, 0, -2)
    if taller_kernel_pays(over):
        x, b, over = with_taller_kernel(over, x, b)
    return jnp.moveaxis(xla(over, "output", x, b), 0, -2)


def wide(conv: Convolution, wanted: str, x: Array, kernel: Array) -> Array:
    """Some pixels that lie side by side computed as the channels of one: a library is slow at few channels."""
    together, step, columns = pixels_together(conv), conv.strides[-1], conv.output[-2]
    beside = [
        jnp.pad(kernel, [*[(0, 0)] * (len(conv.size) - 1), (i * step, (together - 1 - i) * step), (0, 0), (0, 0)])
        for i in range(together)
    ]
    (*pads, (low, high)), more = conv.pads, -columns % together * step
    joined = conv._replace(strides=(*conv.strides[:-1], step * together), pads=(*pads, (low, high + more)))
    y = xla(joined, wanted, x, jnp.concatenate(beside, -1))
    return y.reshape(*y.shape[:-2], -1, conv.output[-1])[..., :columns, :]


def pixels_together(conv: Convolution) -> int:
    """How many pixels ``wide`` computes as one: 1 if it does not pay."""
    inputs, outputs = conv.kernel[-2:]
    overlap = conv.strides[-1] < conv.size[-1]
    if not overlap or inputs > 16 or {conv.dilation[-1], *conv.lhs_dilation} != {1}:
        return 1
    goal = 64 if inputs == 3 else 32 if inputs < 3 else 16
    together = goal // outputs if goal % outputs == 0 else 16 // outputs
    return max(1, min(together, conv.output[-2]))


def folded(conv: Convolution, wanted: str, kernel: Array, b: Array) -> Array:
    """The gradient of the input: what each pixel of b adds to the pixels under the kernel, then a sum of shifts."""
    inputs, zero = conv.input[-1], jnp.zeros((), b.dtype)
    parts = jnp.tensordot(b, kernel.reshape(-1, conv.output[-1]), ((-1,), (-1,)))
    ends = spans(conv.output, conv.strides)

    def shifted(i: int, at: tuple[int, ...]) -> Array:
        lows = [place - low for place, (low, _) in zip(at, conv.pads, strict=True)]
        rows = zip(conv.input[1:-1], ends, lows, conv.strides, strict=True)
        space = [(low, size - end - low, step - 1) for size, end, low, step in rows]
        return lax.pad(parts[..., i * inputs : (i + 1) * inputs], zero, [(0, 0, 0), *space, (0, 0, 0)])

    return functools.reduce(operator.add, map(shifted, *zip(*enumerate(offsets(conv)), strict=True)))


def folded_pays(conv: Convolution) -> bool:
    """Whether ``folded`` can compute the gradient of the input, and faster than a convolution with a turned kernel."""
    numbers = math.prod(conv.output[:-1]) * math.prod(conv.kernel[:-1])
    return conv.groups == 1 and max(conv.lhs_dilation) == 1 and conv.output[-1] >= 256 and numbers <= 2**26


def by_pixel(conv: Convolution, x: Array, b: Array) -> Array:
    """The gradient of a kernel for each channel: a few pixels of b at a time, for all elements of the kernel at once.

    Each image has its own sums. They are small enough to stay in the cache.
    """
    *rows, columns = conv.output[1:-1]
    steps = -(-columns // PIXELS)
    more = steps * PIXELS - columns
    b, x = (
        jnp.pad(a, [*[(0, 0)] * len(conv.size), (0, pixels), (0, 0)])
        for a, pixels in ((b, more), (padded(conv, x), more * conv.strides[-1]))
    )
    each = b.shape[-1] // x.shape[-1]
    window, pixel = (len(x), *(r + 1 for r in conv.reach), x.shape[-1]), (len(b), *[1] * len(conv.size), b.shape[-1])

    def at_pixel(*at: Any) -> Array:
        first = (place * stride for place, stride in zip(at, conv.strides, strict=True))
        met = lax.slice(lax.dynamic_slice(x, (0, *first, 0), window), (0,) * x.ndim, window, (1, *conv.dilation, 1))
        return jnp.repeat(met, each, -1) * lax.dynamic_slice(b, (0, *at, 0), pixel)

    def add(step: Array, sums: Array) -> Array:
        *row, first = jnp.unravel_index(step, (*rows, steps))
        return sums + functools.reduce(operator.add, [at_pixel(*row, first * PIXELS + i) for i in range(PIXELS)])

    sums = jnp.zeros((len(x), *conv.size, b.shape[-1]), x.dtype)
    return lax.fori_loop(0, math.prod(rows) * steps, add, sums).sum(0).reshape(conv.kernel)


def depthwise(conv: Convolution, wanted: str, x: Array, b: Array) -> Array:
    """Few input channels in each group: a sum of shifted products. The gradient of the kernel is for one channel."""
    inputs, outputs = conv.kernel[-2:]
    each = outputs // conv.groups
    if wanted == "kernel":
        return by_pixel(conv, x, b)

    def compute(x: Array, kernel: Array) -> Array:
        weights = kernel.reshape(-1, inputs, outputs)
        parts = ((tap[..., i::inputs], weights[k, i]) for k, tap in enumerate(taps(conv, x)) for i in range(inputs))
        return functools.reduce(operator.add, (jnp.repeat(part, each, -1) * weight for part, weight in parts))

    return not_inlined(compute)(x, b) if inputs > 1 else compute(x, b)


def depthwise_pays(conv: Convolution, wanted: str) -> bool:
    """Whether ``depthwise`` can compute the convolution, and with few enough products for one loop of XLA."""
    inputs = conv.kernel[-2]
    return inputs == 1 or (wanted == "output" and inputs <= 4 and inputs * math.prod(conv.size) <= 36)


def grouped(conv: Convolution, wanted: str, x: Array, b: Array) -> Array:
    """Some groups at a time as one dense convolution, with zeros in the kernel between them."""
    each = conv.kernel[-2], conv.output[-1] // conv.groups
    together = max(g for g in range(1, conv.groups + 1) if conv.groups % g == 0 and (g == 1 or g * max(each) <= CHUNK))
    inputs, outputs = (together * n for n in each)
    part = conv._replace(
        input=(*conv.input[:-1], inputs),
        kernel=(*conv.size, inputs, outputs),
        output=(*conv.output[:-1], outputs),
        groups=1,
    )

    def compute(i: Array) -> Array:
        xi, bi = (lax.dynamic_slice_in_dim(array, i * n, n, -1) for array, n in ((x, inputs), (b, outputs)))
        if wanted == "output":
            return fastest(part, wanted, xi, block_diagonal(bi, together))
        return blocks(fastest(part, wanted, xi, bi), together)

    parts = lax.map(compute, jnp.arange(conv.groups // together))
    return jnp.moveaxis(parts, 0, -2).reshape(getattr(conv, wanted))


def block_diagonal(kernel: Array, groups: int) -> Array:
    """The kernel (*k, in, out) of dense channels from that (*k, in / groups, out) of groups."""
    *size, inputs, outputs = kernel.shape
    apart = kernel.reshape(*size, 1, inputs, groups, outputs // groups)
    own = jnp.eye(groups, dtype=bool)[:, None, :, None]
    return jnp.where(own, apart, 0).reshape(*size, groups * inputs, outputs)


def blocks(kernel: Array, groups: int) -> Array:
    """The kernel of groups from that of dense channels."""
    *size, inputs, outputs = kernel.shape
    apart = kernel.reshape(*size, groups, inputs // groups, groups, outputs // groups)
    own = jnp.moveaxis(jnp.diagonal(apart, axis1=-4, axis2=-2), -1, -2)
    return own.reshape(*size, inputs // groups, outputs)


def fastest(conv: Convolution, wanted: str, a: Array, b: Array) -> Array:
    """The form that is the fastest on a CPU."""
    empty = min(*conv.input, *conv.kernel, *conv.output) == 0
    if wanted == "input" and not empty and not folded_pays(conv):
        return fastest(conv.reversed(), "output", b, conv.turned(a))
    return (xla if empty else choose(conv, wanted))(conv, wanted, a, b)


def choose(conv: Convolution, wanted: str) -> Form:
    """The form for these shapes; the limits were measured on two cores with AVX-512."""
    if conv.groups > 1:
        return depthwise if depthwise_pays(conv, wanted) else grouped
    if wanted == "input":
        return folded
    if math.prod(conv.size) == 1:
        return pointwise
    if wanted == "output" and winograd_pays(conv):
        return winograd
    if wanted == "output" and pixels_together(conv) > 1:
        return wide
    if unfolded_pays(conv, wanted):
        return unfolded
    if wanted == "kernel":
        return by_images
    return taller if taller_pays(conv) else xla
