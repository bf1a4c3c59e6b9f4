"""Forms of a convolution and of its gradients: XLA's own, and those that a CPU computes faster.

A form takes two of three arrays, input (n, *space, in), kernel (*k, in/groups, out) and output (n, *space, out), and
returns the third: the output, or the gradient of the input or of the kernel for a gradient of the output.
"""

import functools
import itertools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from flax_attn.layers.convolution_shapes import Convolution, spans

CHUNK = 32
"""How many channels of narrow groups are computed as one dense convolution."""

PIXELS = 4
"""How many pixels ``by_pixel`` adds at a time."""

LIBRARY_LACKS_THREADS = jax.__version_info__ < (0, 12)
"""Whether YNNPACK, to which XLA gives most convolutions on a CPU, computes those with few channels on one thread."""

Form = Callable[[Convolution, str, Array, Array], Array]


def xla(conv: Convolution, wanted: str, a: Array, b: Array, **options: Any) -> Array:
    """``lax.conv_general_dilated``, or one of its gradients as JAX derives them."""
    space = "DHW"[-len(conv.size) :]

    def convolve(x: Array, kernel: Array) -> Array:
        return lax.conv_general_dilated(
            x,
            kernel,
            window_strides=conv.strides,
            padding=conv.pads,
            lhs_dilation=conv.lhs_dilation,
            rhs_dilation=conv.dilation,
            dimension_numbers=(f"N{space}C", f"{space}IO", f"N{space}C"),
            feature_group_count=conv.groups,
            **options,
        )

    if wanted == "output":
        return convolve(a, b)
    missing = jax.ShapeDtypeStruct(getattr(conv, wanted), a.dtype)
    if wanted == "input":
        return jax.linear_transpose(lambda x: convolve(x, a), missing)(b)[0]
    return jax.linear_transpose(lambda kernel: convolve(a, kernel), missing)(b)[0]


def padded(conv: Convolution, x: Array) -> Array:
    """The input with its pads, and with zeros between its pixels where it is dilated."""
    space = [(low, high, d - 1) for (low, high), d in zip(conv.pads, conv.lhs_dilation, strict=True)]
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *space, (0, 0, 0)])


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
    """The sum of x (n, *space, i) times b (n, *space, o) over all pixels, as (i, o); a CPU is faster at (o, i)."""
    pixels = list(range(x.ndim - 1))
    return jnp.tensordot(b, x, (pixels, pixels)).T


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


def by_images(conv: Convolution, wanted: str, x: Array, b: Array) -> Array:
    """The gradient of the kernel as a convolution over the images. In a loop, XLA's own takes up to 90 times longer."""
    over = conv.swapped()
    x, b = jnp.swapaxes(x, 0, -1), jnp.moveaxis(b, 0, -2)
    if LIBRARY_LACKS_THREADS and taller_kernel_pays(over):
        x, b, over = with_taller_kernel(over, x, b)
    return jnp.moveaxis(xla(over, "output", x, b), 0, -2)


def taller(conv: Convolution, wanted: str, x: Array, kernel: Array) -> Array:
    """The first rows of an output that is higher than the input, which XLA gives to Eigen, not to YNNPACK."""
    rows = conv.output[1]
    (low, high), *pads = conv.pads
    more = max(0, conv.input[1] + 1 - rows)
    return xla(conv._replace(pads=((low, high + more), *pads)), wanted, x, kernel)[:, :rows]


def taller_pays(conv: Convolution) -> bool:
    """Whether YNNPACK would compute the convolution on one thread, and Eigen has few rows more to compute."""
    steps = {*conv.strides, *conv.lhs_dilation} == {1} and len(conv.size) == 2
    inputs, outputs = conv.kernel[-2:]
    return steps and inputs >= 16 and 16 < outputs <= 96 and conv.input[1] + 1 - conv.output[1] <= conv.output[1] // 6


def taller_kernel_pays(over: Convolution) -> bool:
    """Whether ``with_taller_kernel`` can compute the convolution: XLA exchanges a kernel and a smaller input."""
    if len(over.size) != 2 or {*over.strides, *over.dilation, *over.lhs_dilation} != {1}:
        return False
    rows, columns = over.input[1], over.output[2] + over.size[1] - 1
    many = min(over.input[0], over.output[-1]) > 16
    return many and rows >= over.size[0] and (rows + 1) * over.size[1] < rows * columns


