"""Reads checkpoint files, of ``torch.save`` and safetensors, without PyTorch and without running anything in them."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from convert.errors import CheckpointError, RefusedError, name_file, shown
from convert.files import tree
from convert.files.arrays import lazy_array
from convert.files.modules import is_module
from convert.files.pickled import Tensor
from convert.files.plain import plain
from convert.files.safetensors_file import SAFETENSORS as SAFETENSORS
from convert.files.safetensors_file import SafetensorsFile, is_safetensors, read_safetensors
from convert.files.source import Source
from convert.files.torch_file import MAGIC, TorchFile, read_legacy, read_pickle, read_zip
from convert.prefixes import cleaned
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


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What a checkpoint file holds.

    Args:
        arrays: the state dict. The arrays that ``read`` gives are the caller's own.
        format: "zip pickle", "legacy pickle", "pickle", "TorchScript archive" or "safetensors".
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


def load(
    path: str | os.PathLike, wrapper: str | None = None, prefix: str | None = None, strict_pickle: bool = False
) -> dict[str, np.ndarray]:
    """The state dict in a file of ``torch.save`` or safetensors, as arrays of the caller's own.

    ``read`` has the same arguments and errors, and says what else is in the file.
    """
    return dict(read(path, wrapper, prefix, strict_pickle).arrays)


def read(
    path: str | os.PathLike, wrapper: str | None = None, prefix: str | None = None, strict_pickle: bool = False
) -> Checkpoint:
    """Read a state dict from a file of ``torch.save`` or safetensors. The content decides which it is, not the name.

    Whole modules and TorchScript archives are read too: their pickles hold the parameters as data. No class or
    function that a pickle names is imported, and nothing in a file is run.

    Args:
        wrapper: the key, or keys joined by dots, of the state dict: "state_dict_ema", "optimizer.state.0". None: the
            first of the usual keys that leads to a dict with tensors; if there is none, the outermost dict, if it has
            tensors; else its only such entry.
        prefix: read only the keys that begin with this text, and remove it from them.
        strict_pickle: refuse a file whose pickle names a class or function that no state dict needs.

    Raises:
        CheckpointError: if there is no such file; if it is damaged or of another kind; if the state dict is not found,
            or has tensors without plain numbers, such as sparse and quantized ones; if the file changes while it is
            read.
    """
    return _opened(path, wrapper, prefix, strict_pickle, lazy=False)


def scan(
    path: str | os.PathLike, wrapper: str | None = None, prefix: str | None = None, strict_pickle: bool = False
) -> Checkpoint:
    """What ``read`` gives, with ``Lazy`` arrays: each is read from the file when its ``make`` is called.

    ``make`` raises a CheckpointError if the file changed in the meantime.
    """
    return _opened(path, wrapper, prefix, strict_pickle, lazy=True)


def _opened(
    path: str | os.PathLike, wrapper: str | None, prefix: str | None, strict_pickle: bool, lazy: bool
) -> Checkpoint:
    for name, text in {"wrapper": wrapper, "prefix": prefix}.items():
        if text is not None and not isinstance(text, str):
            raise CheckpointError(f"{path}: expected {name} to be a string such as 'state_dict', got {text!r:.80}")
    path = Path(path)
    with name_file(path, "could not be read"):
        head = _head(path)
        source = Source(path)
        if is_safetensors(head):
            return _from_safetensors(read_safetensors(source), wrapper, prefix, lazy)
        if head.startswith(b"PK\3\4"):
            return _from_torch(read_zip(source, strict_pickle), wrapper, prefix, lazy)
        if MAGIC.to_bytes(10, "little") in head[:32]:
            return _from_torch(read_legacy(source, strict_pickle), wrapper, prefix, lazy)
        if head[:1] == b"\x80":
            return _from_torch(read_pickle(source, strict_pickle), wrapper, prefix, lazy)
        raise RefusedError(f"expected a file of torch.save or safetensors, got {_kind(head)}")


def _head(path: Path) -> bytes:
    if path.is_dir():
        raise RefusedError("expected a file, got a folder")
    if path.exists() and not path.is_file():
        raise RefusedError("expected a file, got a device or pipe")
    with open(path, "rb") as file:
        return file.read(512)


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


def _from_torch(file: TorchFile, wrapper: str | None, prefix: str | None, lazy: bool) -> Checkpoint:
    trail = tree.best_trail(file.tree) if wrapper is None else tree.trail_of(file.tree, wrapper)
    found = tree.state_dicts(file.tree)
    if trail is None:
        several = ", ".join(tree.spelled(each) for each in [*found][:8])
        remedy = f"pass one of these as wrapper: {several}" if several else "it holds no dict of tensors"
        raise RefusedError(f"expected a state dict, got {tree.described(file.tree)}; {remedy}")
    value = tree.at(file.tree, trail)
    weights, beside = tree.split(value, tree.spelled(trail))
    names, removed = cleaned(weights, prefix)
    rest = tree.without(file.tree, trail, beside) if trail or beside else {}
    return Checkpoint(
        arrays=_arrays(file, {name: weights[key] for key, name in names.items()}, lazy),
        format=file.format,
        wrapper=tree.spelled(trail) or None,
        prefix=removed,
        beside=tuple(map(str, rest)),
        wrappers={tree.spelled(each): count for each, count in found.items()},
        whole=value.name if is_module(value) else "",
        names=file.names,
        _extras=lambda: plain(rest, lambda tensor: file.lazy(tensor).make()),
    )


def _arrays(file: TorchFile, weights: Mapping[str, Any], lazy: bool) -> dict[str, Any]:
    """The weights as ``Lazy`` arrays, or as arrays that are read now."""
    if lazy:
        return {key: _lazy(file, key, weight) for key, weight in weights.items()}
    stored = file.arrays({key: weight for key, weight in weights.items() if type(weight) is Tensor})
    return {key: stored[key] if key in stored else _lazy(file, key, weight).make() for key, weight in weights.items()}


def _lazy(file: TorchFile, key: str, weight: Any) -> Lazy:
    try:
        return file.lazy(weight) if type(weight) is Tensor else lazy_array(weight)
    except RefusedError as error:
        raise RefusedError(f"{error}; that is at {shown(key)}") from error


def _from_safetensors(file: SafetensorsFile, wrapper: str | None, prefix: str | None, lazy: bool) -> Checkpoint:
    if wrapper is not None:
        raise RefusedError("expected a file of torch.save, because a wrapper was chosen, got a safetensors file")
    names, removed = cleaned(file.arrays, prefix)
    if file.metadata.get("format") == FORMAT and prefix is None:
        names, removed = {key: key for key in file.arrays}, ""
    arrays = {name: file.arrays[key] for key, name in names.items()}
    made = arrays if lazy else {key: array.make() for key, array in arrays.items()}
    return Checkpoint(made, "safetensors", prefix=removed, metadata=file.metadata)


def check_safetensors(path: Path) -> None:
    """Raise SafetensorError if the header of a safetensors file does not fit the file."""
    with safetensors.safe_open(path, framework="numpy"):
        pass
