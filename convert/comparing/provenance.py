"""What a comparison was made with: the bytes of the checkpoint, the versions of the packages, and the machine."""

import hashlib
import os
import platform
from pathlib import Path
from typing import NamedTuple

import jax

from convert.errors import RefusedError, name_file
from convert.files.flax_files import is_orbax
from convert.files.folders import checkpoint_in, is_index, shards
from convert.files.hub import is_remote, local_copy
from convert.files.source import Source
from convert.variables_file import version_of

PACKAGES = ("flax_attn", "jax", "jaxlib", "flax", "numpy", "torch")

PIECE = 2**22
"""How many bytes are read at a time."""


class Bytes(NamedTuple):
    """The hash and the size of a checkpoint."""

    sha256: str
    size: int


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that compute."""
    return {"python": platform.python_version(), **{name: version_of(name) for name in PACKAGES}}


def machine() -> dict[str, str]:
    """The kind of the machine, without its name."""
    return {
        "system": platform.system(),
        "architecture": platform.machine(),
        "device": jax.devices()[0].device_kind,
    }


def bytes_of(path: str | os.PathLike) -> Bytes:
    """The hash of the file that is read for ``path``.

    For a checkpoint in several files, it is the hash of a list with a line for each: its hash and its name.

    Raises:
        CheckpointError: if there is no such checkpoint, or a file of it cannot be read.
    """
    with name_file(path, "could not be read"):
        found = {name: _one(file) for name, file in files_of(path).items()}
    if len(found) == 1:
        return next(iter(found.values()))
    listed = "".join(f"{one.sha256}  {name}\n" for name, one in sorted(found.items()))
    return Bytes(hashlib.sha256(listed.encode()).hexdigest(), sum(one.size for one in found.values()))


def files_of(path: str | os.PathLike) -> dict[str, Path]:
    """The files of the checkpoint at ``path``, each by its name in the folder. RefusedError if there is none."""
    place = local_copy(path) if is_remote(path) else Path(path)
    if is_orbax(place):
        found = sorted(file for file in place.rglob("*") if file.is_file())
        return {file.relative_to(place).as_posix(): file for file in found}
    if place.is_dir():
        place = checkpoint_in(place)
    return {file.name: file for file in (place, *(shards(place) if is_index(place) else ()))}


def require_outside(path: Path, checkpoint: str | os.PathLike) -> None:
    """Refuse a file that would be one of those of the checkpoint, which its own hash would have to be in."""
    if is_orbax(Path(checkpoint)) and Path(checkpoint).resolve() in path.resolve().parents:
        raise RefusedError("could not be written: expected a file outside the folder of the checkpoint, got one in it")


def _one(path: Path) -> Bytes:
    source, summed = Source(path), hashlib.sha256()
    for start in range(0, source.size, PIECE):
        summed.update(source.read(start, min(PIECE, source.size - start)).data)
    return Bytes(summed.hexdigest(), source.size)
