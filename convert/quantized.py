"""What to do with a quantized checkpoint, whose weights are integers."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from convert.values import dtype_of, is_quantized

LIBRARIES = {
    "qweight": "GPTQ or AWQ",
    "SCB": "bitsandbytes",
    "absmax": "bitsandbytes",
    "quant_map": "bitsandbytes",
}
"""Who writes state dicts with such keys, by the last part of the key."""

BESIDE = ("scale", "scales", "zero_point", "zero_points")
"""What the last part of a key beside quantized weights ends with."""


def quantized_hint(given: Mapping[str, Any], expected: Iterable[str]) -> str:
    """What to do, if the state dict ``given`` is quantized; empty if it is not.

    Args:
        expected: the keys of the floating point numbers that the module has.
    """
    known = set(expected)
    if any(is_quantized(value) for value in given.values()):
        left = [key for key in given if key not in known and key.rpartition(".")[2] in BESIDE]
        only = " if not key.endswith(('scale', 'zero_point'))" if left else ""
        call = f"value.dequantize() if value.is_quantized else value for key, value in state_dict.items(){only}"
        return f"the tensors are quantized; pass {{key: {call}}}"
    packed = next((key for key in given if key.endswith("._packed_params")), None)
    if packed is not None:
        return (
            f"the weights are packed by torch.ao.quantization; unpack those of each layer with weight, bias = "
            f"state_dict[{packed!r}] and weight.dequantize(), or pass the state_dict of the float model"
        )
    libraries = {LIBRARIES[last] for key in given if (last := key.rpartition(".")[2]) in LIBRARIES and key not in known}
    if libraries:
        who = " or ".join(sorted(libraries))
        return f"the weights are quantized by {who}; dequantize the model there, and pass its state_dict()"
    integers = [key for key in known & given.keys() if _is_integer(given[key])]
    return _by_hand(min(integers), [key for key in given if key not in known]) if integers else ""


def _is_integer(value: Any) -> bool:
    dtype = dtype_of(value)
    return dtype is not None and np.issubdtype(dtype, np.integer)


def _by_hand(key: str, keys: Sequence[str]) -> str:
    """How to dequantize the integers under ``key``, with the names of the scale and the zero point beside it."""
    stem = key.rpartition(".")[0]
    beside = [k for k in keys if k.startswith(stem) and k.endswith(BESIDE)][:2]
    scale, zero = ([f"state_dict[{k!r}]" for k in beside if word in k.rpartition(".")[2]] for word in ("scale", "zero"))
    call = f"(state_dict[{key!r}].float() - {[*zero, 'zero_point'][0]}) * {[*scale, 'scale'][0]}"
    return (
        f"{key!r} holds integers, as a quantized checkpoint does; dequantize each weight with the library that wrote "
        f"it, in torch {call}, or pass the checkpoint from before it was quantized"
    )
