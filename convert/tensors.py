"""Turns arrays of any library into numpy arrays, bit for bit. PyTorch tensors are read without importing torch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np


@dataclass(frozen=True, eq=False)
class Lazy:
    """An array that ``make`` computes when it is called."""

    shape: tuple[int, ...]
    dtype: np.dtype
    make: Callable[[], np.ndarray]


def as_numpy(value: Any) -> np.ndarray:
    """``value`` as a numpy array of the same dtype. A torch tensor may be on any device, and bfloat16."""
    if isinstance(value, Lazy):
        return value.make()
    if not hasattr(value, "detach"):
        return np.asarray(value)
    tensor = value.detach().cpu().contiguous()
    if str(tensor.dtype) != "torch.bfloat16":
        return tensor.numpy()
    int16 = tensor.new_empty(0).short().dtype
    return tensor.view(int16).numpy().view(ml_dtypes.bfloat16)
