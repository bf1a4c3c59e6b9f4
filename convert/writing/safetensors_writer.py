"""Writes safetensors files, one array at a time."""

import json
import os
import struct
from collections.abc import Mapping
from typing import Any

import safetensors

from convert.errors import RefusedError, shown
from convert.files.safetensors_file import SAFETENSORS
from convert.writing.leaves import pieces, size
from convert.writing.targets import replaced

DTYPES = {ours: name for name, ours in SAFETENSORS.items()}
"""The names of safetensors for the dtypes of numpy."""


def write_safetensors(path: str | os.PathLike, arrays: Mapping[str, Any], metadata: Mapping[str, str]) -> None:
    """Write arrays by their keys: wide numbers first, so that each number is aligned, and then by key.

    Args:
        arrays: arrays of the dtypes in ``DTYPES``; a ``Lazy`` is computed when it is written.

    Raises:
        CheckpointError: if the file cannot be written; then an older file at ``path`` stays as it was.
    """
    ordered = dict(sorted(arrays.items(), key=lambda pair: (-pair[1].dtype.itemsize, pair[0])))
    with replaced(path) as file:
        file.write(_header(ordered, metadata))
        for key, leaf in ordered.items():
            for piece in pieces(key, leaf):
                file.write(piece)
        file.flush()
        try:
            with safetensors.safe_open(file.name, framework="numpy"):
                pass
        except safetensors.SafetensorError as error:
            raise RefusedError(f"could not be written: {shown(str(error))}") from error


def _header(arrays: Mapping[str, Any], metadata: Mapping[str, str]) -> bytes:
    """The header of a safetensors file: its length, and JSON padded with spaces to a multiple of 8 bytes."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for key, array in arrays.items():
        start, end = end, end + size(array)
        header[key] = {"dtype": DTYPES[array.dtype.name], "shape": list(array.shape), "data_offsets": [start, end]}
    content = json.dumps(header, separators=(",", ":")).encode()
    content += b" " * (-len(content) % 8)
    return struct.pack("<Q", len(content)) + content
