"""Reads Flax variables in the formats of others that ``convert`` writes: npz, msgpack and Orbax."""

import math
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from convert.errors import DamagedError, RefusedError, damage, shown
from convert.files.source import Source
from convert.files.zip_archive import Entry
from convert.tensors import Lazy

SUFFIX = ".npy"
COLLECTIONS = ("params/", "batch_stats/")
"""What the keys of Flax variables begin with, at least one of them."""

SPOILED = (
    *(ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, EOFError, SyntaxError),
    *(RecursionError, MemoryError),
)
"""What the readers of numpy and flax raise for bytes that they cannot read."""


def is_npz(entries: Mapping[str, Entry]) -> bool:
    """Whether an archive holds numpy arrays and nothing else."""
    return bool(entries) and all(name.endswith(SUFFIX) for name in entries)


def is_msgpack(head: bytes) -> bool:
    """Whether a file begins with ``head`` as msgpack does for a small dict whose first key is a short text."""
    return len(head) > 1 and 0x81 <= head[0] <= 0x8F and 0xA1 <= head[1] <= 0xBF


def is_flax(keys: Mapping[str, Any]) -> bool:
    """Whether keys are those of Flax variables, such as "params/fc/kernel"."""
    return any(key.startswith(COLLECTIONS) for key in keys)


def read_npz(entries: Mapping[str, Entry]) -> dict[str, Lazy]:
    """The arrays of an npz file, read when they are made.

    Raises:
        RefusedError: if an array does not hold numbers.
        DamagedError: if the description of an array does not fit its bytes.
    """
    return {name.removesuffix(SUFFIX): _entry(name, entry) for name, entry in entries.items()}


def _entry(name: str, entry: Entry) -> Lazy:
    stream = entry.stream()
    with damage(*SPOILED):
        version = np.lib.format.read_magic(stream)
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, fortran, dtype = readers[version](stream)
        start = stream.tell()
        if dtype.kind not in "biufc":
            raise RefusedError(f"expected arrays of numbers, got one of the dtype {shown(str(dtype))} at {shown(name)}")
        count = math.prod(shape) * dtype.itemsize
        if len(shape) > 64 or min(shape, default=0) < 0 or count != entry.size - start:
            raise DamagedError(f"the shape of {shown(name)} does not fit its bytes")
    native = dtype.newbyteorder("=")

    def make() -> np.ndarray:
        array = entry.read(start, count).view(dtype).reshape(shape, order="F" if fortran else "C")
        return array.astype(native, copy=False)

    return Lazy(shape, native, make)


def read_msgpack(source: Source) -> dict[str, Lazy]:
    """The arrays of a file of ``flax.serialization.to_bytes``.

    Raises:
        DamagedError: if flax does not read it.
        RefusedError: if it holds anything but nested dicts of arrays of numbers.
    """
    content = source.read(0, source.size).tobytes()
    with damage(*SPOILED):
        tree = import_module("flax.serialization").msgpack_restore(content)
    return _leaves(tree)


def is_orbax(folder: Path) -> bool:
    """Whether ``folder`` is a checkpoint of Orbax."""
    return any((folder / name).is_file() for name in ("_METADATA", "_CHECKPOINT_METADATA"))


def read_orbax(folder: Path) -> dict[str, Lazy]:
    """The arrays of a checkpoint of Orbax, all read now.

    Raises:
        RefusedError: if Orbax is not installed or does not read the folder, or if it holds anything but nested dicts of
            arrays of numbers.
    """
    try:
        orbax, jax = import_module("orbax.checkpoint"), import_module("jax")
    except ImportError as error:
        raise RefusedError("a checkpoint of Orbax needs Orbax: pip install orbax-checkpoint") from error
    with damage(*SPOILED, OSError), orbax.PyTreeCheckpointer() as checkpointer:
        place = folder.resolve()
        tree = checkpointer.metadata(place).item_metadata.tree
        as_numpy = jax.tree.map(lambda _: orbax.RestoreArgs(restore_type=np.ndarray), tree)
        return _leaves(checkpointer.restore(place, restore_args=as_numpy))


def _leaves(tree: Any) -> dict[str, Lazy]:
    """The arrays in nested dicts by keys such as "params/fc/kernel"."""
    if type(tree) is not dict:
        raise RefusedError(f"expected nested dicts of arrays, got {type(tree).__name__}")
    found: dict[str, Lazy] = {}
    waiting: list[tuple[str, Any]] = [*tree.items()]
    while waiting:
        key, value = waiting.pop(0)
        if type(value) is dict:
            waiting = [(f"{key}/{name}", inner) for name, inner in value.items()] + waiting
        elif isinstance(value, np.ndarray) and value.dtype.kind not in "OSUMm":
            found[key] = Lazy(value.shape, value.dtype, value.copy)
        else:
            raise RefusedError(f"expected arrays of numbers, got {type(value).__name__} at {shown(str(key))}")
    return found
