"""PyTorch's steps of a catalog entry: computed where torch is installed, else read from a folder.

``FLAX_ATTN_REFERENCES`` names the folder. A run with torch writes its steps there, and a run without torch reads them.
So a version of JAX that needs another Python is held against PyTorch too.
"""

import importlib.util
import os
import zlib
from pathlib import Path

import numpy as np
import pytest

from convert.comparing.case import Step
from convert.comparing.parity import Parity

VARIABLE = "FLAX_ATTN_REFERENCES"
TORCH = importlib.util.find_spec("torch") is not None


def torch_steps(parity: Parity, train: bool, count: int = 1) -> list[Step]:
    """``parity.torch_steps``, or what an earlier run with torch has written."""
    folder = os.environ.get(VARIABLE)
    file = Path(folder or "", f"{parity.entry.name}-{'train' if train else 'eval'}-{parity.dtype}.npz")
    if not TORCH and not folder:
        pytest.skip(f"needs torch, or a folder {VARIABLE} that a run with torch has written")
    if not TORCH:
        return read(file, parity)
    steps = parity.torch_steps(train, count)
    if folder:
        write(file, parity, steps)
    return steps


def fingerprint(parity: Parity) -> int:
    """A checksum of the random numbers, which another version of numpy may draw otherwise."""
    case = parity.case
    arrays = [*case.state.values(), *(x for batch in case.batches for x in batch), *case.cotangents]
    return zlib.crc32(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays))


def write(file: Path, parity: Parity, steps: list[Step]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    arrays = {f"{i} {name}": array for i, step in enumerate(steps) for name, array in step.items()}
    np.savez(file, fingerprint=fingerprint(parity), **arrays)


def read(file: Path, parity: Parity) -> list[Step]:
    assert file.is_file(), f"no {file.name} in {file.parent}: the run with torch has not written it"
    steps: dict[str, Step] = {}
    with np.load(file) as stored:
        assert stored["fingerprint"] == fingerprint(parity), "the random numbers are not those of the run with torch"
        for key in stored.files:
            number, _, name = key.partition(" ")
            if name:
                steps.setdefault(number, {})[name] = stored[key]
    return list(steps.values())
