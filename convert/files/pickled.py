"""What the pickle of a state dict may mention, and the plain data that stands for it. Nothing is imported.

A class or function that the pickle mentions becomes a ``Name``, if one of the tables here lists it. To call a ``Name``
builds what the tables say: a dict, a tuple, the description of a tensor, or an ``Opaque``, which stands for an object
of which only the class name is kept.
"""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from convert.errors import RefusedError, damage, shown

INT64 = range(-(2**63), 2**63)


class UnlistedError(RefusedError):
    """The pickle names a class or function that none of the tables here lists."""


@dataclass(frozen=True)
class Name:
    """A class, function or dtype that the file mentions: its dotted name and nothing else."""

    dotted: str


@dataclass(frozen=True)
class Opaque:
    """An object that no state dict needs: the name of its class and nothing else."""

    dotted: str


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
        | dict(Half="float16", Float="float32", Double="float64", BFloat16="bfloat16")
        | dict(ComplexFloat="complex64", ComplexDouble="complex128")
    ).items()
}

INERT = {
    *("torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer"),
    *("torch.device", "torch.serialization._get_layout", "_codecs.encode", "argparse.Namespace"),
    *("numpy.dtype", "numpy.ndarray"),
    *(
        f"numpy.{core}.{name}"
        for core in ("core", "_core")
        for name in ("multiarray.scalar", "multiarray._reconstruct", "numeric._frombuffer")
    ),
    *(
        f"{module}.{name}"
        for module in ("builtins", "__builtin__")
        for name in ("bool", "bytearray", "complex", "dict", "float", "frozenset", "int", "list", "set", "str", "tuple")
    ),
}


def _tensor(storage: Any, offset: Any, size: Any, stride: Any) -> Tensor:
    dtype: Any = getattr(storage, "dtype", None)
    return Tensor(storage, dtype, offset, size=size, stride=stride)


def _tensor_v2(storage: Any, offset: Any, size: Any, stride: Any, _grad: Any, _hooks: Any, flags: Any = None) -> Tensor:
    if flags:
        raise RefusedError("expected plain tensors, got one that waits to be conjugated or negated")
    return _tensor(storage, offset, size, stride)


def _tensor_v3(storage: Any, offset: Any, size: Any, stride: Any, _grad: Any, _hooks: Any, dtype: Any) -> Tensor:
    if type(dtype) is not Name or dtype.dotted not in DTYPES:
        raise RefusedError("expected a tensor of a dtype that numpy or ml_dtypes has, got one of another dtype")
    return Tensor(storage, DTYPES[dtype.dotted], offset, size=size, stride=stride)


def _parameter(data: Any, _grad: Any, _hooks: Any, _state: Any = None) -> Tensor:
    if type(data) is not Tensor:
        raise RefusedError("expected a parameter to hold a tensor, got something else")
    return data


def _subclass(function: Any, _kind: Any, arguments: Any, _state: Any) -> Any:
    """A tensor of a subclass: ``function`` builds the tensor, the class is dropped. No second subclass inside."""
    if function == Name("torch._tensor._rebuild_from_type_v2"):
        raise RefusedError("expected a subclass to hold a tensor, got one that holds another subclass")
    return call(function, arguments)


def _ordered_dict(pairs: Any = None) -> dict:
    """Python 2 passes a list of pairs. The list is emptied, so that a file cannot have it copied a million times."""
    if pairs is not None and type(pairs) is not list:
        raise RefusedError(f"expected an ordered dict of a list of pairs, got {type(pairs).__name__}")
    built: dict = {}
    while pairs:
        pair = pairs.pop()
        if type(pair) not in (list, tuple) or len(pair) != 2:
            raise RefusedError("expected an ordered dict of pairs, got something else")
        built[checked_key(pair[0])] = pair[1]
    return dict(reversed(built.items()))


def checked_key(key: Any) -> Any:
    """``key`` of a dict, if it is neither a huge int nor a container: to hash a deeply nested tuple crashes Python."""
    kinds = (str, bytes, int, float, bool, type(None), Name)
    if type(key) not in kinds or (type(key) is int and key not in INT64):
        raise RefusedError(f"expected strings or numbers as the keys of a dict, got {type(key).__name__}")
    return key


CALLS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor_v2,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _subclass,
    "torch.Size": lambda numbers: numbers,
    "collections.OrderedDict": _ordered_dict,
    "collections.defaultdict": lambda _factory=None: {},
    "collections.Counter": lambda counts: counts,
}


_signature = functools.cache(inspect.signature)


def call(function: Any, arguments: Any) -> Any:
    """The value that the file describes as a call: that of a function in ``CALLS``, or an ``Opaque``."""
    if type(function) is Name and type(arguments) is tuple:
        if function.dotted in CALLS:
            build = CALLS[function.dotted]
            with damage(TypeError):
                _signature(build).bind(*arguments)
            return build(*arguments)
        if function.dotted in INERT:
            return Opaque(function.dotted)
    raise RefusedError(f"refuses to call {getattr(function, 'dotted', 'something that is not a listed function')}")


def listed_name(dotted: str) -> Name:
    """The ``Name`` of a class, function or dtype. UnlistedError if none of the tables has it."""
    if not any(dotted in table for table in (CALLS, DTYPES, STORAGES, INERT)):
        raise UnlistedError(f"refuses {shown(dotted)}, which is not on the list of names that a state dict needs")
    return Name(dotted)
