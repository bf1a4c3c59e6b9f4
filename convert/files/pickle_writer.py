"""Writes the pickle of a checkpoint, without PyTorch: protocol 2, with the few opcodes that ``weights_only`` allows."""

import math
import struct
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np

from convert.errors import RefusedError, shown
from convert.files.pickled import Inert
from convert.tensors import Lazy, as_numpy
from convert.writing.leaves import check_leaves, size

STORAGES = (
    dict(bool="Bool", uint8="Byte", int8="Char", int16="Short", int32="Int", int64="Long")
    | dict(float16="Half", float32="Float", float64="Double", bfloat16="BFloat16")
    | dict(complex64="ComplexFloat", complex128="ComplexDouble")
)
"""The name of PyTorch's class of storage for a dtype."""

UNTYPED = (
    *("uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"),
    "float8_e8m0fnu",
)
"""Dtypes without a class of storage. Their tensors name the dtype, and their storage counts bytes."""

DEEPEST = 100
"""How many containers may lie in one another."""

WIDEST = 255
"""How many bytes an integer has at most: the opcode of a wider one is refused by ``weights_only``."""

KINDS = "dicts, lists and tuples of arrays, numbers, strings and None"
"""What can be written."""


def is_tensor(value: Any) -> bool:
    """Whether ``value`` is a tensor of PyTorch."""
    return hasattr(value, "detach") and hasattr(value, "untyped_storage")


def is_array(value: Any) -> bool:
    """Whether ``value`` is written as a tensor. Scalars of numpy are none: they become numbers."""
    return isinstance(value, np.ndarray | jax.Array | Lazy) or is_tensor(value)


class Pickle:
    """The pickle of nested containers, which ``write`` returns.

    Attributes:
        arrays: the array in each storage and the keys that lead to it, joined by dots. The number of a storage is its
            index in this list. Values that are the same memory, in the same order, share a storage.
    """

    def __init__(self) -> None:
        self.arrays: list[tuple[str, Any]] = []
        self.numbers: dict[Any, int] = {}
        self.known: dict[int, tuple[int, Any]] = {}
        self.open: set[int] = set()
        self.held: list[Any] = []

    def write(self, value: Any) -> bytes:
        """The whole pickle.

        Raises:
            RefusedError: if something inside is no plain data.
        """
        return b"\x80\x02" + self.value(value, "") + b"."

    def value(self, value: Any, place: str) -> bytes:
        """The opcodes that put ``value`` on the stack; ``place`` is what a message calls it."""
        if is_array(value):
            return self.tensor(value, place)
        if isinstance(value, Mapping) or type(value) in (list, tuple):
            return self.container(value, place)
        return plain(value, place)

    def container(self, value: Any, place: str) -> bytes:
        """A dict, list or tuple. One that occurs more than once is written once, and recalled."""
        if id(value) in self.open:
            raise RefusedError(f"expected containers that do not hold themselves, got one that does{_at(place)}")
        if id(value) in self.known:
            return b"j" + struct.pack("<I", self.known[id(value)][0])
        if len(self.open) == DEEPEST:
            raise RefusedError(f"expected at most {DEEPEST} containers in one another, got more{_at(place)}")
        self.open.add(id(value))
        content = self.mapping(value, place) if isinstance(value, Mapping) else self.sequence(value, place)
        self.open.remove(id(value))
        self.known[id(value)] = len(self.known), value
        return content + b"r" + struct.pack("<I", self.known[id(value)][0])

    def mapping(self, value: Mapping, place: str) -> bytes:
        """An ordered dict or a counter as such, any other mapping as a dict."""
        kinds = {OrderedDict: ORDERED_DICT, Counter: COUNTER}
        empty = next((opcodes for kind, opcodes in kinds.items() if isinstance(value, kind)), b"}")
        inside = []
        for key, entry in value.items():
            below = f"{place}.{key}" if place else str(key)
            inside += [_key(key, below), self.value(entry, below)]
        return empty + (b"(" + b"".join(inside) + b"u" if inside else b"")

    def sequence(self, value: list | tuple, place: str) -> bytes:
        inside = b"".join(self.value(item, f"{place}.{i}".lstrip(".")) for i, item in enumerate(value))
        if type(value) is tuple:
            return b"(" + inside + b"t" if value else b")"
        return b"](" + inside + b"e" if value else b"]"

    def tensor(self, value: Any, place: str) -> bytes:
        """A call of the function that PyTorch builds a tensor with. It is given storage, offset, shape and strides."""
        self.held.append(value)
        identity = _identity(value)
        if identity not in self.numbers:
            array = _array(value, place)
            check_leaves({place: array}, {*STORAGES, *UNTYPED}, "PyTorch")
            self.numbers[identity] = len(self.arrays)
            self.arrays.append((place, array))
        number = self.numbers[identity]
        return _tensor(self.arrays[number][1], number)


