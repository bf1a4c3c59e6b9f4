"""Reads safetensors files: whatever the safetensors library reads, and nothing that it refuses.

Follows: https://github.com/huggingface/safetensors, the format and what its parser accepts.
"""

import json
import math
import re
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from convert.errors import DamagedError, RefusedError, damage, name_file, shown
from convert.files.pickled import DTYPES
from convert.files.source import Source
from convert.tensors import Lazy

SAFETENSORS = (
    dict(BOOL="bool", I8="int8", I16="int16", I32="int32", I64="int64")
    | dict(U8="uint8", U16="uint16", U32="uint32", U64="uint64")
    | dict(F16="float16", F32="float32", F64="float64", BF16="bfloat16", C64="complex64")
    | dict(F8_E4M3="float8_e4m3fn", F8_E5M2="float8_e5m2", F8_E8M0="float8_e8m0fnu")
    | dict(F8_E4M3FNUZ="float8_e4m3fnuz", F8_E5M2FNUZ="float8_e5m2fnuz")
)
"""The numpy names of the dtypes of safetensors."""

BITS = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}
"""How wide the numbers are of those dtypes of safetensors that numpy does not have."""

MAX_HEADER = 100_000_000
MAX_DEPTH = 127
MAX_VALUES = 5_000_000
"""More numbers, texts and brackets than any model needs take too long to read."""

UNSIGNED = range(2**64)
SPACE = b" \t\r\n"
NESTING = re.compile(r'"(?:[^"\\]++|\\.)*+"|[\[{]|[\]}]', re.DOTALL)


@dataclass(frozen=True, eq=False)
class SafetensorsFile:
    """The arrays of a file by key, each of which is read when it is made, and the text entries of its header.

    What is made is writable, and shares memory with nothing. A dtype that numpy lacks is refused when it is made.
    """

    arrays: dict[str, Lazy]
    metadata: dict[str, str]


class _Pairs(list):
    """A JSON object: its (key, value) pairs, where a key may occur twice."""


