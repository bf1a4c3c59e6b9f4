"""Checkpoint files: PyTorch's are read without torch and without running anything in them; ours are safetensors."""

import dataclasses
import json
import math
import os
import secrets
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import safetensors
from flax import traverse_util

from convert.pickles import DTYPES, Opaque, RefusedError, Tensor, shown
from convert.tensors import Lazy, as_numpy
from convert.torch_file import MAGIC, TorchFile, map_file, read_legacy, read_zip
from flax_attn.catalog import build
from flax_attn.layers import Module

WRAPPERS = (
    *("state_dict", "model_state_dict", "model_state", "model", "net_state_dict", "net", "network", "module"),
    *("params", "weights", "state_dict_ema", "model_ema", "ema", "params_ema"),
)
"""Keys under which training scripts keep the state dict, in the order in which they are tried."""

IGNORED = ("_metadata", "_extra_state")
"""The last part of state dict keys that need not hold a tensor."""

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

SAFETENSORS = (
    dict(BOOL="bool", I8="int8", I16="int16", I32="int32", I64="int64")
    | dict(U8="uint8", U16="uint16", U32="uint32", U64="uint64")
    | dict(F16="float16", F32="float32", F64="float64", BF16="bfloat16", C64="complex64")
    | dict(F8_E4M3="float8_e4m3fn", F8_E5M2="float8_e5m2", F8_E8M0="float8_e8m0fnu")
    | dict(F8_E4M3FNUZ="float8_e4m3fnuz", F8_E5M2FNUZ="float8_e5m2fnuz")
)
"""The dtypes of safetensors under their numpy names."""

FORMAT = "flax_attn"


