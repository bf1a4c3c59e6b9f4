"""The files of ``torch.save`` as inert data: no name found in one is ever imported, called or given attributes.

``pickletools`` splits a pickle into opcodes, and the machine below obeys the few that a state dict needs. A class or
function of the file becomes a ``Name``, if a table here lists it; calling a ``Name`` builds what the table says: a
dict, a tuple, the description of a tensor, or an ``Opaque``, of which only the name is kept.
"""

import io
import mmap
import pickletools
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
HUGE = 2**63
MAX_NDIM = 64


class Refusal(ValueError):
    """What was expected and what came, in a sentence to which the reader of the file adds its name."""


def shown(text: str) -> str:
    """``text`` out of a file, fit for a sentence: printable, and at most 80 characters."""
    return ascii(text[:80])[1:-1] + "..." * (len(text) > 80)


@dataclass(frozen=True)
class Name:
    """A class, function or dtype that the file mentions; its dotted name and nothing else."""

    dotted: str


@dataclass(frozen=True)
class Opaque:
    """An object that no state dict needs; the name of its class and nothing else."""

    dotted: str


@dataclass(frozen=True)
class Storage:
    """Elements ``start`` to ``start + count`` of the flat buffer ``key``."""

    key: str | int
    dtype: np.dtype
    start: int
    count: int

    def __post_init__(self) -> None:
        _check_naturals(self.start, self.count)


@dataclass(frozen=True)
class Tensor:
    """A strided view of a storage; ``offset`` and ``stride`` count elements of ``dtype``."""

    storage: Storage
    dtype: np.dtype
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def __post_init__(self) -> None:
        shapes = type(self.size) is type(self.stride) is tuple and len(self.size) == len(self.stride) <= MAX_NDIM
        if type(self.storage) is not Storage or not shapes:
            raise Refusal(f"expected a tensor to have a storage and as many sizes as strides, at most {MAX_NDIM}")
        _check_naturals(self.offset, *self.size, *self.stride)

    @property
    def reach(self) -> int:
        """How many elements of the storage lie before the end of the tensor's last one."""
        return self.offset + 1 + sum((n - 1) * step for n, step in zip(self.size, self.stride, strict=True))


def _check_naturals(*numbers: Any) -> None:
    if not all(type(n) is int and 0 <= n < HUGE for n in numbers):
        raise Refusal("expected sizes, strides and offsets from 0 to 2**63 - 1, got others")


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
    for name, dtype in {
        **{"Bool": "bool", "Byte": "uint8", "Char": "int8", "Short": "int16", "Int": "int32", "Long": "int64"},
        **{"Half": "float16", "Float": "float32", "Double": "float64", "BFloat16": "bfloat16"},
        **{"ComplexFloat": "complex64", "ComplexDouble": "complex128", "Untyped": "uint8"},
    }.items()
}

INERT = {
    *("torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer"),
    *("torch.device", "torch.serialization._get_layout", "_codecs.encode", "argparse.Namespace"),
    *("numpy.dtype", "numpy.ndarray"),
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    *(
        f"{module}.{name}"
        for module in ("builtins", "__builtin__")
        for name in ("bool", "bytearray", "complex", "dict", "float", "frozenset", "int", "list", "set", "str", "tuple")
    ),
}


def _tensor(storage: Any, offset: Any, size: Any, stride: Any) -> Tensor:
    return Tensor(storage, getattr(storage, "dtype", None), offset, size, stride)


def _tensor_v2(storage: Any, offset: Any, size: Any, stride: Any, _grad: Any, _hooks: Any, flags: Any = None) -> Tensor:
    if flags:
        raise Refusal("expected plain tensors, got one that waits to be conjugated or negated")
    return _tensor(storage, offset, size, stride)


def _tensor_v3(
    storage: Any, offset: Any, size: Any, stride: Any, _grad: Any, _hooks: Any, dtype: Any, flags: Any = None
) -> Tensor:
    if type(dtype) is not Name or dtype.dotted not in DTYPES or flags:
        raise Refusal("expected plain tensors of a dtype that numpy or ml_dtypes has, got another")
    return Tensor(storage, DTYPES[dtype.dotted], offset, size, stride)


