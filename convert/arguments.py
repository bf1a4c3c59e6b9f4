"""Checks of what a user passes to ``from_torch`` and ``to_torch``: each refusal says what to pass instead."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from convert.checkpoint import Checkpoint
from convert.values import is_array, trouble

ORDER = "the order is {}(module, {}, example input)"


def described(value: Any) -> str:
    """What a message calls ``value``."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if hasattr(value, "detach"):
        return "a torch tensor"
    if is_array(value):
        return f"an array of shape {tuple(np.shape(value))}"
    return "None" if value is None else f"a {type(value).__name__}"


def is_torch_module(value: Any) -> bool:
    """Whether ``value`` is a ``torch.nn.Module``."""
    return not isinstance(value, type) and hasattr(value, "named_parameters") and hasattr(value, "state_dict")


def is_nnx(value: Any) -> bool:
    """Whether ``value`` is an NNX module, a class of such modules, or the state of one."""
    cls = value if isinstance(value, type) else type(value)
    return any(base.__module__.startswith("flax.nnx") for base in cls.__mro__)


def require_module(who: str, module: Any) -> None:
    """Refuse anything but a linen module."""
    if isinstance(module, nn.Module):
        return
    expected = f"{who}: expected a Flax module as the first argument, got "
    if isinstance(module, type) and issubclass(module, nn.Module):
        raise ValueError(f"{expected}the class {module.__name__}; pass an instance, {module.__name__}(...)")
    if is_torch_module(module):
        name = type(module).__name__
        raise ValueError(f"{expected}the torch module {name}; pass the Flax module that {name} is to become")
    if is_nnx(module):
        raise ValueError(f"{expected}an NNX module; pass the linen module, and put the result into NNX with to_nnx")
    if inspect.isroutine(module):
        raise ValueError(f"{expected}the function {module.__name__}; call it: {module.__name__}(...)")
    order = ORDER.format(who, "variables" if who == "to_torch" else "state_dict")
    raise ValueError(f"{expected}{described(module)}; {order}")


