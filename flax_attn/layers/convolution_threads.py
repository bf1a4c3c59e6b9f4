"""XLA's own convolution, and forms in which a CPU computes it on all threads.

Trap: on a CPU, XLA gives most convolutions to a library, YNNPACK. It gives each thread some output channels if there
are more than 64, or some pixels of a row if the row has hundreds. Otherwise one thread computes everything.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from flax_attn.layers.convolution_shapes import Convolution

LIBRARY_LACKS_THREADS = jax.__version_info__ < (0, 12)
"""Whether YNNPACK computes most convolutions with few output channels on one thread."""


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


def threaded(conv: Convolution, wanted: str, x: Array, kernel: Array) -> Array:
    """The convolution, in a form that XLA computes on all threads if there is one that pays."""
    if LIBRARY_LACKS_THREADS and in_one_row_pays(conv):
        return in_one_row(conv, wanted, x, kernel)
    if LIBRARY_LACKS_THREADS and taller_pays(conv):
        return taller(conv, wanted, x, kernel)
    return xla(conv, wanted, x, kernel)


def in_one_row(conv: Convolution, wanted: str, x: Array, kernel: Array) -> Array:
    """All images side by side as one wide image, with columns of zeros between them: YNNPACK shares long rows."""
    n, rows, columns, channels = conv.input
    step, (low, _) = conv.strides[1], conv.pads[1]
    pitch = distance(conv)
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), (0, 0, 0), (0, pitch - columns, 0), (0, 0, 0)])
    x = jnp.swapaxes(x, 0, 1).reshape(1, rows, n * pitch, channels)
    high = conv.reach[1] + 1 - step - low
    y = xla(conv._replace(pads=(conv.pads[0], (low, high))), wanted, x, kernel)
    y = y.reshape(conv.output[1], n, pitch // step, conv.output[3])[:, :, : conv.output[2]]
    return jnp.swapaxes(y, 0, 1)


def distance(conv: Convolution) -> int:
    """The columns from the start of one image to that of the next so that no output sees two images."""
    step, (low, _) = conv.strides[1], conv.pads[1]
    end = (conv.output[2] - 1) * step + conv.reach[1] + 1 - low
    return -(-max(conv.input[2] + max(0, low), end, conv.output[2] * step) // step) * step


def in_one_row_pays(conv: Convolution) -> bool:
    """Whether YNNPACK would compute the convolution on one thread, and the copies cost little beside the products."""
    inputs, outputs = conv.kernel[-2:]
    if len(conv.size) != 2 or {*conv.dilation, *conv.lhs_dilation} != {1} or inputs < 16 or not 16 < outputs <= 64:
        return False
    pitch = distance(conv)
    long = conv.output[0] * pitch // conv.strides[1] >= 2 * pixels_of_thread(conv)
    products = math.prod(conv.output) * math.prod(conv.kernel[:-1])
    return conv.output[0] > 1 and long and pitch <= 1.25 * conv.input[2] and products >= 2**26


def pixels_of_thread(conv: Convolution) -> int:
    """How many pixels of a row YNNPACK gives to a thread at once if there are at most 64 output channels."""
    products, outputs = math.prod(conv.kernel[:-1]), conv.kernel[-1]
    goal = max(64, min(2**16 // products - outputs, 2**16 // outputs))
    return 1 << (goal - 1).bit_length()


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
