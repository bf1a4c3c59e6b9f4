"""XLA's own convolution, and forms in which a CPU computes it on all threads.

Trap: on a CPU, XLA gives most convolutions to a library, YNNPACK. That of jaxlib 0.10 gives each thread some output
channels if there are more than 64, or some pixels of a row if the row has hundreds. Otherwise one thread computes
everything.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from flax_attn.layers.convolution_shapes import Convolution

LIBRARY_LACKS_THREADS = jax.__version_info__ < (0, 12)
"""Whether YNNPACK computes most convolutions with few output channels on one thread; that of jax 0.12 does not."""


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


def taller(conv: Convolution, wanted: str, x: Array, kernel: Array) -> Array:
    """The first rows of an output that is higher than the input, which XLA gives to Eigen, not to YNNPACK."""
    rows = conv.output[1]
    (low, high), *pads = conv.pads
    more = max(0, conv.input[1] + 1 - rows)
    return xla(conv._replace(pads=((low, high + more), *pads)), wanted, x, kernel)[:, :rows]


def taller_pays(conv: Convolution) -> bool:
    """Whether YNNPACK would compute the convolution on one thread, and Eigen has few rows more to compute."""
    if not LIBRARY_LACKS_THREADS:
        return False
    steps = {*conv.strides, *conv.lhs_dilation} == {1} and len(conv.size) == 2
    inputs, outputs = conv.kernel[-2:]
    return steps and inputs >= 16 and 16 < outputs <= 96 and conv.input[1] + 1 - conv.output[1] <= conv.output[1] // 6


def taller_kernel_pays(over: Convolution) -> bool:
    """Whether ``with_taller_kernel`` can compute the convolution: XLA exchanges a kernel and a smaller input."""
    if not LIBRARY_LACKS_THREADS or len(over.size) != 2 or {*over.strides, *over.dilation, *over.lhs_dilation} != {1}:
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
