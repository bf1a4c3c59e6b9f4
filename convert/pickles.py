"""Reads the pickles of ``torch.save`` as plain data: no class or function named in one is imported or called.

``pickletools`` splits a pickle into opcodes, and the stack machine below knows the few opcodes that a state dict needs.
A class or function that the pickle mentions becomes a ``Name``, if one of the tables here lists it. To call a ``Name``
builds what the tables say: a dict, a tuple, the description of a tensor, or an ``Opaque``, which stands for an object
of which only the class name is kept.
"""

import functools
import inspect
import pickletools
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from convert.errors import DamagedError, RefusedError, damage, shown

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
    return Tensor(storage, dtype, offset, size, stride)


def _tensor_v2(storage: Any, offset: Any, size: Any, stride: Any, _grad: Any, _hooks: Any, flags: Any = None) -> Tensor:
    if flags:
        raise RefusedError("expected plain tensors, got one that waits to be conjugated or negated")
    return _tensor(storage, offset, size, stride)


def _tensor_v3(storage: Any, offset: Any, size: Any, stride: Any, _grad: Any, _hooks: Any, dtype: Any) -> Tensor:
    if type(dtype) is not Name or dtype.dotted not in DTYPES:
        raise RefusedError("expected a tensor of a dtype that numpy or ml_dtypes has, got one of another dtype")
    return Tensor(storage, DTYPES[dtype.dotted], offset, size, stride)


def _parameter(data: Any, _grad: Any, _hooks: Any, _state: Any = None) -> Tensor:
    if type(data) is not Tensor:
        raise RefusedError("expected a parameter to hold a tensor, got something else")
    return data


def _subclass(function: Any, _kind: Any, arguments: Any, _state: Any) -> Any:
    """A tensor of a subclass: ``function`` builds the tensor, the class is dropped. No second subclass inside."""
    if function == Name("torch._tensor._rebuild_from_type_v2"):
        raise RefusedError("expected a subclass to hold a tensor, got one that holds another subclass")
    return _call(function, arguments)


def _ordered_dict(pairs: Any = None) -> dict:
    """Python 2 passes a list of pairs. The list is emptied, so that a file cannot have it copied a million times."""
    if pairs is not None and type(pairs) is not list:
        raise RefusedError(f"expected an ordered dict of a list of pairs, got {type(pairs).__name__}")
    built: dict = {}
    while pairs:
        pair = pairs.pop()
        if type(pair) not in (list, tuple) or len(pair) != 2:
            raise RefusedError("expected an ordered dict of pairs, got something else")
        built[_checked_key(pair[0])] = pair[1]
    return dict(reversed(built.items()))


def _checked_key(key: Any) -> Any:
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


def _call(function: Any, arguments: Any) -> Any:
    if type(function) is Name and type(arguments) is tuple:
        if function.dotted in CALLS:
            build = CALLS[function.dotted]
            with damage(TypeError):
                _signature(build).bind(*arguments)
            return build(*arguments)
        if function.dotted in INERT:
            return Opaque(function.dotted)
    raise RefusedError(f"refuses to call {getattr(function, 'dotted', 'something that is not a listed function')}")


def _opcodes(stream: Any) -> Iterator[tuple[str, Any]]:
    """The opcodes of the pickle at the position of ``stream``, by name, with their arguments.

    ``pickletools`` raises ValueError for bytes that are no pickle. For a backslash in a name, Python issues a warning,
    which is an exception if the user has made it one.
    """
    with damage(ValueError, Warning):
        for opcode, argument, _ in pickletools.genops(stream):
            yield opcode.name, argument


