"""Writes state dicts in the zip format of ``torch.save``, without PyTorch.

The archive holds ``archive/data.pkl``, a pickle of the ordered dict with the shape and the storage of each tensor, and
``archive/data/0``, ``archive/data/1``, ...: the bytes of the storages. Each of these begins at a multiple of 64 bytes,
so that ``torch.load(mmap=True)`` can use it in place.
"""

import os
import struct
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np

from convert.errors import RefusedError, name_file
from convert.tensors import as_numpy
from convert.writing.leaves import check_leaves, pieces, size
from convert.writing.targets import replaced

FOLDER = "archive"
ALIGNMENT = 64

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

SMALL = (
    ("version", b"3\n"),
    ("byteorder", b"little"),
    (".format_version", b"1"),
    (".storage_alignment", str(ALIGNMENT).encode()),
)
"""The small entries that tell which version of the format it is."""


def save_torch(path: str | os.PathLike, state_dict: Mapping[str, Any]) -> None:
    """Write a state dict as ``torch.save`` does; ``torch.load(path, weights_only=True)`` reads it, bit for bit.

    The arrays are written one at a time. Keys that have the same array share one storage, as tied weights do in
    PyTorch. If anything fails, an older file at ``path`` stays as it was.

    Args:
        state_dict: numpy arrays, JAX arrays or torch tensors by key, as ``to_torch`` and ``load`` give them.

    Raises:
        CheckpointError: if the file cannot be written, or if a value is no array of a dtype that PyTorch has.
    """
    with name_file(path, "could not be written"):
        if not isinstance(state_dict, Mapping) or not all(isinstance(key, str) for key in state_dict):
            raise RefusedError("could not be written: expected a dict of arrays by keys that are strings")
        arrays = {key: as_numpy(v) if hasattr(v, "detach") else v for key, v in state_dict.items()}
        check_leaves(arrays, {*STORAGES, *UNTYPED}, "PyTorch")
    storages = _storages(arrays)
    distinct = {number: key for key, number in reversed(storages.items())}
    with replaced(path) as file, zipfile.ZipFile(file, "w", allowZip64=True) as archive:
        for name, content in (("data.pkl", b"".join(_pickle(arrays, storages))), *SMALL):
            _add(archive, file, name, [content], len(content))
        for number in sorted(distinct):
            key = distinct[number]
            _add(archive, file, f"data/{number}", pieces(key, arrays[key]), size(arrays[key]))


def _storages(arrays: Mapping[str, Any]) -> dict[str, int]:
    """The number of the storage of each key. Arrays that are the same memory, in the same order, have the same one."""
    numbers: dict[Any, int] = {}
    return {key: numbers.setdefault(_identity(array), len(numbers)) for key, array in arrays.items()}


def _identity(array: Any) -> Any:
    if isinstance(array, np.ndarray) and array.size:
        return array.__array_interface__["data"][0], array.dtype, array.shape, array.strides
    return id(array)


def _add(archive: zipfile.ZipFile, file: BinaryIO, name: str, content: Iterable[Any], count: int) -> None:
    """Add an entry of ``count`` bytes. It begins at a multiple of ``ALIGNMENT``: a field of its header is filled up."""
    entry = zipfile.ZipInfo(f"{FOLDER}/{name}")
    entry.file_size = count
    wide = count * 1.05 > zipfile.ZIP64_LIMIT
    start = file.tell() + 30 + len(entry.filename) + 4 + 20 * wide
    fill = -start % ALIGNMENT
    entry.extra = struct.pack("<2sH", b"FB", fill) + b"Z" * fill
    with archive.open(entry, "w", force_zip64=wide) as member:
        for piece in content:
            member.write(piece)
    entry.extra = b""


def _pickle(arrays: Mapping[str, Any], storages: Mapping[str, int]) -> Iterator[bytes]:
    """The pickle of the ordered dict, in protocol 2 and with the few opcodes that ``weights_only`` allows."""
    ordered_dict = _class("collections", "OrderedDict") + b")R"
    yield b"\x80\x02" + ordered_dict + b"("
    for key, array in arrays.items():
        yield _text(key) + _tensor(array, storages[key], ordered_dict)
    yield b"u."


def _tensor(array: Any, storage: int, no_hooks: bytes) -> bytes:
    """A call of the function that PyTorch builds a tensor with; it is given the storage, offset, shape and strides."""
    name = array.dtype.name
    shape, strides = tuple(array.shape), [1]
    for length in reversed(shape[1:]):
        strides.append(strides[-1] * max(length, 1))
    typed = name in STORAGES
    kind = _class("torch", f"{STORAGES[name]}Storage") if typed else _class("torch.storage", "UntypedStorage")
    count = size(array) // array.dtype.itemsize if typed else size(array)
    place = b"(" + _text("storage") + kind + _text(str(storage)) + _text("cpu") + _integer(count) + b"tQ"
    view = _integer(0) + _tuple(shape) + _tuple(reversed(strides[: len(shape)])) + b"\x89" + no_hooks
    function = _class("torch._utils", f"_rebuild_tensor_v{2 if typed else 3}")
    return function + b"(" + place + view + (b"" if typed else _class("torch", name)) + b"tR"


def _class(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _text(text: str) -> bytes:
    encoded = text.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def _integer(number: int) -> bytes:
    """Four bytes with a sign, or, for large numbers, as many as it needs."""
    if number < 2**31:
        return b"J" + struct.pack("<i", number)
    content = number.to_bytes(number.bit_length() // 8 + 1, "little")
    return b"\x8a" + bytes([len(content)]) + content


def _tuple(numbers: Any) -> bytes:
    return b"(" + b"".join(map(_integer, numbers)) + b"t"
