"""Reads checkpoint files, of ``torch.save`` and safetensors, without PyTorch and without running anything in them."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from convert.errors import RefusedError, name_file, shown
from convert.files.pickled import Opaque, Tensor
from convert.files.safetensors_file import SAFETENSORS as SAFETENSORS
from convert.files.safetensors_file import is_safetensors, read_safetensors
from convert.files.source import Source
from convert.files.torch_file import MAGIC, TorchFile, read_legacy, read_zip

WRAPPERS = (
    *("state_dict", "model_state_dict", "model_state", "model", "net_state_dict", "net", "network", "module"),
    *("params", "weights", "state_dict_ema", "model_ema", "ema", "params_ema"),
)
"""Keys under which training scripts store the state dict, in the order in which they are tried."""

IGNORED = ("_metadata", "_extra_state")
"""The last part of keys of a state dict that need not hold a tensor."""

PREFIXES = ("module.", "_orig_mod.")
"""What DataParallel and torch.compile put before every key."""

KINDS = {
    b"\xff\xd8\xff": "a JPEG image",
    b"\x89PNG": "a PNG image",
    b"\x93NUMPY": "a NumPy array file",
    b"\x89HDF": "an HDF5 file, as Keras writes",
    b"\x1f\x8b": "a gzip file",
    b"<": "a web page",
    b"version https://git-lfs": "a Git LFS pointer to a file that was not fetched",
    b"\x80": "a pickle that torch.save did not write",
}
"""What files of other kinds begin with."""

FORMAT = "flax_attn"
"""The format that the metadata of our own files name."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What a checkpoint file holds.

    Args:
        arrays: the state dict. The arrays are read-only views of the file: nothing is read before their numbers are
            used, and the file must not change as long as they are in use.
        format: "zip pickle", "legacy pickle" or "safetensors".
        wrapper: the key, or keys joined by dots, under which the state dict was found; None where it was not wrapped.
        prefix: what every key began with ("module."). The keys of ``arrays`` are without it.
        metadata: the text entries of a safetensors file.
        extras: the other keys beside the outermost wrapper, such as "epoch".
    """

    arrays: dict[str, np.ndarray]
    format: str
    wrapper: str | None = None
    prefix: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    extras: tuple[str, ...] = ()


def load(path: str | os.PathLike, wrapper: str | None = None) -> dict[str, np.ndarray]:
    """The state dict in a file of ``torch.save`` or safetensors. ``read`` says more of it."""
    return read(path, wrapper).arrays


def read(path: str | os.PathLike, wrapper: str | None = None) -> Checkpoint:
    """Read a state dict from a file of ``torch.save`` or safetensors. The content decides which it is, not the name.

    Args:
        wrapper: the key, or keys joined by dots, of the state dict. None: the first of ``WRAPPERS`` that leads to a
            dict with tensors; if there is none, the outermost dict, if it has tensors; else its only such entry.

    Raises:
        CheckpointError: if there is no such file; if it is damaged, of another kind, or holds anything but numbers
            and plain containers (a whole module, for example); if the state dict is not found, or has entries that are
            no tensors.
    """
    path = Path(path)
    with name_file(path, "could not be read"):
        head = _head(path)
        if is_safetensors(head):
            return _from_safetensors(path, wrapper)
        if head.startswith(b"PK\3\4"):
            return _from_torch(read_zip(Source(path)), wrapper)
        if MAGIC.to_bytes(10, "little") in head[:32]:
            return _from_torch(read_legacy(Source(path)), wrapper)
        raise RefusedError(f"expected a file of torch.save or safetensors, got {_kind(head)}")


def scan(
    path: str | os.PathLike, wrapper: str | None = None, prefix: str | None = None, strict_pickle: bool = False
) -> Checkpoint:
    """What ``read`` gives, but each array is read only when its ``make`` is called."""
    return read(path, wrapper)


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


def _from_torch(file: TorchFile, wrapper: str | None) -> Checkpoint:
    trail = _state_dict_path(file.tree) if wrapper is None else wrapper.split(".")
    if trail is None:
        found = _described(file.tree)
        raise RefusedError(f"expected a state dict, got {found}; if it is one of these, pass its key as wrapper")
    tensors = _tensors(file.tree, trail)
    prefix = _common_prefix(tensors)
    return Checkpoint(
        arrays=file.arrays({key.removeprefix(prefix): tensor for key, tensor in tensors.items()}),
        format=file.format,
        wrapper=".".join(trail) or None,
        prefix=prefix,
        extras=tuple(str(key) for key in file.tree if key != trail[0]) if trail else (),
    )


def _state_dict_path(tree: Any, depth: int = 3) -> list[str] | None:
    """The keys that lead to the state dict. ``depth`` limits their number, because a pickle can contain itself."""
    if type(tree) is not dict:
        return None
    for name in WRAPPERS if depth else ():
        below = _state_dict_path(tree.get(name), depth - 1)
        if below is not None:
            return [name, *below]
    if _has_tensors(tree):
        return []
    only = [key for key, value in tree.items() if _has_tensors(value)]
    return only if len(only) == 1 and type(only[0]) is str else None


def _has_tensors(value: Any) -> bool:
    return type(value) is dict and any(type(entry) is Tensor for entry in value.values())


def _tensors(tree: Any, trail: list[str]) -> dict[str, Tensor]:
    """The state dict to which the keys ``trail`` lead, without the entries that are ``IGNORED``."""
    for key in trail:
        if type(tree) is not dict or key not in tree:
            raise RefusedError(f"expected a state dict under {shown('.'.join(trail))}, got {_described(tree)}")
        tree = tree[key]
    if not _has_tensors(tree):
        raise RefusedError(f"expected a dict of tensors, got {_described(tree)}")
    found = {key: value for key, value in tree.items() if str(key).rpartition(".")[2] not in IGNORED}
    odd = [key for key, value in found.items() if type(key) is not str or type(value) is not Tensor]
    if odd:
        raise RefusedError(f"expected only tensors in the state dict, got {_entries({key: found[key] for key in odd})}")
    return found


def _described(tree: Any) -> str:
    if type(tree) is dict:
        return f"a dict of {_entries(tree)}"
    return tree.dotted if type(tree) is Opaque else type(tree).__name__


def _entries(tree: dict) -> str:
    """The first keys, the type of each value, and how many more entries there are."""
    first = [
        f"{shown(str(key))} ({'dict' if type(value) is dict else _described(value)})"
        for key, value in islice(tree.items(), 8)
    ]
    return ", ".join(first or ["nothing"]) + f" and {len(tree) - 8} more" * (len(tree) > 8)


def _common_prefix(keys: Iterable[str]) -> str:
    """The longest chain of ``PREFIXES`` with which every key begins."""
    prefix = ""
    keys = tuple(keys) or ("",)
    while longer := [prefix + more for more in PREFIXES if all(key.startswith(prefix + more) for key in keys)]:
        prefix = longer[0]
    return prefix


def _from_safetensors(path: Path, wrapper: str | None = None) -> Checkpoint:
    if wrapper is not None:
        raise RefusedError("expected a file of torch.save, because a wrapper was chosen, got a safetensors file")
    file = read_safetensors(Source(path))
    prefix = "" if file.metadata.get("format") == FORMAT else _common_prefix(file.arrays)
    arrays = {key.removeprefix(prefix): lazy.make() for key, lazy in file.arrays.items()}
    return Checkpoint(arrays, "safetensors", prefix=prefix, metadata=file.metadata)


def check_safetensors(path: Path) -> None:
    """Raise SafetensorError if the header of a safetensors file does not fit the file."""
    with safetensors.safe_open(path, framework="numpy"):
        pass
