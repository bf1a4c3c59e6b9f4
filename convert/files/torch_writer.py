"""Writes state dicts and training checkpoints in the zip format of ``torch.save``, without PyTorch.

The archive holds ``archive/data.pkl``, a pickle of the containers with the shape and the storage of each tensor, and
``archive/data/0``, ``archive/data/1``, ...: the bytes of the storages. Each of these begins at a multiple of 64 bytes,
so that ``torch.load(mmap=True)`` can use it in place.
"""

import os
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO

import numpy as np

from convert.errors import RefusedError, name_file
from convert.files.pickle_writer import Pickle, is_array
from convert.writing.leaves import pieces, size
from convert.writing.targets import replaced

FOLDER = "archive"
ALIGNMENT = 64

SMALL = (
    ("version", b"3\n"),
    ("byteorder", b"little"),
    (".format_version", b"1"),
    (".storage_alignment", str(ALIGNMENT).encode()),
)
"""The small entries that tell which version of the format it is."""


def save_torch(path: str | os.PathLike, value: Mapping[Any, Any]) -> None:
    """Write a state dict or a training checkpoint as ``torch.save`` does.

    ``torch.load(path, weights_only=True)`` reads it, bit for bit. The arrays are written one at a time. Those that are
    the same memory share one storage, as tied weights do in PyTorch. If anything fails, an older file at ``path``
    stays as it was.

    Args:
        value: a state dict: numpy arrays, JAX arrays or torch tensors by key, as ``to_torch`` and ``load`` give them.
            It is written as an ordered dict, and a scalar of numpy in it as a tensor. Or a dict with other entries,
            such as ``{"model": ..., "optimizer": ..., "epoch": 3}``: dicts, ordered dicts, lists and tuples of arrays,
            numbers, truth values, strings and None. A scalar of numpy in it becomes a number of Python. A key is a
            string, number, truth value, None or a tuple of these.

    Raises:
        CheckpointError: if the file cannot be written; if an array is of a dtype that PyTorch lacks; if a value is
            something else, such as a function, or a container that holds itself. The message says where it is.
    """
    with name_file(path, "could not be written"):
        if not isinstance(value, Mapping):
            raise RefusedError(f"could not be written: expected a dict of arrays, got {type(value).__name__}")
        pickle = Pickle()
        content = pickle.write(_state_dict(value) if _is_state_dict(value) else value)
    with replaced(path) as file, zipfile.ZipFile(file, "w", allowZip64=True) as archive:
        for name, small in (("data.pkl", content), *SMALL):
            _add(archive, file, name, [small], len(small))
        for number, (place, array) in enumerate(pickle.arrays):
            _add(archive, file, f"data/{number}", pieces(place, array), size(array))


def _is_state_dict(value: Mapping[Any, Any]) -> bool:
    """Whether ``value`` holds arrays by strings, and nothing else."""
    arrays = all(is_array(entry) or isinstance(entry, np.generic) for entry in value.values())
    return arrays and all(isinstance(key, str) for key in value)


def _state_dict(value: Mapping[str, Any]) -> OrderedDict[str, Any]:
    return OrderedDict((key, np.asarray(x) if isinstance(x, np.generic) else x) for key, x in value.items())


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
