"""Opens one checkpoint file: what is in it, and its arrays under the keys of the file."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from convert.errors import RefusedError, name_file, shown
from convert.files import tree
from convert.files.arrays import lazy_array
from convert.files.flax_files import is_flax, is_msgpack, is_npz, read_msgpack, read_npz
from convert.files.modules import is_module
from convert.files.pickled import Tensor
from convert.files.plain import plain
from convert.files.safetensors_file import is_safetensors, read_safetensors
from convert.files.source import Source
from convert.files.torch_file import MAGIC, TorchFile, read_legacy, read_pickle, read_zip
from convert.files.zip_archive import read_archive
from convert.tensors import Lazy

KINDS = {
    b"\xff\xd8\xff": "a JPEG image",
    b"\x89PNG": "a PNG image",
    b"\x93NUMPY": "a NumPy array file",
    b"\x89HDF": "an HDF5 file, as Keras writes",
    b"\x1f\x8b": "a gzip file",
    b"<": "a web page",
    b"version https://git-lfs": "a Git LFS pointer to a file that was not fetched",
}
"""What files of other kinds begin with."""

FORMAT = "flax_attn"
"""The format that the metadata of our own files name."""

HEAD = 512
"""So many bytes at the beginning tell the kind of a file."""

CONSTANTS = "constants"
"""The wrapper under which the tensors of a frozen TorchScript archive are found. They are called "0", "1" and so on."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What a checkpoint file holds.

    Args:
        arrays: the state dict. The arrays that ``read`` gives are the caller's own.
        format: "zip pickle", "legacy pickle", "pickle", "TorchScript archive" or "safetensors"; of Flax variables also
            "npz", "msgpack" or "Orbax".
        wrapper: the key, or keys joined by dots, under which the state dict was found; None where it was not wrapped.
        prefix: what every key began with ("module."). The keys of ``arrays`` are without it.
        metadata: the text entries of a safetensors file.
        beside: the keys of what else the file holds, such as "epoch".
        wrappers: every state dict in the file, by the keys that lead to it, joined by dots: how many tensors it has.
        whole: the class of the module, where the file holds a whole module in place of a state dict.
        names: the classes and functions named in the pickle that no state dict needs. The text is a sentence if
            ``pickle.load`` would run code with this name, else it is empty.
    """

    arrays: Mapping[str, Any]
    format: str
    wrapper: str | None = None
    prefix: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    beside: tuple[str, ...] = ()
    wrappers: Mapping[str, int] = field(default_factory=dict)
    whole: str = ""
    names: Mapping[str, str] = field(default_factory=dict)
    _extras: Callable[[], dict[str, Any]] = field(default=dict, repr=False)

    @cached_property
    def extras(self) -> dict[str, Any]:
        """What lies beside the state dict: numbers, strings, lists, dicts, and numpy arrays in place of tensors.

        An object of a class that is not plain data is an inert object: its ``name``, ``arguments`` and ``state`` are
        what the file says of it. The file is read when this is asked for.

        Raises:
            CheckpointError: if the file changed since it was opened.
        """
        return self._extras()


@dataclass(frozen=True, eq=False)
class Opened:
    """A file whose numbers are not read yet.

    Args:
        about: what is in it; ``arrays`` are lazy, under the keys of the file.
        make: reads the arrays of some keys, {key in the file: key in the result}. They are the caller's own.
    """

    about: Checkpoint
    make: Callable[[Mapping[str, str]], dict[str, np.ndarray]]


def open_file(path: Path, wrapper: str | None = None, strict: bool = False) -> Opened:
    """Open a file of ``torch.save`` or safetensors. Its content decides which of the formats it is of.

    Raises:
        RefusedError: if the file is of another kind, or holds no state dict.
    """
    source = Source(path)
    head = source.read(0, min(HEAD, source.size)).tobytes()
    if is_safetensors(head):
        return _open_safetensors(source, wrapper)
    if head.startswith(b"PK\3\4"):
        entries = read_archive(source)
        if is_npz(entries):
            return open_flax("npz", read_npz(entries), wrapper)
        return _open_torch(read_zip(source, strict, entries), wrapper)
    if MAGIC.to_bytes(10, "little") in head[:32]:
        return _open_torch(read_legacy(source, strict), wrapper)
    if head[:1] == b"\x80":
        return _open_torch(read_pickle(source, strict), wrapper)
    if is_msgpack(head):
        return open_flax("msgpack", read_msgpack(source), wrapper)
    raise RefusedError(f"expected a file of torch.save or safetensors, got {_kind(head)}")


def open_flax(form: str, arrays: dict[str, Lazy], wrapper: str | None) -> Opened:
    """Arrays of a format without wrappers and metadata. The metadata here say whether they are Flax variables."""
    _refuse_wrapper(wrapper, form)
    metadata = {"format": FORMAT} if is_flax(arrays) else {}
    about = Checkpoint(arrays, form, metadata=metadata)
    return Opened(about, lambda names: {name: arrays[key].make() for key, name in names.items()})


def _kind(head: bytes) -> str:
    """What kind of file begins with ``head``."""
    if not head:
        return "an empty file"
    for start, kind in KINDS.items():
        if head.lstrip().startswith(start):
            return kind
    if head[257:262] == b"ustar":
        return "a tar archive, as the first releases of PyTorch wrote"
    return "a text file" if head.isascii() and b"\0" not in head else "something unknown"


def _open_torch(file: TorchFile, wrapper: str | None) -> Opened:
    if wrapper == CONSTANTS and file.constants:
        file, wrapper = (
            replace(file.constants, tree={CONSTANTS: {str(i): entry for i, entry in enumerate(file.constants.tree)}}),
            CONSTANTS,
        )
    search = tree.Search(file.tree)
    trail, found = search.best() if wrapper is None else tree.trail_of(file.tree, wrapper), search.all()
    if trail is None:
        several = ", ".join(tree.spelled(each) for each in [*found][:8])
        remedy = f"pass one of these as wrapper: {several}" if several else "it holds no dict of tensors"
        raise RefusedError(f"expected a state dict, got {tree.described(file.tree)}; {remedy}")
    value = tree.at(file.tree, trail)
    weights, beside = tree.split(value, tree.spelled(trail))
    rest = tree.without(file.tree, trail, beside) if trail or beside else {}
    about = Checkpoint(
        arrays={key: _lazy(file, key, weight) for key, weight in weights.items()},
        format=file.format,
        wrapper=tree.spelled(trail) or None,
        beside=tuple(map(str, rest)),
        wrappers={tree.spelled(each): count for each, count in found.items()},
        whole=value.name if is_module(value) else "",
        names=file.names,
        _extras=lambda: _plain(file, rest),
    )
    return Opened(about, lambda names: _arrays(file, {name: weights[key] for key, name in names.items()}))


def _plain(file: TorchFile, rest: dict[Any, Any]) -> dict[str, Any]:
    """What lies beside the state dict, as plain values."""
    budget = _Budget(file)

    def array(weight: Any) -> np.ndarray:
        made = _lazy(file, "", weight)
        count = weight.reach if type(weight) is Tensor else math.prod(made.shape)
        budget.take(count * made.dtype.itemsize)
        return made.make()

    with name_file(file.source.path, "could not be read"):
        return plain(rest, array)


class _Budget:
    """How many bytes of arrays a file can have. A pickle can mention the same bytes in a thousand arrays."""

    def __init__(self, file: TorchFile):
        self.left = 4 * file.source.size + (64 << 20)

    def take(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise RefusedError("expected arrays of about the size of the file, got far larger ones")


def _arrays(file: TorchFile, weights: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The weights, read now."""
    stored = file.arrays({key: weight for key, weight in weights.items() if type(weight) is Tensor})
    budget, made = _Budget(file), dict[int, np.ndarray]()
    for key, weight in weights.items():
        if key not in stored and id(weight) not in made:
            one = _lazy(file, key, weight)
            budget.take(math.prod(one.shape) * one.dtype.itemsize)
            made[id(weight)] = one.make()
    return {key: stored[key] if key in stored else made[id(weight)] for key, weight in weights.items()}


def _lazy(file: TorchFile, key: str, weight: Any) -> Lazy:
    try:
        return file.lazy(weight) if type(weight) is Tensor else lazy_array(weight)
    except RefusedError as error:
        raise RefusedError(f"{error}; that is at {shown(key)}") from error


def _open_safetensors(source: Source, wrapper: str | None) -> Opened:
    _refuse_wrapper(wrapper, "safetensors")
    file = read_safetensors(source)
    about = Checkpoint(file.arrays, "safetensors", metadata=file.metadata)
    return Opened(about, lambda names: {name: file.arrays[key].make() for key, name in names.items()})


def _refuse_wrapper(wrapper: str | None, form: str) -> None:
    if wrapper is not None:
        raise RefusedError(f"expected a file of torch.save, because a wrapper was chosen, got a {form} file")
