"""The numpy arrays and scalars in a pickle, and the tensors that torch_xla writes as such."""

import math
from typing import Any

import ml_dtypes
import numpy as np

from convert.errors import RefusedError, shown
from convert.files.pickled import Inert, Name
from convert.tensors import Lazy

CORES = ("numpy.core.", "numpy._core.")
ARRAY, BUFFER, SCALAR = "multiarray._reconstruct", "numeric._frombuffer", "multiarray.scalar"
XLA = ("torch._utils._rebuild_device_tensor_from_numpy", "torch._utils._rebuild_xla_tensor")
ORDERS = {"<", ">", "=", "|"}


def is_array(value: Any) -> bool:
    """Whether ``value`` stands for a numpy array or scalar, or for a tensor that was written as one."""
    return type(value) is Inert and (value.name in XLA or _function(value) in (ARRAY, BUFFER, SCALAR))


def lazy_array(value: Inert) -> Lazy:
    """The array that ``value`` stands for.

    Raises:
        RefusedError: if what the file says of the array does not fit together, or its dtype is not one of numbers.
    """
    if value.name in XLA:
        if not value.arguments or not is_array(value.arguments[0]):
            raise RefusedError("expected a tensor of torch_xla to hold an array, got none")
        return lazy_array(value.arguments[0])
    dtype, shape, order, data = _parts(value)
    raw = as_bytes(data)
    sizes = type(shape) is tuple and all(type(n) is int and 0 <= n < 2**63 for n in shape)
    if not sizes or len(shape) > 64 or type(raw) is not bytes:
        raise RefusedError("expected a numpy array with a shape and bytes, got another")
    if len(raw) != math.prod(shape) * dtype.itemsize:
        raise RefusedError(f"expected the bytes of a numpy array of shape {shape}, got {len(raw)} bytes")

    def make() -> np.ndarray:
        array = np.frombuffer(bytearray(as_bytes(data)), dtype).reshape(shape, order=order)
        return array if dtype.isnative else array.astype(dtype.newbyteorder("="))

    return Lazy(shape, dtype.newbyteorder("="), make)


def scalar(value: Inert) -> bool | int | float | complex:
    """The Python number of a numpy scalar."""
    return lazy_array(value).make().astype(object).item()


def is_scalar(value: Any) -> bool:
    """Whether ``value`` stands for a numpy scalar."""
    return type(value) is Inert and _function(value) == SCALAR


def as_bytes(value: Any) -> Any:
    """Bytes as each protocol writes them: bytes, text of Python 2, or text that is to be encoded as latin-1."""
    if type(value) is bytearray:
        return bytes(value)
    if type(value) is Inert and value.name == "_codecs.encode" and value.arguments[1:] in ((), ("latin1",)):
        value = value.arguments[0] if value.arguments else None
    if type(value) is Inert and value.name in ("builtins.bytes", "__builtin__.bytes") and value.arguments == ():
        return b""
    if type(value) is not str:
        return value
    try:
        return value.encode("latin-1")
    except UnicodeEncodeError as error:
        raise RefusedError("expected a numpy array with bytes, got other data") from error


def _function(value: Inert) -> str:
    """The name of a function of numpy's core without that of the core, which numpy 2 renamed."""
    core = next((core for core in CORES if value.name.startswith(core)), "")
    return value.name.removeprefix(core) if core else ""


def _parts(value: Inert) -> tuple[np.dtype, Any, Any, Any]:
    """The dtype, the shape, the order "C" or "F", and the data of an array."""
    function, given = _function(value), value.arguments
    if function == SCALAR and len(given) == 2:
        return _dtype(given[0]), (), "C", given[1]
    if function == BUFFER and len(given) == 4 and given[3] in ("C", "F"):
        return _dtype(given[1]), given[2], given[3], given[0]
    state = value.state
    if function == ARRAY and type(state) is tuple and len(state) == 5:
        _version, shape, dtype, fortran, raw = state
        return _dtype(dtype), shape, "F" if fortran is True else "C", raw
    raise RefusedError("expected a complete numpy array, got a part of one")


def _dtype(value: Any) -> np.dtype:
    """The dtype that ``numpy.dtype`` makes of its code, such as "f4", and of the byte order in its state."""
    code = value.arguments[0] if type(value) is Inert and value.name == "numpy.dtype" and value.arguments else value
    if type(code) is Name and code.dotted.startswith("ml_dtypes."):
        code = code.dotted.removeprefix("ml_dtypes.")
    if type(code) is bytes:
        code = code.decode("latin-1")
    simple = type(code) is str and (code in ("bool", "b1") or (code[:1] in "iufc" and code[1:].isdigit()))
    if type(code) is str and not simple and hasattr(ml_dtypes, code) and code.startswith(("bfloat", "float8")):
        return np.dtype(getattr(ml_dtypes, code))
    if not simple:
        raise RefusedError(f"expected a numpy array of numbers, got one of the dtype {shown(str(code))}")
    state = value.state if type(value) is Inert else None
    order = state[1] if type(state) is tuple and len(state) > 1 and state[1] in ORDERS else "="
    try:
        return np.dtype(code).newbyteorder(order)
    except TypeError as error:
        raise RefusedError(f"expected a numpy array of numbers, got one of the dtype {shown(code)}") from error