class CheckpointError(ValueError):
    """A file could not be read or written; one sentence names it, what was expected and what came."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What a checkpoint file holds.

    Args:
        arrays: the state dict; read-only views of the file, of which nothing is read until it is used, and which
            must stay as it is as long as they are.
        format: "zip pickle", "legacy pickle" or "safetensors".
        wrapper: the key, or keys joined by dots, under which the state dict was found. None: at the top.
        prefix: what every key began with ("module."), and was stripped of.
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
    """The state dict in a file of ``torch.save`` or safetensors; see ``read``."""
    return read(path, wrapper).arrays


def read(path: str | os.PathLike, wrapper: str | None = None) -> Checkpoint:
    """Read a state dict from a file of ``torch.save`` or safetensors; the content says which it is, not the name.

    Args:
        wrapper: the key, or keys joined by dots, of the state dict. None: the first of ``WRAPPERS`` that leads to a
            dict with tensors; else the outermost dict, if it has tensors; else its only entry that is such a dict.

    Raises:
        CheckpointError: if there is no such file; if it is damaged, of another kind, or holds anything but numbers
            and plain containers, whole modules included; if a state dict is not found or holds more than tensors.
    """
    path = Path(path)
    with _named(path, "could not be read"):
        head = _head(path)
    with _named(path, "expected a complete file, got a damaged one", Exception):
        if head[4:9] == b"\0\0\0\0{":
            return _from_safetensors(path, wrapper)
        if head.startswith(b"PK\3\4"):
            return _from_torch(read_zip(path), wrapper)
        if MAGIC.to_bytes(10, "little") in head[:32]:
            return _from_torch(read_legacy(path), wrapper)
        raise RefusedError(f"expected a file of torch.save or safetensors, got {_kind(head)}")


@contextmanager
def _named(path: Path, failed: str, damage: type[Exception] | tuple[type[Exception], ...] = OSError) -> Iterator[None]:
    """Turn refusals and exceptions of class ``damage`` into a CheckpointError: one sentence that names the file."""
    try:
        yield
    except RefusedError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except damage as error:
        reason = getattr(error, "strerror", None) or f"{type(error).__name__} {error}"
        raise CheckpointError(f"{path}: {failed}: {shown(' '.join(reason.split()))}") from error


def _head(path: Path) -> bytes:
    if path.is_dir():
        raise RefusedError("expected a file, got a folder")
    if path.exists() and not path.is_file():
        raise RefusedError("expected a file, got a device or pipe")
    with open(path, "rb") as file:
        return file.read(512)


def _kind(head: bytes) -> str:
    """What a file that begins with ``head`` looks like."""
    if not head:
        return "an empty file"
    for start, kind in KINDS.items():
        if head.lstrip().startswith(start):
            return kind
    if head[257:262] == b"ustar":
        return "a tar archive, as the first releases of PyTorch wrote"
    return "a text file" if head.isascii() and b"\0" not in head else "something unknown"


def _from_torch(file: TorchFile, wrapper: str | None) -> Checkpoint:
    trail = _find(file.tree) if wrapper is None else wrapper.split(".")
    if trail is None:
        raise RefusedError(f"expected a state dict, or its key as wrapper, got {_described(file.tree)}")
    tensors = _tensors(file.tree, trail)
    prefix = _common_prefix(tensors)
    return Checkpoint(
        arrays={key.removeprefix(prefix): file.array(tensor) for key, tensor in tensors.items()},
        format=file.format,
        wrapper=".".join(trail) or None,
        prefix=prefix,
        extras=tuple(str(key) for key in file.tree if key != trail[0]) if trail else (),
    )


def _find(tree: Any, depth: int = 3) -> list[str] | None:
    """The keys that lead to the state dict; ``depth`` bounds them, because a pickle can contain itself."""
    if type(tree) is not dict:
        return None
    for name in WRAPPERS if depth else ():
        below = _find(tree.get(name), depth - 1)
        if below is not None:
            return [name, *below]
    if _has_tensors(tree):
        return []
    only = [key for key, value in tree.items() if _has_tensors(value)]
    return only if len(only) == 1 and type(only[0]) is str else None


def _has_tensors(value: Any) -> bool:
    return type(value) is dict and any(type(entry) is Tensor for entry in value.values())


def _tensors(tree: Any, trail: list[str]) -> dict[str, Tensor]:
    """The state dict that the keys ``trail`` lead to, without the entries that are ``IGNORED``."""
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
    """The first keys, what is under them, and how many more there are."""
    first = [
        f"{shown(str(key))} ({'dict' if type(value) is dict else _described(value)})"
        for key, value in islice(tree.items(), 8)
    ]
    return ", ".join(first or ["nothing"]) + f" and {len(tree) - 8} more" * (len(tree) > 8)


def _common_prefix(keys: Iterable[str]) -> str:
    """The longest chain of ``PREFIXES`` that every key begins with."""
    prefix = ""
    while longer := [prefix + more for more in PREFIXES if all(key.startswith(prefix + more) for key in keys)]:
        prefix = longer[0]
    return prefix


def _from_safetensors(path: Path, wrapper: str | None = None) -> Checkpoint:
    if wrapper is not None:
        raise RefusedError("expected a file of torch.save, where a wrapper can be chosen, got a safetensors file")
    with safetensors.safe_open(path, framework="numpy"):
        pass  # it raises where the header does not fit the file
    raw = np.frombuffer(map_file(path), np.uint8)
    end = 8 + int.from_bytes(raw[:8].tobytes(), "little")
    header = json.loads(raw[8:end].tobytes())
    metadata = header.pop("__metadata__", {})
    arrays = {key: _view(raw[end:], **entry) for key, entry in header.items()}
    prefix = "" if metadata.get("format") == FORMAT else _common_prefix(arrays)
    arrays = {key.removeprefix(prefix): array for key, array in arrays.items()}
    return Checkpoint(arrays, "safetensors", prefix=prefix, metadata=metadata)


def _view(data: np.ndarray, dtype: str, shape: list[int], data_offsets: list[int]) -> np.ndarray:
    if dtype not in SAFETENSORS:
        raise RefusedError(f"expected dtypes that numpy or ml_dtypes has, got {shown(dtype)}")
    return data[slice(*data_offsets)].view(DTYPES[f"torch.{SAFETENSORS[dtype]}"]).reshape(shape)


def save(path: str | os.PathLike, variables: Mapping[str, Any], module: nn.Module | None = None) -> None:
    """Write Flax variables as safetensors, under keys such as "params/fc/0/kernel", bit for bit.

    The file appears whole or not at all: on any failure an older one stays as it was. Empty dicts are not kept.

    Args:
        variables: nested dicts with string keys; the leaves are numpy or JAX arrays, or what ``Plan.leaves`` gives,
            of which one at a time is made and written.
        module: its class and those of its arguments that are not the default are written to the metadata.

    Raises:
        CheckpointError: if the file cannot be written, or a leaf, key or argument has no place in it.
    """
    path = Path(path)
    with _named(path, "could not be written", (OSError, safetensors.SafetensorError)):
        _replace(path, _flat(variables), _about(module))


def restore(path: str | os.PathLike) -> dict[str, Any]:
    """The variables that ``save`` wrote: nested dicts with numpy leaves, of the same bits, dtypes and shapes.

    Raises:
        CheckpointError: if the file is damaged or was not written by ``save``.
    """
    checkpoint = read(path)
    with _named(Path(path), "expected a tree of arrays, got another", Exception):
        if checkpoint.metadata.get("format") != FORMAT:
            raise RefusedError(f"expected a file that save wrote, got a {checkpoint.format} file that it did not write")
        return traverse_util.unflatten_dict({key: array.copy() for key, array in checkpoint.arrays.items()}, sep="/")


def module_of(path: str | os.PathLike) -> nn.Module:
    """The module that ``save`` was given, rebuilt from the metadata.

    Raises:
        CheckpointError: if the file names none, or one that this version does not have.
    """
    metadata = read(path).metadata
    with _named(Path(path), "could not be read"):
        if "module" not in metadata:
            raise RefusedError("expected a file that save wrote with its module, got none in the metadata")
        try:
            return _build(metadata["module"], json.loads(metadata["arguments"]))
        except ValueError as error:
            raise RefusedError(str(error)) from error


def _build(module: str, arguments: dict[str, Any]) -> nn.Module:
    """The inverse of ``_arguments``."""
    given: dict[str, Any] = {
        key: _build(**value) if isinstance(value, dict) and value.keys() == {"module", "arguments"} else value
        for key, value in arguments.items()
    }
    dtypes = {key: getattr(jnp, given.pop(key)) for key in ("dtype", "param_dtype") if key in given}
    return build(module, **given).clone(**dtypes)


def _flat(variables: Mapping[str, Any]) -> dict[str, Any]:
    """The leaves by key, in the order in which they are written: no number lies across its own width."""
    if not isinstance(variables, Mapping):
        raise RefusedError(f"expected nested dicts of arrays, got {type(variables).__name__}")
    flat = traverse_util.flatten_dict(dict(variables))
    for path, leaf in flat.items():
        if not all(isinstance(part, str) and "/" not in part for part in path):
            raise RefusedError(f"expected keys that are strings without a slash, got {path}")
        known = isinstance(leaf, np.ndarray | np.generic | jax.Array | Lazy)
        if not known or leaf.dtype.name not in SAFETENSORS.values():
            kind = getattr(leaf, "dtype", type(leaf).__name__)
            raise RefusedError(f"expected arrays of dtypes that safetensors has, got {kind} at {'/'.join(path)}")
    pairs = [("/".join(path), leaf) for path, leaf in flat.items()]
    return dict(sorted(pairs, key=lambda pair: (-pair[1].dtype.itemsize, pair[0])))


def _about(module: nn.Module | None) -> dict[str, str]:
    """The metadata of a file: its format, the versions that wrote it, and the module it is for."""
    about = {"format": FORMAT, **{name: _version(name) for name in ("flax_attn", "jax", "flax")}}
    if module is None:
        return about
    return {**about, "module": type(module).__name__, "arguments": json.dumps(_arguments(module))}


def _arguments(module: nn.Module) -> dict[str, Any]:
    """The arguments of ``module`` that are not the default, in their JSON form."""
    arguments = {}
    for item in dataclasses.fields(module):
        value = getattr(module, item.name)
        try:
            default = type(value) is type(item.default) and value == item.default
            if not default and item.name not in ("parent", "name"):
                arguments[item.name] = json.loads(json.dumps(value, default=_plain))
        except (TypeError, ValueError) as error:
            got = f"a {type(value).__name__} for {item.name} of {type(module).__name__}"
            raise RefusedError(f"expected arguments that JSON can hold, got {got}") from error
    return arguments


def _version(package: str) -> str:
    with suppress(PackageNotFoundError):
        return version(package)
    return "not installed"


def _plain(value: Any) -> Any:
    """The JSON form of an argument: a dtype or class of module is its name, a module a dict, a frozen dict too."""
    if isinstance(value, Module):
        return {"module": type(value).__name__, "arguments": _arguments(value)}
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, type) and issubclass(value, Module):
        return value.__name__
    if isinstance(value, type | np.dtype) and np.dtype(value).kind != "O":
        return np.dtype(value).name
    raise TypeError(f"a {type(value).__name__} has no JSON form")


def _replace(path: Path, arrays: Mapping[str, Any], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file beside ``path`` and let it take that place when all of it is on disk."""
    temporary = path.parent / f".{secrets.token_hex(8)}.tmp"
    try:
        with open(temporary, "xb") as file:
            file.write(_header(arrays, metadata))
            for array in arrays.values():
                file.write(_little_endian(as_numpy(array)))
            file.flush()
            os.fsync(file.fileno())
        with safetensors.safe_open(temporary, framework="numpy"):
            pass  # it raises where the header does not fit the file
        os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink()


def _header(arrays: Mapping[str, Any], metadata: Mapping[str, str]) -> bytes:
    """The length of the header, and the header: JSON, filled up with spaces to a multiple of 8 bytes."""
    names = {name: ours for ours, name in SAFETENSORS.items()}
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for key, array in arrays.items():
        start, end = end, end + math.prod(array.shape) * array.dtype.itemsize
        header[key] = {"dtype": names[array.dtype.name], "shape": list(array.shape), "data_offsets": [start, end]}
    content = json.dumps(header, separators=(",", ":")).encode()
    content += b" " * (-len(content) % 8)
    return struct.pack("<Q", len(content)) + content


def _little_endian(array: np.ndarray) -> memoryview:
    """The bytes of ``array`` in row-major order."""
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("<"))
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
