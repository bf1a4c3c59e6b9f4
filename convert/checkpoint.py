"""Reads checkpoints, of ``torch.save`` and safetensors, without PyTorch and without running anything in them."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from convert.errors import CheckpointError, RefusedError, name_file, shown
from convert.files.flax_files import is_orbax, read_orbax
from convert.files.folders import checkpoint_in, is_index, require_whole, shards
from convert.files.hub import is_remote, local_copy
from convert.files.opening import FORMAT as FORMAT
from convert.files.opening import Checkpoint as Checkpoint
from convert.files.opening import Opened, open_file, open_flax
from convert.prefixes import cleaned


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

    Also read are checkpoints in several files, by their index or folder, as Hugging Face writes them, and those on
    its Hub: "hf://owner/name" or "hf://owner/name/file" (needs ``huggingface_hub``).

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
    return _read(path, wrapper, prefix, strict_pickle, lazy=False)


def scan(
    path: str | os.PathLike, wrapper: str | None = None, prefix: str | None = None, strict_pickle: bool = False
) -> Checkpoint:
    """What ``read`` gives, with ``Lazy`` arrays: each is read from the file when its ``make`` is called.

    ``make`` raises a CheckpointError if the file changed in the meantime.
    """
    return _read(path, wrapper, prefix, strict_pickle, lazy=True)


def _read(
    path: str | os.PathLike, wrapper: str | None, prefix: str | None, strict_pickle: bool, lazy: bool
) -> Checkpoint:
    if not isinstance(path, str | os.PathLike) or "\0" in str(path):
        raise CheckpointError(f"expected the path of a checkpoint file, got {path!r:.80}")
    for name, text in {"wrapper": wrapper, "prefix": prefix}.items():
        if text is not None and not isinstance(text, str):
            raise CheckpointError(f"{path}: expected {name} to be a string such as 'state_dict', got {text!r:.80}")
    with name_file(path, "could not be read"):
        opened = _opened(path, wrapper, strict_pickle)
        about = opened.about
        own = about.metadata.get("format") == FORMAT and prefix is None
        names, removed = ({key: key for key in about.arrays}, "") if own else cleaned(about.arrays, prefix)
        lazies = {name: about.arrays[key] for key, name in names.items()}
        return replace(about, arrays=lazies if lazy else opened.make(names), prefix=removed)


def _opened(path: str | os.PathLike, wrapper: str | None, strict: bool) -> Opened:
    place = local_copy(path) if is_remote(path) else Path(path)
    if is_orbax(place):
        return open_flax("Orbax", read_orbax(place), wrapper)
    if place.is_dir():
        place = checkpoint_in(place)
    require_whole(place)
    return _joined(place, wrapper, strict) if is_index(place) else open_file(place, wrapper, strict)


def _joined(index: Path, wrapper: str | None, strict: bool) -> Opened:
    """A checkpoint in several files, as one."""
    parts = {keys: open_file(place, wrapper, strict) for place, keys in shards(index).items()}
    lost = [key for keys, part in parts.items() for key in keys if key not in part.about.arrays]
    if lost:
        listed = ", ".join(map(shown, lost[:8])) + f" and {len(lost) - 8} more" * (len(lost) > 8)
        raise RefusedError(f"expected every key of the index in the file that it names, did not find {listed}")
    arrays = {key: part.about.arrays[key] for keys, part in parts.items() for key in keys}
    names = {name: sentence for part in parts.values() for name, sentence in part.about.names.items()}

    def make(wanted: Mapping[str, str]) -> dict[str, np.ndarray]:
        made: dict[str, np.ndarray] = {}
        for keys, part in parts.items():
            made |= part.make({key: wanted[key] for key in keys if key in wanted})
        return {name: made[name] for name in wanted.values()}

    kind = next(iter(parts.values())).about.format
    return Opened(Checkpoint(arrays, f"{len(parts)} files, {kind}", names=names), make)
