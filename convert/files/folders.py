"""Checkpoints in several files: the index of their shards, and the folders of Hugging Face."""

import json
from collections.abc import Mapping
from pathlib import Path

from convert.errors import RefusedError, damage, shown

INDEX = ".index.json"
"""How the name of an index ends: ``model.safetensors.index.json``, ``pytorch_model.bin.index.json``."""

USUAL = (
    *("model.safetensors", f"model.safetensors{INDEX}", "diffusion_pytorch_model.safetensors"),
    *("pytorch_model.bin", f"pytorch_model.bin{INDEX}", "open_clip_pytorch_model.bin"),
)
"""The checkpoint in a folder of Hugging Face, in the order in which the names are tried."""

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".pkl", ".tar")

DISTRIBUTED = (
    "a checkpoint of torch.distributed in pieces: write it as one file in PyTorch with "
    "torch.distributed.checkpoint.format_utils.dcp_to_torch_save"
)
DEEPSPEED = (
    "a checkpoint of DeepSpeed in pieces: write it as one file with the script zero_to_fp32.py that lies beside it"
)

PIECES = {
    "*.distcp": DISTRIBUTED,
    "zero_to_fp32.py": DEEPSPEED,
    "*_optim_states.pt": DEEPSPEED,
    "global_step*": DEEPSPEED,
}
"""What a folder is that has such a file."""


def require_whole(path: Path) -> None:
    """Refuse a file that only another program can join with others."""
    if path.name.endswith(".distcp"):
        raise RefusedError(f"expected a checkpoint, got a part of {DISTRIBUTED}")


def is_index(path: Path) -> bool:
    """Whether ``path`` is the index of a checkpoint in several files."""
    return path.name.endswith(INDEX)


def checkpoint_in(folder: Path) -> Path:
    """The one checkpoint in a folder, or the index of its shards.

    Raises:
        RefusedError: if there is none, or several, or if the folder holds pieces that only another program can join.
    """
    for pattern, kind in PIECES.items():
        if any(folder.glob(pattern)):
            raise RefusedError(f"expected a checkpoint, got {kind}")
    usual = next((folder / name for name in USUAL if (folder / name).is_file()), None)
    if usual:
        return usual
    found = sorted(file for file in folder.iterdir() if file.name.endswith((*SUFFIXES, INDEX)) and file.is_file())
    indices = [file for file in found if is_index(file)]
    one = indices or found
    if len(one) == 1:
        return one[0]
    listed = ", ".join(shown(file.name) for file in one[:8]) + f" and {len(one) - 8} more" * (len(one) > 8)
    raise RefusedError(f"expected a folder with one checkpoint, got {f'several: {listed}' if one else 'none in it'}")


def shards(index: Path) -> Mapping[Path, tuple[str, ...]]:
    """The files of a checkpoint, and the keys in each.

    Raises:
        RefusedError: if the index is no such index, names a file of another folder, or a file that is missing.
    """
    found: dict[Path, list[str]] = {}
    for key, name in _weight_map(index).items():
        found.setdefault(index.with_name(name), []).append(key)
    missing = [place.name for place in found if not place.is_file()]
    if missing:
        listed = ", ".join(map(shown, missing[:8])) + f" and {len(missing) - 8} more" * (len(missing) > 8)
        raise RefusedError(f"expected {len(found)} files beside the index, {len(missing)} are missing: {listed}")
    return {place: tuple(keys) for place, keys in found.items()}


def shards_of(index: Path) -> list[str]:
    """The names of the files of a checkpoint, which need not be there yet."""
    return [*dict.fromkeys(_weight_map(index).values())]


def _weight_map(index: Path) -> dict[str, str]:
    """{key: name of the file}, as the index has it."""
    with damage(ValueError, RecursionError):
        content = json.loads(index.read_bytes())
    names = content.get("weight_map") if type(content) is dict else None
    if type(names) is not dict or not names or not all(type(name) is str for name in names.values()):
        raise RefusedError("expected an index with a weight_map from keys to files, got none")
    odd = next((name for name in names.values() if not name or set(name) & {*"/\\\0"} or name == ".."), None)
    if odd is not None:
        raise RefusedError(f"expected the names of files beside the index, got {shown(odd)}")
    return names