def _identity(value: Any) -> Any:
    """Equal for two values that are the same memory, in the same order."""
    if is_tensor(value) and str(value.layout) == "torch.strided" and value.numel() and not value.is_meta:
        flags = value.is_conj(), value.is_neg()
        return str(value.device), value.data_ptr(), str(value.dtype), tuple(value.shape), value.stride(), flags
    if isinstance(value, np.ndarray) and value.size:
        return value.__array_interface__["data"][0], value.dtype, value.shape, value.strides
    return id(value)


def _array(value: Any, place: str) -> Any:
    """A tensor of PyTorch as an array: at once if it needs no copy, else when it is written."""
    if not is_tensor(value):
        return value
    if str(value.layout) != "torch.strided" or value.is_meta or value.is_quantized:
        raise RefusedError(f"expected plain tensors, got one that is sparse, quantized or without numbers{_at(place)}")
    name = str(value.dtype).removeprefix("torch.")
    if name not in {*STORAGES, *UNTYPED}:
        raise RefusedError(f"expected tensors of dtypes that numpy or ml_dtypes has, got {name}{_at(place)}")
    if value.is_contiguous() and str(value.device) == "cpu":
        return as_numpy(value)
    dtype = as_numpy(value.detach().new_empty(0, device="cpu")).dtype
    return Lazy(tuple(value.shape), dtype, partial(as_numpy, value))


def _key(key: Any, place: str) -> bytes:
    if type(key) is tuple:
        return b"(" + b"".join(_key(part, place) for part in key) + b"t" if key else b")"
    if key is None or isinstance(key, str | np.generic) or type(key) in (int, float, bool):
        return plain(key, place)
    kinds = "strings, numbers, None or tuples of these"
    raise RefusedError(f"expected {kinds} as keys, got {type(key).__name__}{_at(place)}")


def plain(value: Any, place: str) -> bytes:
    """A number, string, truth value or None.

    Raises:
        RefusedError: if ``value`` is none of these.
    """
    value = _python(value) if isinstance(value, np.generic) else value
    if value is None:
        return b"N"
    if type(value) is bool:
        return b"\x88" if value else b"\x89"
    if type(value) is int:
        return integer(value, place)
    if type(value) is float:
        return b"G" + struct.pack(">d", value)
    if type(value) is str:
        return text(value)
    name = f"an object of {shown(value.name)}" if type(value) is Inert else type(value).__name__
    raise RefusedError(f"expected {KINDS}, got {name}{_at(place)}; leave it out or write it as one of these")


def _python(value: np.generic) -> Any:
    """The Python number or string of a scalar of numpy; the scalar itself where Python has no such type."""
    found = value.item() if value.dtype.kind not in "mM" else value
    return found if type(found) in (bool, int, float, str) else value


def integer(number: int, place: str = "") -> bytes:
    """Four bytes with a sign, or, for large numbers, as many as it needs."""
    if -(2**31) <= number < 2**31:
        return b"J" + struct.pack("<i", number)
    count = number.bit_length() // 8 + 1
    if count > WIDEST:
        raise RefusedError(f"expected integers of at most {WIDEST} bytes, got one of {count}{_at(place)}")
    return b"\x8a" + bytes([count]) + number.to_bytes(count, "little", signed=True)


def text(content: str) -> bytes:
    """A string."""
    encoded = content.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def _tensor(array: Any, storage: int) -> bytes:
    name = array.dtype.name
    shape = tuple(array.shape)
    strides = [math.prod(max(length, 1) for length in shape[i + 1 :]) for i in range(len(shape))]
    typed = name in STORAGES
    kind = _class("torch", f"{STORAGES[name]}Storage") if typed else _class("torch.storage", "UntypedStorage")
    count = size(array) // array.dtype.itemsize if typed else size(array)
    place = b"(" + text("storage") + kind + text(str(storage)) + text("cpu") + integer(count) + b"tQ"
    view = integer(0) + _integers(shape) + _integers(strides) + b"\x89" + ORDERED_DICT
    function = _class("torch._utils", f"_rebuild_tensor_v{2 if typed else 3}")
    return function + b"(" + place + view + (b"" if typed else _class("torch", name)) + b"tR"


def _integers(numbers: Iterable[int]) -> bytes:
    return b"(" + b"".join(map(integer, numbers)) + b"t"


def _class(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


ORDERED_DICT = _class("collections", "OrderedDict") + b")R"
COUNTER = _class("collections", "Counter") + b")R"
"""The opcodes that make an empty ordered dict."""


def _at(place: str) -> str:
    return f" at {shown(place)}" if place else ""
