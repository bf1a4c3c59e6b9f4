"""The arrays of a file by their keys, and the bytes of each."""

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from convert.errors import CheckpointError, RefusedError, shown
from convert.tensors import Lazy, as_numpy

PIECE = 1 << 20
"""About how many bytes are copied at a time."""


def flat(variables: Mapping[str, Any], dtypes: Collection[str], form: str) -> dict[str, Any]:
    """The leaves of nested dicts by keys such as "params/fc/0/kernel", in the order of the dicts.

    Args:
        dtypes: the names of the dtypes that the file format ``form`` can hold.

    Raises:
        RefusedError: if the variables are no nested dicts of arrays of these dtypes, by strings without a slash.
    """
    if not isinstance(variables, Mapping):
        raise RefusedError(f"expected nested dicts of arrays, got {type(variables).__name__}")
    found = traverse_util.flatten_dict(dict(variables))
    for path in found:
        if not all(isinstance(part, str) and "/" not in part for part in path):
            raise RefusedError(f"expected keys that are strings without a slash, got {path}")
    leaves = {"/".join(path): leaf for path, leaf in found.items()}
    check_leaves(leaves, dtypes, form)
    return leaves


def check_leaves(leaves: Mapping[str, Any], dtypes: Collection[str], form: str) -> None:
    """RefusedError if a leaf is no array, or none of a dtype that the file format ``form`` can hold."""
    for key, leaf in leaves.items():
        known = isinstance(leaf, np.ndarray | np.generic | jax.Array | Lazy)
        if not known or leaf.dtype.name not in dtypes:
            kind = getattr(leaf, "dtype", type(leaf).__name__)
            raise RefusedError(f"expected arrays of dtypes that {form} has, got {kind} at {shown(key)}")


def size(leaf: Any) -> int:
    """The number of bytes of an array."""
    return math.prod(leaf.shape) * leaf.dtype.itemsize


def made(key: str, leaf: Any) -> np.ndarray:
    """The array of a leaf, little-endian and in row-major order, with the errors of ``pieces``."""
    array = _little_endian(_checked(key, leaf))
    return np.ascontiguousarray(array).reshape(array.shape)


def pieces(key: str, leaf: Any) -> Iterator[memoryview]:
    """The bytes of a leaf, little-endian and in row-major order, without a second copy of a transposed array.

    Raises:
        CheckpointError: if the numbers cannot be read where they come from.
        RefusedError: if a leaf turns out to be of another shape or dtype than it said.
    """
    for part in _parts(_checked(key, leaf)):
        yield np.ascontiguousarray(_little_endian(part)).reshape(-1).view(np.uint8).data


def _parts(array: np.ndarray) -> Iterator[np.ndarray]:
    """Parts of an array along its first axes, each contiguous or of about ``PIECE`` bytes."""
    if array.flags.c_contiguous or array.nbytes <= PIECE:
        yield array
        return
    rows = max(1, len(array) * PIECE // array.nbytes)
    for start in range(0, len(array), rows):
        part = array[start : start + rows]
        yield from _parts(part[0]) if rows == 1 else [part]


def _checked(key: str, leaf: Any) -> np.ndarray:
    """The array of a leaf, if it is what the leaf says of itself."""
    try:
        array = as_numpy(leaf)
    except OSError as error:
        raise CheckpointError(
            f"{error.filename or shown(key)}: could not be read: {error.strerror or error}"
        ) from error
    if array.shape != tuple(leaf.shape) or array.dtype.name != leaf.dtype.name:
        raise RefusedError(
            f"could not be written: expected {leaf.dtype.name} {tuple(leaf.shape)} at {shown(key)}, "
            f"got {array.dtype.name} {array.shape}"
        )
    return array


def _little_endian(array: np.ndarray) -> np.ndarray:
    swapped = array.dtype.byteorder == ">" or (array.dtype.byteorder == "=" and not np.little_endian)
    return array.astype(array.dtype.newbyteorder("<")) if swapped else array
