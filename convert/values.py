"""Tells arrays of numbers from whatever else a state dict or a tree of variables may hold."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import ml_dtypes
import numpy as np

from convert.files.pickled import DTYPES
from convert.tensors import Lazy

KINDS = {"O": "Python objects", "U": "strings", "S": "bytes", "T": "strings", "M": "dates", "m": "time spans"}
"""What numpy's arrays hold that are no numbers, by the kind of their dtype."""


def numpy_dtype(value: Any) -> np.dtype:
    """The numpy dtype of an array of any library, in native byte order. TypeError if numpy has no such dtype."""
    return np.dtype(DTYPES.get(str(value.dtype), value.dtype)).newbyteorder("=")


def dtype_of(value: Any) -> np.dtype | None:
    """The numpy dtype of an array of any library; None if numpy has no such dtype, or ``value`` is no array."""
    try:
        return numpy_dtype(value)
    except (AttributeError, TypeError):
        return None


def is_array(value: Any) -> bool:
    """Whether ``value`` is an array or a tensor, of whatever kind."""
    return hasattr(value, "detach") or (hasattr(value, "shape") and hasattr(value, "dtype"))


def is_quantized(value: Any) -> bool:
    """Whether ``value`` is a torch tensor that dequantizes itself."""
    return bool(getattr(value, "is_quantized", False))


def trouble(value: Any) -> str:
    """What ``value`` is, and what to pass in its place; empty if it is an array of numbers."""
    if isinstance(value, Lazy):
        return _of_dtype(value)
    if value is None:
        return "None"
    if isinstance(value, bool | int | float | complex) and not isinstance(value, np.generic):
        return f"a Python {type(value).__name__}; pass an array, such as np.asarray({value!r})"
    if isinstance(value, Mapping):
        return "a dict"
    if hasattr(value, "detach"):
        return _of_tensor(value) or _of_dtype(value)
    if isinstance(value, nn.meta.AxisMetadata):
        return "an array in a box; pass flax.linen.unbox(variables)"
    if not is_array(value):
        return f"a {type(value).__name__}"
    return _of_array(value) or _of_dtype(value)


def _of_tensor(value: Any) -> str:
    """What is odd about a torch tensor; empty if it is a plain one."""
    if type(value).__name__.startswith("Uninitialized"):
        return "a parameter of a lazy layer that has no shape yet; call the torch module once, then take its state_dict"
    cases = (
        (hasattr(value, "full_tensor"), "a part of a tensor on several devices (DTensor); pass value.full_tensor()"),
        (hasattr(value, "local_shards"), "a part of a tensor on several devices; gather the state dict first"),
        (getattr(value, "is_nested", False), "a nested tensor, whose parts have different shapes"),
        (
            getattr(value, "is_meta", False) or hasattr(value, "fake_mode"),
            "a tensor on the meta device, which holds no numbers; load the weights into the torch module first",
        ),
        (is_quantized(value), f"a quantized tensor, {value.dtype}; pass value.dequantize()"),
        (str(value.layout) != "torch.strided", f"a sparse tensor, {value.layout}; pass value.to_dense()"),
        (hasattr(value, "__tensor_flatten__"), f"a {type(value).__name__}; pass a plain tensor"),
    )
    return next((text for found, text in cases if found), "")


def _of_array(value: Any) -> str:
    """What is odd about an array of numpy or JAX; empty if it is a plain one."""
    if isinstance(value, np.ma.MaskedArray):
        return "a masked array; pass value.filled(0), or another number for what is masked"
    if isinstance(value, jax.ShapeDtypeStruct):
        return "a shape without numbers (jax.ShapeDtypeStruct)"
    if isinstance(value, jax.core.Tracer):
        return "a traced array, which has no numbers yet; convert outside of jax.jit and jax.grad"
    if isinstance(value, jax.Array) and value.is_deleted():
        return "an array that was deleted, as jax.jit does with arguments that it may overwrite (donate_argnums)"
    if not (hasattr(value, "__array__") or hasattr(value, "__array_interface__")):
        return f"a {type(value).__name__}, which is no NumPy array, JAX array or torch tensor"
    return ""


def _of_dtype(value: Any) -> str:
    """What an array holds that is no number; empty if it holds numbers."""
    dtype = dtype_of(value)
    if dtype is None:
        return f"an array of {value.dtype}, which NumPy does not have"
    if dtype.kind in "biufc" or hasattr(ml_dtypes, dtype.name):
        return ""
    return f"an array of {KINDS.get(dtype.kind, 'records')} ({dtype})"
