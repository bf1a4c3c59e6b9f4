"""Winograd's form of a convolution with a 3x3 kernel.

Source: F(2x2, 3x3) in Lavin, Gray 2016, https://arxiv.org/abs/1509.09308.
"""

import functools
import math
import operator
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from flax_attn.layers.convolution_shapes import Convolution, padded

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
    """A 3x3 kernel with 16 products for each 2x2 pixels in place of 36; as many images at a time as the cache holds."""
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
