"""What stands for the calls that the pickle of a checkpoint describes. No function that the file names is called."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from convert.errors import DamagedError, RefusedError, shown
from convert.files.pickled import DTYPES, INT64, Inert, Name, Tensor

SHARD = (
    "a shard of a distributed tensor: gather the whole state dict in PyTorch with "
    "torch.distributed.checkpoint.state_dict.get_model_state_dict and StateDictOptions(full_state_dict=True)"
)

KINDS = {
    "torch._utils._rebuild_sparse_tensor": "a sparse tensor: save tensor.to_dense()",
    "torch._utils._rebuild_sparse_csr_tensor": "a sparse tensor: save tensor.to_dense()",
    "torch._utils._rebuild_qtensor": "a quantized tensor: save tensor.dequantize()",
    "torch._utils._rebuild_nested_tensor": "a nested tensor: save tensor.unbind()",
    "torch._utils._rebuild_meta_tensor_no_storage": (
        "a meta tensor, which has a shape but no numbers: save the model after its weights were loaded"
    ),
    "torch.nn.parameter.UninitializedParameter": "a parameter of a lazy layer: save the model after its first call",
    "torch.nn.parameter.UninitializedBuffer": "a buffer of a lazy layer: save the model after its first call",
    "torch.distributed.tensor": SHARD,
    "torch.distributed._tensor": SHARD,
    "torch.distributed._shard": SHARD,
    "torch.distributed.fsdp": SHARD,
}
"""Kinds of tensor that are not read: by the name of the function or class, or the beginning of its name."""

REBUILDS = ("torch._utils._rebuild_", "torch._tensor._rebuild_", "torch.tensor._rebuild_")
HASHES = 10_000
"""How many keys of a file's dicts may be other than strings and small numbers, with which no file can slow a dict."""


def unreadable(dotted: str) -> str:
    """What kind of tensor that cannot be read ``dotted`` makes, and what to do; empty if it makes no tensor."""
    for name, kind in KINDS.items():
        if dotted == name or dotted.startswith(f"{name}."):
            return kind
    return f"a tensor that {shown(dotted)} makes, which has no plain numbers" if dotted.startswith(REBUILDS) else ""


def _tensor(storage: Any, offset: Any, size: Any, stride: Any) -> Tensor:
    dtype: Any = getattr(storage, "dtype", None)
    return Tensor(storage, dtype, offset, size=size, stride=stride)


def _tensor_v2(storage: Any, offset: Any, size: Any, stride: Any, _grad: Any, _hooks: Any, flags: Any = None) -> Tensor:
    if flags:
        raise RefusedError("a tensor that waits to be conjugated or negated: save tensor.resolve_conj().resolve_neg()")
    return _tensor(storage, offset, size, stride)


def _tensor_v3(storage: Any, offset: Any, size: Any, stride: Any, _grad: Any, _hooks: Any, dtype: Any) -> Tensor:
    if type(dtype) is not Name or dtype.dotted not in DTYPES:
        kind = shown(getattr(dtype, "dotted", "unknown"))
        raise RefusedError(f"a tensor of the dtype {kind}, which numpy and ml_dtypes do not have")
    return Tensor(storage, DTYPES[dtype.dotted], offset, size=size, stride=stride)


def _parameter(data: Any, _grad: Any, _hooks: Any, _state: Any = None) -> Any:
    if type(data) not in (Tensor, Inert):
        raise RefusedError("a parameter that holds no tensor")
    return data


def _subclass(function: Any, kind: Any, arguments: Any, _state: Any) -> Any:
    """A tensor of a subclass: ``function`` builds the tensor, the class is dropped. No second subclass inside."""
    reason = unreadable(kind.dotted) if type(kind) is Name else ""
    if reason:
        raise RefusedError(reason)
    if function == Name("torch._tensor._rebuild_from_type_v2"):
        raise RefusedError("a tensor of a subclass that holds another subclass")
    return call(function, arguments)