def require_call(module: nn.Module, inputs: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Refuse example inputs with which ``module`` cannot be called."""
    who = type(module).__name__
    odd = [_shape_alone(value) for value in inputs[:1]] + [_odd_input(value) for value in (*inputs, *kwargs.values())]
    if any(odd):
        raise ValueError(f"{who}: expected arrays as example inputs, got {next(filter(None, odd))}")
    try:
        inspect.signature(type(module).__call__).bind(module, *inputs, **kwargs)
    except TypeError as error:
        example = "jax.ShapeDtypeStruct((1, 64, 64, 3), 'float32')"
        raise ValueError(
            f"{who} cannot be called with {_counted(inputs)}: {error}; pass what the module is called with as the last "
            f"arguments, with the channels last, such as {example}"
        ) from error


def _counted(inputs: Sequence[Any]) -> str:
    count = len(inputs)
    return f"{count} example inputs" if count > 1 else ("this example input" if count else "no example input")


def _odd_input(value: Any) -> str:
    """Why ``value`` is no example input, and what to pass instead; empty if it may be one."""
    if hasattr(value, "detach"):
        shape = tuple(value.shape)
        moved = (shape[0], *shape[2:], shape[1]) if len(shape) > 3 else shape
        last = " with the channels last" if len(shape) > 3 else ""
        dtype = str(value.dtype).removeprefix("torch.")
        example = f"jax.ShapeDtypeStruct({moved}, {dtype!r})"
        return f"a torch tensor of shape {shape}; pass a NumPy or JAX array{last}, such as {example}"
    if isinstance(value, np.ndarray) and value.dtype.kind not in "biufcV":
        return f"{trouble(value)}; pass numbers"
    if isinstance(value, PathLike) or callable(getattr(value, "convert", None)):
        return f"{described(value)}; pass a NumPy or JAX array with the channels last"
    return ""


def _shape_alone(value: Any) -> str:
    """What to pass in place of a shape; empty if ``value`` is none."""
    if not isinstance(value, tuple | list) or not value or not all(type(size) is int for size in value):
        return ""
    return f"the shape {tuple(value)}; pass jax.ShapeDtypeStruct({tuple(value)}, 'float32')"


def state_dict_of(value: Any) -> Mapping[str, Any]:
    """The state dict that ``value`` is, or that the checkpoint ``value`` holds.

    Raises:
        ValueError: if it is anything else; the message says what to pass instead.
    """
    if isinstance(value, Checkpoint):
        return value.arrays
    expected = "from_torch: expected a state dict, a dict of arrays by PyTorch's keys, got "
    if is_nnx(value) or not isinstance(value, Mapping):
        raise ValueError(expected + _no_mapping(value))
    odd = next((key for key in value if not isinstance(key, str)), "")
    inside = list(_dicts_of_tensors(value, "checkpoint"))
    if _is_variables(value):
        raise ValueError(f"{expected}Flax variables; to_torch takes these, from_torch what torch's state_dict() gives")
    if inside:
        keys = ", ".join(map(repr, list(value)[:6]))
        raise ValueError(f"{expected}a whole checkpoint with the keys {keys}; pass {' or '.join(inside[:4])}")
    if odd != "":
        raise ValueError(f"{expected}a dict with the key {odd!r}, which is no string")
    return value


def _no_mapping(value: Any) -> str:
    """What is in place of the state dict, and what to pass instead."""
    if isinstance(value, str | PathLike):
        return f"the path {str(value)!r}; pass load({str(value)!r})"
    if is_torch_module(value):
        return f"the torch module {type(value).__name__}; pass its state_dict()"
    if inspect.isroutine(value):
        return f"the function {value.__name__}; call it: {value.__name__}()"
    if callable(getattr(value, "get_tensor", None)):
        return "an open safetensors file; pass load(path)"
    if is_nnx(value):
        return "an NNX module or its state; pass what torch's state_dict() gives"
    if is_array(value):
        return f"{described(value)}; {ORDER.format('from_torch', 'state_dict')}"
    if isinstance(value, Iterator | list | tuple):
        return f"{described(value)}; pass a dict, as torch's state_dict() gives it"
    return f"{described(value)}; pass what torch's state_dict() or convert.load(path) gives"


def _dicts_of_tensors(value: Mapping[Any, Any], name: str, depth: int = 3) -> Iterator[str]:
    """How to write each state dict, and each torch module, inside a dict called ``name``."""
    for key, below in value.items() if depth else ():
        inner = f"{name}[{key!r}]"
        if is_torch_module(below):
            yield f"{inner}.state_dict()"
        elif isinstance(below, Mapping) and isinstance(key, str):
            if any(isinstance(k, str) and is_array(v) and not isinstance(v, np.generic) for k, v in below.items()):
                yield inner
            else:
                yield from _dicts_of_tensors(below, inner, depth - 1)


def _is_variables(value: Mapping[Any, Any]) -> bool:
    """Whether ``value`` is a tree of Flax variables. The keys of PyTorch have dots, those of Flax have none."""
    params = value.get("params")
    if not isinstance(params, Mapping) or not params:
        return False
    return not any(isinstance(key, str) and "." in key for key in params)


def variables_of(value: Any, paths: Sequence[tuple[str, ...]]) -> Mapping[str, Any]:
    """The variables ``value``.

    Args:
        paths: the paths of the leaves that the module has.

    Raises:
        ValueError: if ``value`` is anything else than a dict of collections; the message says what to pass instead.
    """
    expected = 'to_torch: expected variables {"params": ..., "batch_stats": ...}, got '
    if is_nnx(value) or not isinstance(value, Mapping):
        raise ValueError(expected + _no_variables(value))
    if value and not {path[0] for path in paths} & value.keys():
        if {path[1] for path in paths if len(path) > 2} & value.keys() or {p[-1] for p in paths} & value.keys():
            call = '{"params": params}, and with "batch_stats" where the module has statistics'
            raise ValueError(f"{expected}the parameters alone; pass {call}")
        if any(isinstance(key, str) and "." in key and is_array(below) for key, below in value.items()):
            raise ValueError(f"{expected}a PyTorch state dict; from_torch makes variables of it")
    return value


def _no_variables(value: Any) -> str:
    """What is in place of the variables, and what to pass instead."""
    if is_nnx(value):
        return f"an NNX {type(value).__name__}; pass from_nnx(module) for a module that to_nnx made"
    if hasattr(value, "params"):
        more = ', "batch_stats": state.batch_stats' if hasattr(value, "batch_stats") else ""
        return f'a {type(value).__name__}; pass {{"params": state.params{more}}}'
    if isinstance(value, str | PathLike):
        return f"the path {str(value)!r}; pass restore({str(value)!r})"
    if is_torch_module(value):
        return f"the torch module {type(value).__name__}; it has a state_dict() of its own"
    if isinstance(value, nn.Module):
        return f"the module {type(value).__name__}; pass its variables, such as module.init(key, x)"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__}; init_with_output and apply with mutable return the variables second"
    if isinstance(value, jax.Array | np.ndarray):
        return f"{described(value)}; {ORDER.format('to_torch', 'variables')}"
    return described(value)