def _parameter(data: Any, _grad: Any, _hooks: Any, _state: Any = None) -> Tensor:
    if type(data) is not Tensor:
        raise Refusal("expected a parameter to hold a tensor, got something else")
    return data


def _size(items: Any) -> tuple:
    if type(items) is not tuple:
        raise Refusal("expected the sizes of a tensor to be a tuple, got something else")
    return items


def _ordered_dict(pairs: Any = ()) -> dict:
    """Python 2 hands the pairs over. The list is emptied, so that a file cannot have it copied again and again."""
    built: dict = {}
    while pairs:
        key, value = pairs.pop()
        built[_checked_key(key)] = value
    return dict(reversed(built.items()))


def _checked_key(key: Any) -> Any:
    """``key``, unless it is a container: to hash a tuple nested a million deep would crash the interpreter."""
    if type(key) not in (str, bytes, int, float, bool, type(None), Name):
        raise Refusal(f"expected strings or numbers as the keys of a dict, got {type(key).__name__}")
    return key


CALLS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor_v2,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": lambda function, _kind, arguments, _state: _call(function, arguments),
    "torch.Size": _size,
    "collections.OrderedDict": _ordered_dict,
    "collections.defaultdict": lambda *_factory: {},
    "collections.Counter": lambda counts: counts,
}


def _call(function: Any, arguments: Any) -> Any:
    if type(function) is Name and type(arguments) is tuple:
        if function.dotted in CALLS:
            return CALLS[function.dotted](*arguments)
        if function.dotted in INERT:
            return Opaque(function.dotted)
    raise Refusal(f"refuses to call {shown(getattr(function, 'dotted', type(function).__name__))}")


