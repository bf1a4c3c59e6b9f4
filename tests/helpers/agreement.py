"""Tells whether torch, or the safetensors library, reads the same numbers from a file."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from convert.files.tree import IGNORED

try:
    import torch
except ImportError:
    torch = None  # type: ignore[assignment]


def agrees(path: Path, checkpoint: Any) -> bool:
    """Whether torch, or safetensors, reads the same state dict; also if it reads none at all."""
    expected = reference(path, checkpoint)
    if expected is None:
        return True
    keys = {key for key, tensor in expected.items() if isinstance(tensor, np.ndarray)}
    ours = {checkpoint.prefix + key: array for key, array in checkpoint.arrays.items()}
    return keys == ours.keys() and all(same(ours[key], expected[key]) for key in keys)


def reference(path: Path, checkpoint: Any) -> dict[str, Any] | None:
    """The state dict as numpy arrays, read by the library whose format it is. None if it does not read the file."""
    try:
        if checkpoint.format == "safetensors":
            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = torch.load(path, weights_only=True)
            for key in checkpoint.wrapper.split(".") if checkpoint.wrapper else ():
                tree = tree[key]
            return {key: bits_of(value) for key, value in tree.items() if str(key).rpartition(".")[2] not in IGNORED}
    except Exception:
        return None


def bits_of(value: Any) -> Any:
    """A torch tensor as a numpy array with its strides; numbers that numpy lacks as integers of the same width."""
    if not isinstance(value, torch.Tensor):
        return value
    value = value.detach()
    return value.view(torch.int16).numpy() if value.dtype is torch.bfloat16 else value.numpy()


def same(ours: np.ndarray, expected: np.ndarray) -> bool:
    """Whether shape, width and bits are the same; of large expanded arrays, those of the first numbers."""
    if ours.shape != expected.shape or ours.itemsize != expected.itemsize:
        return False
    first = tuple(slice(0, 4) for _ in ours.shape[:6]) + (slice(0, 1),) * (ours.ndim - 6)
    pair = (ours, expected) if ours.size < 10_000 else (ours[first], expected[first])
    return pair[0].tobytes() == pair[1].tobytes()