def _ordered_dict(pairs: Any = None) -> dict:
    """Python 2 passes a list of pairs. The list is emptied, so that a file cannot have it copied a million times."""
    if pairs is not None and type(pairs) is not list:
        raise RefusedError(f"expected an ordered dict of a list of pairs, got {type(pairs).__name__}")
    built: dict = {}
    while pairs:
        pair = pairs.pop()
        if type(pair) not in (list, tuple) or len(pair) != 2 or type(pair[0]) is not str:
            raise RefusedError("expected an ordered dict of pairs, got something else")
        built[pair[0]] = pair[1]
    return dict(reversed(built.items()))


def _deque(items: Any = (), _maxlen: Any = None) -> list:
    if items not in ((), []):
        raise RefusedError("expected an empty deque, got something else")
    return []


def _as_list(items: Any = None) -> list:
    """The list that a set is made of: the same list, so that a file cannot have it copied a million times."""
    if items is not None and type(items) is not list:
        raise RefusedError(f"expected a set of a list, got {type(items).__name__}")
    return [] if items is None else items


def _new(kind: Any, _base: Any, _state: Any) -> Inert:
    """An object as protocols 0 and 1 describe it."""
    return Inert(kind.dotted if type(kind) is Name else "object")


CALLS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor_v2,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _subclass,
    "torch.tensor._rebuild_from_type_v2": _subclass,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": lambda data, _dtype, _device, _grad: data,
    "torch.Size": lambda numbers=(): numbers,
    "collections.OrderedDict": _ordered_dict,
    "collections.defaultdict": lambda _factory=None: {},
    "collections.Counter": lambda counts=None: {} if counts is None else counts,
    "collections.deque": _deque,
    "copyreg._reconstructor": _new,
    "copy_reg._reconstructor": _new,
    **{f"{module}.{name}": _as_list for module in ("builtins", "__builtin__") for name in ("set", "frozenset", "list")},
    **{f"{module}.dict": dict for module in ("builtins", "__builtin__")},
}

_signature = functools.cache(inspect.signature)


def call(function: Any, arguments: Any) -> Any:
    """The value that the file describes as a call: what ``CALLS`` builds from it, or an inert object."""
    if type(function) not in (Name, Inert) or type(arguments) is not tuple:
        raise DamagedError("the pickle calls something that is no function, or with no arguments")
    dotted = function.dotted if type(function) is Name else function.name
    if type(function) is Inert or dotted not in CALLS:
        return Inert(dotted, arguments, reason=unreadable(dotted))
    build = CALLS[dotted]
    try:
        _signature(build).bind(*arguments)
        return build(*arguments)
    except (RefusedError, TypeError) as error:
        return Inert(dotted, arguments, reason=str(error) if dotted.startswith("torch.") else "")


class Keys:
    """Checks the keys of dicts, and counts those that a file could choose such that a dict becomes slow."""

    def __init__(self) -> None:
        self.left = HASHES

    def check(self, key: Any) -> Any:
        """``key``, if it can be hashed at all: a deeply nested tuple crashes Python.

        Raises:
            RefusedError: if the key is of another kind, or if there are too many keys that are not plain.
        """
        if type(key) is str or type(key) in (bytes, bool, type(None), Inert):
            return key
        if type(key) is int and 0 <= key < 2**20:
            return key
        if type(key) is Tensor:
            return Inert("torch.Tensor", (key,))
        self.left -= 1
        if self.left < 0:
            raise RefusedError(f"expected strings and small numbers as the keys of dicts, got over {HASHES} others")
        for part in key if type(key) is tuple and len(key) <= 64 else (key,):
            if type(part) not in (str, bytes, int, float, bool, type(None), Name, Inert):
                raise RefusedError(f"expected strings or numbers as the keys of a dict, got {type(key).__name__}")
            if type(part) is int and part not in INT64:
                raise RefusedError("expected numbers below 2**63 as the keys of a dict, got a larger one")
        return key