class Machine:
    """A stack machine for the opcodes of a state dict.

    ``storages`` collects the buffers that the pickle mentions, by key.
    """

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str | int, Storage] = {}

    def run(self, stream: BinaryIO | mmap.mmap) -> Any:
        """The object pickled at the position of ``stream``, which is left just behind it."""
        opcodes = pickletools.genops(stream)
        for opcode, argument, _ in opcodes:
            if opcode.name == "STOP":
                break
            if opcode.name not in OPCODES:
                raise Refusal(f"refuses the pickle opcode {opcode.name}, which no state dict needs")
            try:
                OPCODES[opcode.name](self, argument)
            except _UnlistedError as error:
                raise Refusal(f"{error}{_hint(opcodes)}") from None
        return self.stack.pop()

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self, count: int) -> list:
        """The last ``count`` values, taken off the stack."""
        if count > len(self.stack):
            raise IndexError("the stack of the pickle is empty")
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def pop_mark(self) -> list:
        """The values behind the last mark, taken off the stack."""
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def top(self, *kinds: type) -> Any:
        """The last value, left on the stack, which must be of one of ``kinds``."""
        value = self.stack[-1]
        if type(value) not in kinds:
            raise Refusal(f"refuses to change a {type(value).__name__}, which no state dict needs")
        return value

    def extend(self, items: list) -> None:
        self.top(list).extend(items)

    def update(self, items: list) -> None:
        target = self.top(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_checked_key(key)] = value

    def memoize(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def name(self, dotted: str) -> None:
        if not (dotted in CALLS or dotted in DTYPES or dotted in STORAGES or dotted in INERT):
            raise _UnlistedError(f"refuses {shown(dotted)}, which is not on the list of what a state dict needs")
        self.push(Name(dotted))

    def build(self) -> None:
        """The state that BUILD hands to an object is dropped: nothing here reads it."""
        self.pop(1)
        self.top(dict, Opaque)

    def storage(self) -> None:
        """``("storage", class, key, location, count[, None or (view key, start, count)])`` -> Storage"""
        (identifier,) = self.pop(1)
        kind, name, key, _location, count, *view = identifier
        known = type(name) is Name and name.dotted in STORAGES and type(key) in (str, int)
        if kind != "storage" or not known:
            raise Refusal("expected only storages outside the pickle, got something else")
        whole = Storage(key, STORAGES[name.dotted], 0, count)
        self.storages.setdefault(key, whole)
        _, start, part = view[0] if view and view[0] else (None, 0, count)
        self.push(Storage(key, whole.dtype, start, part))


class _UnlistedError(Exception):
    """The pickle names a class or function that no table lists."""


def _hint(opcodes: Iterator) -> str:
    """A module was pickled whole if the rest of its pickle mentions the dict every module has."""
    with suppress(ValueError):
        if any(argument == "_parameters" for _, argument, _ in opcodes):
            return "; the file holds a whole module, expected the state dict of one"
    return ""


OPCODES: dict[str, Callable[[Machine, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME"), lambda machine, _: None),
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
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda machine, index: machine.push(machine.memo[index])),
    "GLOBAL": lambda machine, text: machine.name(text.replace(" ", ".", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.name(".".join(machine.pop(2))),
    **dict.fromkeys(("REDUCE", "NEWOBJ"), lambda machine, _: machine.push(_call(*machine.pop(2)))),
    "BUILD": lambda machine, _: machine.build(),
    "BINPERSID": lambda machine, _: machine.storage(),
}


@dataclass(frozen=True, eq=False)
class TorchFile:
    """What ``torch.save`` wrote: ``tree`` of plain containers with ``Tensor`` leaves, and the bytes of the storages."""

    format: str
    tree: Any
    storages: dict[str | int, np.ndarray]
    big_endian: bool = False
    _swapped: dict[tuple, np.ndarray] = field(default_factory=dict)

    def array(self, tensor: Tensor) -> np.ndarray:
        """``tensor`` as a read-only view of the file, from which nothing is read until the numbers are used.

        Tensors that share a storage share memory. Numbers of the other byte order are read here and now.

        Raises:
            Refusal: if the tensor reaches outside its storage, or the storage outside the file.
        """
        storage, dtype = tensor.storage, tensor.dtype
        if storage.key not in self.storages:
            raise Refusal(f"expected the data of storage {shown(str(storage.key))}, found none")
        start, stop = (n * storage.dtype.itemsize for n in (storage.start, storage.start + storage.count))
        empty = 0 in tensor.size
        if stop > len(self.storages[storage.key]) or not empty and start + tensor.reach * dtype.itemsize > stop:
            raise Refusal(f"expected a tensor of shape {tensor.size} to lie within its storage, it reaches outside")
        if empty:
            return np.empty(tensor.size, dtype)
        strides = [n * dtype.itemsize for n in tensor.stride]
        begin = start + tensor.offset * dtype.itemsize
        return np.ndarray(tensor.size, dtype, self._bytes(storage.key, dtype).data, begin, strides)

    def _bytes(self, key: str | int, dtype: np.dtype) -> np.ndarray:
        raw = self.storages[key]
        if not self.big_endian:
            return raw
        if (key, dtype) not in self._swapped:
            swapped = raw[: len(raw) // dtype.itemsize * dtype.itemsize].view(dtype).byteswap().view(np.uint8)
            swapped.flags.writeable = False
            self._swapped[key, dtype] = swapped
        return self._swapped[key, dtype]


def map_file(path: Path) -> mmap.mmap:
    """The file as read-only memory, of which nothing is read until it is used."""
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def read_zip(path: Path) -> TorchFile:
    """Read what ``torch.save`` writes since 1.6: ``x/data.pkl``, ``x/byteorder`` and ``x/data/key`` in a zip archive."""
    raw = np.frombuffer(map_file(path), np.uint8)
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        folder = _zip_folder(list(entries))
        machine = Machine()
        tree = machine.run(io.BytesIO(_zip_entry(raw, entries[f"{folder}/data.pkl"], archive).tobytes()))
        mark = f"{folder}/byteorder"
        byteorder = archive.read(mark) if mark in entries else b"little"
    if byteorder not in (b"little", b"big"):
        raise Refusal("expected the byte order to be little or big, got another")
    names = {key: f"{folder}/data/{key}" for key in machine.storages}
    storages = {key: _zip_entry(raw, entries[name]) for key, name in names.items() if name in entries}
    return TorchFile("zip pickle", tree, storages, byteorder == b"big")