@dataclass(frozen=True)
class _Entry:
    """What the header says of one tensor. ``dtype`` is a name of safetensors."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def bits(self) -> int:
        """How many bits the numbers take."""
        width = BITS.get(self.dtype) or 8 * numpy_dtype(self.dtype).itemsize
        return math.prod(self.shape) * width


def is_safetensors(head: bytes) -> bool:
    """If a file that begins with ``head`` is one of safetensors: the length of its header, and JSON."""
    return head[4:8] == b"\0\0\0\0" and head[8:].lstrip(SPACE).startswith(b"{")


def numpy_dtype(name: str) -> np.dtype:
    """The dtype that safetensors calls ``name``."""
    return DTYPES[f"torch.{SAFETENSORS[name]}"]


def read_safetensors(source: Source) -> SafetensorsFile:
    """Read the header of a safetensors file. The numbers are read later.

    Raises:
        RefusedError: if the header has a dtype that the format lacks, or is larger than 100 MB.
        DamagedError: if the header does not describe each byte of the file once, or is no JSON of the right form.
    """
    text, begin = _header(source)
    metadata, entries = _described(_parsed(text))
    _check_offsets(entries, source.size - begin)
    arrays = {key: _lazy(source, begin, key, entry=entry) for key, entry in entries.items()}
    return SafetensorsFile(arrays, metadata)


def _header(source: Source) -> tuple[str, int]:
    """The JSON of the header, and where the data begin."""
    if source.size < 8:
        raise DamagedError("the file is too short for a header")
    length = int.from_bytes(source.read(0, 8).tobytes(), "little")
    if length > MAX_HEADER:
        raise RefusedError(f"expected a header of at most {MAX_HEADER} bytes, got one of {length}")
    if 8 + length > source.size:
        raise DamagedError(f"a header of {length} bytes claimed, {source.size - 8} there")
    with damage(UnicodeDecodeError):
        return source.read(8, length).tobytes().decode(), 8 + length


def _parsed(text: str) -> Any:
    """The JSON value, with _Pairs in place of dicts. As strict as the parser of the library."""
    if sum(map(text.count, ",[{")) > MAX_VALUES:
        raise RefusedError(f"expected a header of at most {MAX_VALUES} values, got more")
    depth = 0
    for token in NESTING.finditer(text):
        depth += token[0] in "[{"
        depth -= token[0] in "]}"
        if depth > MAX_DEPTH:
            raise DamagedError(f"the header is nested more than {MAX_DEPTH} deep")
    with damage(ValueError, RecursionError):
        value = json.loads(
            text, object_pairs_hook=_Pairs, parse_int=_number, parse_float=_number, parse_constant=_no_number
        )
        if re.search(r"\\u[dD][89a-fA-F]", text):
            json.dumps(value, ensure_ascii=False).encode()
    return value


def _number(text: str) -> int | float:
    """An int from -2**63 to 2**64 - 1, or a float that is finite."""
    if text.lstrip("-").isdecimal() and text != "-0" and len(text) <= 20 and int(text) in range(-(2**63), 2**64):
        return int(text)
    number = float(text)
    return number if math.isfinite(number) else _no_number(text)


def _no_number(text: str) -> Any:
    raise ValueError(f"{shown(text)} is no number of JSON")


def _described(header: Any) -> tuple[dict[str, str], dict[str, _Entry]]:
    """The metadata and the tensors. Of a key that occurs twice, the last value counts, as in the library."""
    if type(header) is not _Pairs:
        raise DamagedError("the header is no JSON object")
    texts = [value for key, value in header if key == "__metadata__"]
    if len(texts) > 1:
        raise DamagedError("the header has two entries __metadata__")
    metadata = texts[0] if texts and texts[0] is not None else _Pairs()
    if type(metadata) is not _Pairs or any(type(value) is not str for _, value in metadata):
        raise DamagedError("the metadata of the header are no texts by key")
    return dict(metadata), {key: _entry(key, value) for key, value in header if key != "__metadata__"}


def _entry(key: str, value: Any) -> _Entry:
    """The tensor that an object of three fields describes, or a list of their values. Other fields do not matter."""
    if type(value) is _Pairs:
        fields = [name for name, _ in value if name in ("dtype", "shape", "data_offsets")]
        parts = dict(value)
        value = [parts.get(name) for name in ("dtype", "shape", "data_offsets")] if len(fields) == 3 else None
    if type(value) is not list or len(value) != 3:
        raise DamagedError(f"the entry of {shown(key)} has not one dtype, shape and pair of offsets")
    dtype, shape, offsets = value
    if type(dtype) is _Pairs and len(dtype) == 1 and dtype[0][1] is None:
        dtype = dtype[0][0]
    if not _are_natural(shape) or not _are_natural(offsets) or len(offsets) != 2 or type(dtype) is not str:
        raise DamagedError(f"the entry of {shown(key)} has not one dtype, shape and pair of offsets")
    if dtype not in SAFETENSORS and dtype not in BITS:
        raise RefusedError(f"expected the dtypes of safetensors, got {shown(dtype)} at {shown(key)}")
    return _Entry(dtype, tuple(shape), offsets[0], stop=offsets[1])


def _are_natural(numbers: Any) -> bool:
    return type(numbers) is list and all(type(number) is int and number in UNSIGNED for number in numbers)


def _check_offsets(entries: dict[str, _Entry], size: int) -> None:
    """Each tensor must begin where the one before ends, and the last must end with the file."""
    position = 0
    for key, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)):
        if entry.start != position or 8 * (entry.stop - entry.start) != entry.bits:
            raise DamagedError(f"the offsets of {shown(key)} fit neither its shape nor the tensors beside it")
        position = entry.stop
    if position != size:
        raise DamagedError(f"{position} bytes of numbers claimed, {size} there")


def _lazy(source: Source, begin: int, key: str, entry: _Entry) -> Lazy:
    """The array that ``entry`` describes. One that numpy cannot hold has the dtype void, and is refused when made."""
    dtype = np.dtype("V1") if entry.dtype in BITS else numpy_dtype(entry.dtype)
    return Lazy(entry.shape, dtype, partial(_array, source, begin, key, entry))


def _array(source: Source, begin: int, key: str, entry: _Entry) -> np.ndarray:
    with name_file(source.path, "could not be read"):
        if entry.dtype in BITS:
            raise RefusedError(f"expected dtypes that numpy or ml_dtypes has, got {entry.dtype} at {shown(key)}")
        dtype = numpy_dtype(entry.dtype)
        fitting = len(entry.shape) <= 64 and math.prod(n for n in entry.shape if n) * dtype.itemsize < 2**63
        if not fitting:
            raise RefusedError(f"expected shapes that an array can have, got another at {shown(key)}")
        return source.read(begin + entry.start, entry.stop - entry.start).view(dtype).reshape(entry.shape)
