"""The file formats in which Flax variables can be written."""

import zipfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import flax.linen as nn
import msgpack
import numpy as np
from flax import serialization, traverse_util

from convert.errors import RefusedError, name_file, shown
from convert.variables_file import save
from convert.writing.leaves import flat, made
from convert.writing.safetensors_writer import DTYPES
from convert.writing.targets import new_folder, replaced

NUMPY = {name for name in DTYPES if np.dtype(name).kind != "V"}
"""The dtypes of ``DTYPES`` that numpy itself has; its files hold no other."""


@dataclass(frozen=True)
class Format:
    """A file format for Flax variables.

    Args:
        suffix: what the names of such files end in; empty for a folder.
        write: writes nested dicts of variables to a path. The module is kept by formats that can hold it.
    """

    name: str
    suffix: str
    write: Callable[[Path, Mapping[str, Any], nn.Module | None], None]


def find_format(path: Path, name: str, formats: Collection[Format]) -> Format:
    """The format that is called ``name``, or to which the suffix of ``path`` belongs.

    Raises:
        ValueError: if no name is given, and the suffix is that of none.
    """
    for form in formats:
        if form.name == name or (not name and form.suffix == path.suffix.lower() != ""):
            return form
    suffixes = [form.suffix for form in formats if form.suffix]
    known = f"{', '.join(suffixes[:-1])} or {suffixes[-1]}"
    raise ValueError(f"{path}: expected a name that ends in {known}, or the option --format, got neither")


def write_msgpack(path: Path, variables: Mapping[str, Any], module: nn.Module | None = None) -> None:
    """Write what ``flax.serialization.to_bytes`` gives, one array at a time; ``msgpack_restore`` reads it.

    Raises:
        CheckpointError: if the file cannot be written, or a leaf or key cannot be stored in it.
    """
    with name_file(path, "could not be written"):
        leaves = flat(variables, DTYPES, "msgpack")
    packer = msgpack.Packer()

    def pieces(tree: Mapping[str, Any], keys: tuple[str, ...]) -> Any:
        yield packer.pack_map_header(len(tree))
        for key, value in tree.items():
            if isinstance(value, Mapping):
                yield packer.pack(key)
                yield from pieces(value, (*keys, key))
            else:
                array = made("/".join([*keys, key]), value)
                yield serialization.msgpack_serialize({key: array})[1:]

    with replaced(path) as file:
        for piece in pieces(traverse_util.unflatten_dict(leaves, sep="/"), ()):
            file.write(piece)


def write_npz(path: Path, variables: Mapping[str, Any], module: nn.Module | None = None) -> None:
    """Write a file that ``numpy.load`` reads, with keys such as "params/fc/0/kernel", one array at a time.

    Raises:
        CheckpointError: if the file cannot be written, or a leaf is of a dtype that is not numpy's own (bfloat16).
    """
    with name_file(path, "could not be written"):
        leaves = flat(variables, NUMPY, "npz")
    with replaced(path) as file, zipfile.ZipFile(file, "w", allowZip64=True) as archive:
        for key, leaf in leaves.items():
            array = made(key, leaf)
            with archive.open(f"{key}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def write_orbax(path: Path, variables: Mapping[str, Any], module: nn.Module | None = None) -> None:
    """Write an Orbax checkpoint, a folder that ``orbax.checkpoint.StandardCheckpointer().restore`` reads.

    Orbax takes all arrays at once. An existing file or folder is never replaced.

    Raises:
        CheckpointError: if the folder exists or cannot be written, or a leaf is empty, which Orbax cannot store.
        ValueError: if Orbax is not installed.
    """
    try:
        orbax = import_module("orbax.checkpoint")
    except ImportError as error:
        raise ValueError(f"--format orbax needs Orbax: pip install orbax-checkpoint ({error})") from error
    with name_file(path, "could not be written"):
        leaves = flat(variables, DTYPES, "Orbax")
        empty = [key for key, leaf in leaves.items() if 0 in leaf.shape]
        if empty:
            raise RefusedError(f"could not be written: Orbax stores no empty array, such as {shown(empty[0])}")
    with new_folder(path) as folder, orbax.StandardCheckpointer() as checkpointer:
        arrays = {key: made(key, leaf) for key, leaf in leaves.items()}
        checkpointer.save(folder, traverse_util.unflatten_dict(arrays, sep="/"))
        checkpointer.wait_until_finished()


FORMATS = (
    Format("safetensors", ".safetensors", save),
    Format("msgpack", ".msgpack", write_msgpack),
    Format("npz", ".npz", write_npz),
    Format("orbax", "", write_orbax),
)
