"""Our own files: Flax variables as safetensors, with the module that they belong to in the metadata."""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import flax.linen as nn
from flax import traverse_util

from convert.checkpoint import FORMAT, read
from convert.errors import RefusedError, name_file
from convert.writing.leaves import flat
from convert.writing.safetensors_writer import DTYPES, write_safetensors
from flax_attn.catalog.spelling import module_from_json, module_to_json

LONGEST = 1_000_000
"""How many characters the arguments of a module in the metadata may have."""


def save(path: str | os.PathLike, variables: Mapping[str, Any], module: nn.Module | None = None) -> None:
    """Write Flax variables as safetensors, bit for bit, under keys such as "params/fc/0/kernel".

    If anything fails, an older file at ``path`` stays as it was. Empty dicts are not kept.

    Args:
        variables: nested dicts with string keys. The leaves are numpy or JAX arrays, or those that ``Plan.leaves``
            returns; these are computed and written one at a time.
        module: the module that the variables belong to. The metadata hold its class and its arguments.

    Raises:
        CheckpointError: if the file cannot be written, or a leaf, key or argument cannot be stored in it.
    """
    with name_file(path, "could not be written"):
        leaves, metadata = flat(variables, DTYPES, "safetensors"), about(module)
    write_safetensors(path, leaves, metadata)


def restore(path: str | os.PathLike, cls: type | Sequence[type] = ()) -> dict[str, Any]:
    """The variables that ``save`` or ``convert`` wrote: nested dicts with numpy arrays of the same bits and dtypes.

    Args:
        cls: the class of module that the file must be of, with the checks of ``module_of``. Any by default.

    Raises:
        CheckpointError: if the file is damaged, holds no Flax variables, or is of another class.
    """
    checkpoint = read(path)
    with name_file(path, "could not be read"):
        if checkpoint.metadata.get("format") != FORMAT:
            raise RefusedError(
                f"expected Flax variables that save or convert wrote, got a {checkpoint.format} file of something else"
            )
        if cls != ():
            module_in(checkpoint.metadata, cls)
        paths = {tuple(key.split("/")): array for key, array in checkpoint.arrays.items()}
        if any(path[:i] in paths for path in paths for i in range(1, len(path))):
            raise RefusedError("expected a tree of arrays, got an array where other keys have a folder")
        return traverse_util.unflatten_dict(paths)


def module_of(path: str | os.PathLike, cls: type | Sequence[type] = ()) -> nn.Module:
    """The module that ``save`` was given, built again from the metadata.

    A file names a class by its module path and its name, and never causes an import. A file of an older version has
    the bare name of a class of this package.

    Args:
        cls: the class of the module, or several classes, if they are not of this package. A class is built only if the
            file names that very class; one that the script defines which is run may have been moved to another file.

    Raises:
        CheckpointError: if the file names no module, a class that is neither of this package nor in ``cls``, or no
            class in ``cls``.
    """
    metadata = read(path).metadata
    with name_file(path, "could not be read"):
        return module_in(metadata, cls)


def module_in(metadata: Mapping[str, str], cls: type | Sequence[type] = ()) -> nn.Module:
    """The module that the metadata of a file name. RefusedError if there is none, or none that may be built."""
    if not {"module", "arguments"} <= metadata.keys():
        raise RefusedError("expected a file that save wrote with its module, got none in the metadata")
    own = [cls] if isinstance(cls, type) else list(cls)
    try:
        return module_from_json({"module": metadata["module"], "arguments": _arguments(metadata["arguments"])}, own)
    except ValueError as error:
        raise RefusedError("".join(c if c.isprintable() else "?" for c in str(error)[:500])) from error


def _arguments(text: str) -> Any:
    """The arguments in the metadata. ValueError for what is no JSON, too long or nested too deep."""
    if len(text) > LONGEST:
        raise ValueError(f"expected arguments of at most {LONGEST} characters in the metadata, got {len(text)}")
    try:
        found = json.loads(text)
    except RecursionError:
        raise ValueError("expected arguments in the metadata, got JSON that is nested too deep") from None
    except ValueError as error:
        raise ValueError(f"expected arguments in JSON in the metadata: {str(error).partition(';')[0][:100]}") from None
    if not isinstance(found, dict):
        raise ValueError(f"expected a dict of arguments in the metadata, got a {type(found).__name__}")
    return found


def about(module: nn.Module | None) -> dict[str, str]:
    """The metadata of a file: its format, the versions that wrote it, and the module that it is for."""
    versions = {"format": FORMAT, **{name: version_of(name) for name in ("flax_attn", "jax", "flax")}}
    if module is None:
        return versions
    try:
        spelled = module_to_json(module)
    except ValueError as error:
        raise RefusedError(str(error)) from error
    return {**versions, "module": spelled["module"], "arguments": json.dumps(spelled["arguments"])}


def version_of(package: str) -> str:
    """The version of an installed package."""
    with suppress(PackageNotFoundError):
        return version(package)
    return "not installed"