def with_taller_kernel(over: Convolution, x: Array, b: Array) -> tuple[Array, Array, Convolution]:
    """A kernel with rows of zeros that is higher than the input, and an input with its pads at left and right.

    XLA gives such a convolution to Eigen, not to YNNPACK.
    """
    (low, high), sides = over.pads
    more = over.input[1] + 1 - over.size[0]
    wide = over._replace(pads=((low, high + more), (0, 0)))
    x = lax.optimization_barrier(lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), (0, 0, 0), (*sides, 0), (0, 0, 0)]))
    return x, jnp.pad(b, [(0, more), (0, 0), (0, 0), (0, 0)]), wide


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
    if inputs > 16 or {conv.dilation[-1], *conv.lhs_dilation} != {1}:
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
    """A kernel of its own for each channel: a sum of shifted products."""
    each = conv.output[-1] // conv.groups
    if wanted == "kernel":
        return by_pixel(conv, x, b)
    x = jnp.repeat(x, each, -1) if each > 1 else x
    terms = zip(taps(conv, x), b.reshape(-1, conv.output[-1]), strict=True)
    return functools.reduce(operator.add, (tap * weight for tap, weight in terms))


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


SIDES = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
KERNEL = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))
BACK = ((1, 1, 1, 0), (0, 1, -1, -1))


def winograd_pays(conv: Convolution) -> bool:
    """Whether ``winograd`` can compute the convolution, and faster than XLA."""
    possible = (conv.size, conv.strides, conv.dilation, conv.lhs_dilation) == ((3, 3), (1, 1), (1, 1), (1, 1))
    channels = set(conv.kernel[-2:]) <= set(range(64, 81))
    return possible and channels and conv.output[0] > 1 and 196 <= tiles(conv) <= 3200


def tiles(conv: Convolution) -> int:
    """How many squares of 2x2 pixels cover the output of one image."""
    return math.prod(-(-n // 2) for n in conv.output[1:-1])


def winograd(conv: Convolution, wanted: str, x: Array, kernel: Array) -> Array:
    """A 3x3 kernel with 16 products for each 2x2 pixels in place of 36; as many images at a time as the cache holds.

    Source: F(2x2, 3x3) in Lavin, Gray 2016, https://arxiv.org/abs/1509.09308.
    """
    n, h, w, _ = conv.output
    rows, columns = -(-h // 2), -(-w // 2)
    even = conv._replace(pads=tuple((low, high + k % 2) for (low, high), k in zip(conv.pads, (h, w), strict=True)))
    weights = jnp.einsum("ai,bj,ijco->abco", np.array(KERNEL), np.array(KERNEL), kernel).astype(x.dtype)
    together = math.gcd(n, max(1, 1600 // tiles(conv)))

    def images(x: Array) -> Array:
        x = mixed(SIDES, [x[:, i : i + 2 * rows - 1 : 2] for i in range(4)], 0)
        x = mixed(SIDES, [x[:, :, :, j : j + 2 * columns - 1 : 2] for j in range(4)], 1)
        y = jnp.einsum("abnhwc,abco->abnhwo", x, weights)
        y = mixed(BACK, [mixed(BACK, list(row), 3) for row in y], 2)
        return y.reshape(together, 2 * rows, 2 * columns, -1)[:, :h, :w]

    x = padded(even, x)
    return lax.map(images, x.reshape(-1, together, *x.shape[1:])).reshape(conv.output)


def mixed(matrix: Sequence[Sequence[int]], arrays: list[Array], axis: int) -> Array:
    """The sums of ``arrays`` with the weights of each row of ``matrix``, which are 1, 0 and -1, on a new axis."""
    terms = [[a if weight == 1 else -a for weight, a in zip(row, arrays, strict=True) if weight] for row in matrix]
    return jnp.stack([functools.reduce(operator.add, row) for row in terms], axis)


def fastest(conv: Convolution, wanted: str, a: Array, b: Array) -> Array:
    """The form that is the fastest on a CPU."""
    empty = min(*conv.input, *conv.kernel, *conv.output) == 0
    if wanted == "input" and not empty and not folded_pays(conv):
        return fastest(conv.reversed(), "output", b, conv.turned(a))
    return (xla if empty else choose(conv, wanted))(conv, wanted, a, b)


def choose(conv: Convolution, wanted: str) -> Form:
    """The form for these shapes; the limits were measured on two cores with AVX-512."""
    if conv.groups > 1:
        return depthwise if conv.kernel[-2] == 1 else grouped
    if wanted == "input":
        return folded
    if math.prod(conv.size) == 1:
        return pointwise
    if wanted == "output" and winograd_pays(conv):
        return winograd
    if wanted == "output" and pixels_together(conv) > 1:
        return wide
    few_pixels = math.prod(conv.output[:-1]) <= 400 and max(conv.lhs_dilation) == 1
    if few_pixels and conv.output[-1] >= (512 if wanted == "output" else 256):
        return unfolded
    if wanted == "output" and LIBRARY_LACKS_THREADS and taller_pays(conv):
        return taller
    return xla if wanted == "output" else by_images
