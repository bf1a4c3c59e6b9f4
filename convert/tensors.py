"""Anything that holds numbers -> numpy, bit for bit; torch tensors are taken without importing torch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np


@dataclass(frozen=True, eq=False)
class Lazy:
    """An array that is made when it is asked for."""

    shape: tuple[int, ...]
    dtype: np.dtype
    make: Callable[[], np.ndarray]


def as_numpy(value: Any) -> np.ndarray:
    """``value`` as a numpy array of the same dtype; a torch tensor may live on any device and be bfloat16."""
    if isinstance(value, Lazy):
        return value.make()
    if not hasattr(value, "detach"):
        return np.asarray(value)
    tensor = value.detach().cpu().contiguous()
    if str(tensor.dtype) != "torch.bfloat16":
        return tensor.numpy()
    int16 = tensor.new_empty(0).short().dtype
    return tensor.view(int16).numpy().view(ml_dtypes.bfloat16)
