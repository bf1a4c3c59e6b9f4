"""The forms in which other code holds one array of ours: in parts, as a convolution, scaled, and the like."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

Shape = tuple[int, ...]


class Form(NamedTuple):
    """How one array here is computed from foreign arrays, its parts, and the parts from the array.

    Args:
        shape: the shape of the array, from the shapes of the parts. ValueError says which shapes were expected.
        read: the array, from the parts.
        split: the shapes of the parts, from the shape of the array and their number.
        write: the parts, from the array and their number. None if the parts cannot be computed.
        exact: whether reading and then writing an array of this shape gives back its parts to the bit.
    """

    shape: Callable[[Sequence[Shape]], Shape]
    read: Callable[[Sequence[np.ndarray]], np.ndarray]
    split: Callable[[Shape, int], Sequence[Shape]]
    write: Callable[[np.ndarray, int], Sequence[np.ndarray]] | None
    exact: Callable[[Shape], bool] = lambda shape: True


def _expect(fits: bool, expected: str, shapes: Sequence[Shape]) -> None:
    if not fits:
        raise ValueError(f"expected {expected}, found {', '.join(map(str, shapes))}")


def _first(shapes: Sequence[Shape]) -> Shape:
    return shapes[0]


def _alike(shape: Shape, n: int) -> Sequence[Shape]:
    return [shape] * n


def _rows(shapes: Sequence[Shape]) -> Shape:
    _expect(len(set(shapes)) == 1 and len(shapes[0]) > 0, "parts of one shape", shapes)
    return (len(shapes) * shapes[0][0], *shapes[0][1:])


def _split_rows(shape: Shape, n: int) -> Sequence[Shape]:
    _expect(len(shape) > 0 and shape[0] % n == 0, f"a number of rows that {n} divides", [shape])
    return [(shape[0] // n, *shape[1:])] * n


def _pointwise(shapes: Sequence[Shape]) -> Shape:
    _expect(len(shapes[0]) == 4 and shapes[0][2:] == (1, 1), "a 1x1 convolution's weight", shapes)
    return shapes[0][:2]


def _split_pointwise(shape: Shape, n: int) -> Sequence[Shape]:
    _expect(len(shape) == 2, "a linear layer's weight", [shape])
    return [(*shape, 1, 1)]


def _scalar(shapes: Sequence[Shape]) -> Shape:
    _expect(shapes[0] == (), "a number without axes", shapes)
    return (1,)


def _split_scalar(shape: Shape, n: int) -> Sequence[Shape]:
    _expect(shape == (1,), "one number", [shape])
    return [()]


def _nothing(x: np.ndarray, n: int) -> Sequence[np.ndarray]:
    if np.any(x):
        raise ValueError("expected zeros, because the dialect has no key for this array, found other numbers")
    return []


SAME = Form(_first, lambda parts: parts[0], _alike, write=lambda x, n: [x])

ROWS = Form(_rows, np.concatenate, _split_rows, write=lambda x, n: np.split(x, n))
"""Parts of one shape, concatenated along the first axis."""

POINTWISE = Form(
    _pointwise, lambda parts: parts[0][:, :, 0, 0], _split_pointwise, write=lambda x, n: [x[:, :, None, None]]
)
"""The weight (o, i, 1, 1) of a 1x1 convolution, which is the weight (o, i) of a linear layer here."""

SCALAR = Form(_scalar, lambda parts: parts[0][None], _split_scalar, write=lambda x, n: [x[0]])
"""A scalar, which has shape (1,) here."""


def _scaled(times: int) -> Form:
    """Divided by the square root of ``times`` the number of rows; exact if that root is a power of 2."""

    def root(shape: Shape) -> float:
        return (times * shape[0]) ** 0.5

    def shape(shapes: Sequence[Shape]) -> Shape:
        fits = times == 1 or len(shapes[0]) < 2 or shapes[0][1] == times * shapes[0][0]
        _expect(fits, f"{times} times as many columns as rows", shapes)
        return shapes[0]

    def read(parts: Sequence[np.ndarray]) -> np.ndarray:
        return (parts[0] * root(parts[0].shape) ** -1).astype(parts[0].dtype)

    def write(x: np.ndarray, n: int) -> Sequence[np.ndarray]:
        return [(x * root(x.shape)).astype(x.dtype)]

    return Form(shape, read, _alike, write=write, exact=lambda shape: bool(np.frexp(root(shape))[0] == 0.5))


SCALED = _scaled(1)
"""Divided by the square root of the number of rows. The inverse is exact if that root is a power of 2, else rounded."""

SCALED_8 = _scaled(8)
"""The same with 8 times the number of rows, which is the number of columns."""

POSITIVE = Form(
    _first,
    lambda parts: (np.abs(parts[0]) + 1e-5).astype(parts[0].dtype),
    _alike,
    write=None,
    exact=lambda shape: False,
)
"""|weight| + eps. There is no inverse, because the sign is lost."""

ZEROS = Form(
    lambda shapes: shapes[0][:1],
    lambda parts: np.zeros(parts[0].shape[:1], parts[0].dtype),
    lambda shape, n: [],
    write=_nothing,
)
"""A bias of zeros that the foreign code does not have. Its length is the number of rows of the weight.

An array with other numbers cannot be written.
"""
