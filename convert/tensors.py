"""Turns arrays of any library into numpy arrays, bit for bit. PyTorch tensors are read without importing torch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import ml_dtypes
import numpy as np

Key = TypeVar("Key")

CHUNK = 2**22
"""How many bytes are compared at a time."""


@dataclass(frozen=True, eq=False)
class Lazy:
    """An array that ``make`` computes when it is called."""

    shape: tuple[int, ...]
    dtype: np.dtype
    make: Callable[[], np.ndarray]


def as_numpy(value: Any) -> np.ndarray:
    """``value`` as a numpy array of the same dtype, in the byte order of this machine; without a copy where possible.

    A torch tensor may be on any device, require gradients, and be of a dtype that numpy lacks, such as bfloat16.
    """
    if isinstance(value, Lazy):
        return _native(value.make())
    if not hasattr(value, "detach"):
        return _native(np.asarray(value))
    tensor = value.detach().cpu().resolve_conj().resolve_neg().contiguous()
    name = str(tensor.dtype).removeprefix("torch.")
    if not hasattr(ml_dtypes, name):
        return tensor.numpy()
    uint8 = tensor.new_empty(0).byte().dtype
    raw = tensor.reshape(-1).view(uint8).numpy()
    return raw.view(getattr(ml_dtypes, name)).reshape(tuple(tensor.shape))


def _native(array: np.ndarray) -> np.ndarray:
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def owned(arrays: Mapping[Key, np.ndarray | Lazy]) -> dict[Key, np.ndarray]:
    """The arrays, each C-contiguous, writable and in memory of its own. They are made and copied one at a time.

    An array that is no view is taken for one that nobody else holds.
    """
    found: dict[Key, np.ndarray] = {}
    taken = set()
    for key, value in arrays.items():
        array = as_numpy(value)
        own = type(array) is np.ndarray and array.base is None and array.flags.owndata and id(array) not in taken
        found[key] = array if own and array.flags.carray else np.array(array, order="C", subok=False)
        taken.add(id(found[key]))
    return found


def same_bits(a: Any, b: Any) -> bool:
    """Whether two arrays of one shape have the same dtype and bits. Arrays that are the same memory are not read."""
    a, b = as_numpy(a), as_numpy(b)
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    if a.__array_interface__["data"] == b.__array_interface__["data"] and a.strides == b.strides:
        return True
    a, b = (np.ascontiguousarray(x).reshape(-1).view(np.uint8) for x in (a, b))
    return all(np.array_equal(a[i : i + CHUNK], b[i : i + CHUNK]) for i in range(0, a.size, CHUNK))