class Machine:
    """A stack machine for the opcodes of a state dict. ``storages`` collects the buffers that it mentions, by key."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str | int, Storage] = {}

    def run(self, stream: Any) -> Any:
        """The object pickled at the position of ``stream``, a file or mapped memory, which is left just behind it.

        Raises:
            RefusedError: if the pickle has a name or opcode that no table lists, or an argument of the wrong kind.
            DamagedError: if the bytes are no complete pickle.
        """
        opcodes = _opcodes(stream)
        try:
            for name, argument in opcodes:
                if name not in OPCODES:
                    raise RefusedError(f"refuses the pickle opcode {name}, which no state dict needs")
                OPCODES[name](self, argument)
        except UnlistedError as error:
            raise RefusedError(f"{error}{_hint(opcodes)}") from None
        return self.pop(1)[0]

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self, count: int) -> list:
        if count > len(self.stack):
            raise DamagedError("the stack of the pickle is empty")
        return self._cut(len(self.stack) - count)

    def pop_mark(self) -> list:
        if not self.marks:
            raise DamagedError("the pickle has no mark")
        return self._cut(self.marks.pop())

    def _cut(self, start: int) -> list:
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def top(self, *kinds: type) -> Any:
        """The last value, which stays on the stack and must be of one of ``kinds``; of any kind if none is given."""
        if not self.stack:
            raise DamagedError("the stack of the pickle is empty")
        if kinds and type(self.stack[-1]) not in kinds:
            raise RefusedError(f"refuses to change a value of class {type(self.stack[-1]).__name__}")
        return self.stack[-1]

    def extend(self, items: list) -> None:
        self.top(list).extend(items)

    def update(self, items: list) -> None:
        target = self.top(dict)
        if len(items) % 2:
            raise DamagedError("a dict of the pickle has a key without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_checked_key(key)] = value

    def memoize(self, index: int) -> None:
        self.memo[index] = self.top()

    def recall(self, index: int) -> None:
        if index not in self.memo:
            raise DamagedError(f"the pickle recalls value {index}, which it did not store")
        self.push(self.memo[index])

    def name(self, dotted: str) -> None:
        if not any(dotted in table for table in (CALLS, DTYPES, STORAGES, INERT)):
            raise UnlistedError(f"refuses {shown(dotted)}, which is not on the list of names that a state dict needs")
        self.push(Name(dotted))

    def stack_name(self) -> None:
        parts = self.pop(2)
        if not all(type(part) is str for part in parts):
            raise DamagedError("a name of the pickle is no string")
        self.name(".".join(parts))

    def build(self) -> None:
        """Drop the state that the file gives an object: nothing here reads it."""
        self.pop(1)
        self.top(dict, Opaque)

    def storage(self) -> None:
        """Read ("storage", class, key, location, count), in old files with None or (view key, start, count) behind."""
        (entry,) = self.pop(1)
        if type(entry) is not tuple or len(entry) not in (5, 6):
            raise DamagedError("a reference to a storage has not 5 or 6 parts")
        kind, name, key, _location, count, *view = entry
        listed = type(name) is Name and name.dotted in STORAGES
        keyed = type(key) is str or (type(key) is int and key in INT64)
        if type(kind) is not str or kind != "storage" or not listed or not keyed:
            raise RefusedError("expected a storage of a dtype that numpy or ml_dtypes has, got something else")
        whole = Storage(key, STORAGES[name.dotted], 0, count)
        self.storages.setdefault(key, whole)
        self.push(_view(whole, view[0] if view else None))


def _view(whole: Storage, view: Any) -> Storage:
    """The part of ``whole`` that ``view`` tells: (key of the view, start, count), or None for all of it."""
    if view is None:
        return whole
    if type(view) is not tuple or len(view) != 3:
        raise DamagedError("a view of a storage has not 3 parts")
    return Storage(whole.key, whole.dtype, view[1], view[2])


def _hint(opcodes: Iterator[tuple[str, Any]]) -> str:
    """What to add to the message if the rest of the pickle mentions the dict that every torch.nn.Module has."""
    with suppress(DamagedError):
        if any(argument == "_parameters" for _, argument in opcodes):
            return "; the file holds a whole module, expected the state dict of one"
    return ""


OPCODES: dict[str, Callable[[Machine, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda machine, _: None),
    **dict.fromkeys(
        (
            *("BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4", "BINFLOAT"),
            *("BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
            *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
        ),
        Machine.push,
    ),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_SET": lambda machine, _: machine.push([]),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "MARK": lambda machine, _: machine.marks.append(len(machine.stack)),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.pop_mark())),
    "TUPLE1": lambda machine, _: machine.push(tuple(machine.pop(1))),
    "TUPLE2": lambda machine, _: machine.push(tuple(machine.pop(2))),
    "TUPLE3": lambda machine, _: machine.push(tuple(machine.pop(3))),
    "FROZENSET": lambda machine, _: machine.push(machine.pop_mark()),
    "APPEND": lambda machine, _: machine.extend(machine.pop(1)),
    **dict.fromkeys(("APPENDS", "ADDITEMS"), lambda machine, _: machine.extend(machine.pop_mark())),
    "SETITEM": lambda machine, _: machine.update(machine.pop(2)),
    "SETITEMS": lambda machine, _: machine.update(machine.pop_mark()),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), Machine.memoize),
    "MEMOIZE": lambda machine, _: machine.memoize(len(machine.memo)),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), Machine.recall),
    "GLOBAL": lambda machine, names: machine.name(names.replace(" ", ".", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.stack_name(),
    **dict.fromkeys(("REDUCE", "NEWOBJ"), lambda machine, _: machine.push(_call(*machine.pop(2)))),
    "BUILD": lambda machine, _: machine.build(),
    "BINPERSID": lambda machine, _: machine.storage(),
}
