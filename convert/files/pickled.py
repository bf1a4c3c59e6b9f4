"""The plain data that stand for what the pickle of a checkpoint mentions. Nothing is imported.

A class or function that the pickle mentions becomes a ``Name``. A call of a ``Name`` becomes a dict, a tuple or a
``Tensor`` if ``convert/files/calls.py`` has it, else an ``Inert`` object.
"""

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from convert.errors import RefusedError

INT64 = range(-(2**63), 2**63)


@dataclass(frozen=True)
class Name:
    """A class, function or dtype that the file mentions: its dotted name and nothing else."""

    dotted: str


@dataclass(eq=False, slots=True, repr=False)
class Inert:
    """An object of a class that is not imported: its name, and as data what the file says of it.

    Args:
        name: the dotted name of the class or function.
        arguments: what the file calls it with.
        state: what the file sets as its state, usually its attributes by name; None if it sets none.
        entries: the entries of the object, where its class derives from dict.
        items: the items of the object, where its class derives from list, deque or set.
        reason: why the object cannot be read as an array, where it is a kind of tensor.
    """

    name: str
    arguments: Any = ()
    state: Any = None
    entries: dict | None = None
    items: list | None = None
    reason: str = ""

    def __repr__(self) -> str:
        return f"<{self.name}>"


@dataclass(frozen=True)
class Storage:
    """Elements ``start`` to ``start + count`` of the flat buffer ``key``, whose bytes are not in the pickle."""

    key: str | int
    dtype: np.dtype
    start: int
    count: int

    def __post_init__(self) -> None:
        _check_naturals(self.start, self.count)


@dataclass(frozen=True)
class Tensor:
    """A strided view of a storage. ``offset`` and ``stride`` count elements of ``dtype``."""

    storage: Storage
    dtype: np.dtype
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def __post_init__(self) -> None:
        shaped = type(self.size) is type(self.stride) is tuple and len(self.size) == len(self.stride) <= 64
        if type(self.storage) is not Storage or not shaped:
            raise RefusedError(
                "expected a tensor with a storage and as many sizes as strides, at most 64, got something else"
            )
        _check_naturals(self.offset, *self.size, *self.stride)

    @property
    def reach(self) -> int:
        """How many elements of its storage the tensor needs."""
        last = sum((n - 1) * step for n, step in zip(self.size, self.stride, strict=True))
        return 0 if 0 in self.size else self.offset + last + 1


def _check_naturals(*numbers: Any) -> None:
    if not all(type(n) is int and 0 <= n < 2**63 for n in numbers):
        raise RefusedError("expected sizes, strides and offsets from 0 to 2**63 - 1, got something else")


DTYPES = {
    f"torch.{name}": np.dtype(getattr(ml_dtypes, name, name))
    for name in (
        *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
        *("float16", "float32", "float64", "bfloat16", "complex64", "complex128"),
        *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
    )
}

STORAGES = {
    f"{module}.{name}Storage": DTYPES[f"torch.{dtype}"]
    for module in ("torch", "torch.cuda", "torch.storage")
    for name, dtype in (
        dict(Bool="bool", Byte="uint8", Char="int8", Short="int16", Int="int32", Long="int64", Untyped="uint8")
        | dict(Half="float16", Float="float32", Double="float64", BFloat16="bfloat16", QInt8="int8", QUInt8="uint8")
        | dict(QInt32="int32", QUInt4x2="uint8", QUInt2x4="uint8")
        | dict(ComplexFloat="complex64", ComplexDouble="complex128")
    ).items()
}
