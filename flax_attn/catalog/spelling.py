"""A module as JSON, and a module built from JSON or from the names and values of a command line."""

import collections.abc
import dataclasses
import inspect
import re
import types
from collections.abc import Mapping
from typing import Any, Union, get_args, get_origin, get_type_hints

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from flax_attn import layers
from flax_attn.catalog import CATALOG, arguments, find_entries
from flax_attn.layers import Module

PRECISION = ("dtype", "param_dtype")


def module_to_json(module: nn.Module) -> dict[str, Any]:
    """{"module": the name of the class, "arguments": those that are not the default}, of values that JSON has.

    Raises:
        ValueError: if an argument is of a type that has no form here, such as a function; if the catalog has another
            class of that name.
    """
    given, cls = {}, type(module)
    known = [entry.cls for entry in CATALOG if entry.cls.__name__ == cls.__name__]
    if known and cls not in known:
        got = f"a {cls.__name__} of {cls.__module__}"
        raise ValueError(f"expected a module of the catalog, got {got}, not of {known[0].__module__}")
    for field in dataclasses.fields(module):
        value = getattr(module, field.name)
        try:
            if field.name not in ("parent", "name", "parent_context") and not _is_default(value, field):
                given[field.name] = _to_json(value)
        except ValueError as error:
            got = f"a {type(value).__name__} for {field.name} of {type(module).__name__}"
            raise ValueError(f"expected arguments that JSON can hold, got {got}") from error
    return {"module": type(module).__name__, "arguments": given}


def _is_default(value: Any, field: dataclasses.Field) -> bool:
    return type(value) is type(field.default) and bool(value == field.default)


def _to_json(value: Any) -> Any:
    """A module as a dict, a class of module or a dtype as its name, a tuple as a list; ValueError for other values."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_to_json(item) for item in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _to_json(item) for key, item in value.items()}
    if isinstance(value, Module):
        return module_to_json(value)
    if isinstance(value, type) and issubclass(value, Module):
        return value.__name__
    if isinstance(value, type | np.dtype) and np.dtype(value).kind != "O":
        return np.dtype(value).name
    raise ValueError(f"a {type(value).__name__} has no JSON form")


def module_from_json(spelled: Any) -> Module:
    """The inverse of ``module_to_json``.

    Raises:
        ValueError: if the JSON is not of that form, or no module here has that name or takes these arguments.
    """
    if not _is_module(spelled):
        raise ValueError("expected the name of a module and its arguments, got something else")
    given = {k: module_from_json(v) if _is_module(v) else v for k, v in spelled["arguments"].items()}
    precision = {key: _number_type(given.pop(key)) for key in PRECISION if key in given}
    return build_module(spelled["module"], given).clone(**precision)


def _is_module(value: Any) -> bool:
    kinds = {"module": str, "arguments": dict}
    return isinstance(value, dict) and {key: type(item) for key, item in value.items()} == kinds


def _number_type(name: Any) -> Any:
    """``jnp.float32`` for "float32"."""
    found = getattr(jnp, name, None) if isinstance(name, str) else None
    if not isinstance(found, type(jnp.float32)):
        raise ValueError(f"expected the name of a dtype, got {name!r}")
    return found


def build_module(name: str, given: Mapping[str, Any]) -> Module:
    """The class or constructor called ``name``, called with the arguments ``given``, and its defaults for the others.

    A class as an argument may be given by its name, a tuple as a list.

    Raises:
        ValueError: if there is no such class; if it has no such argument, or needs one more, or takes no such value.
    """
    cls = find_entries(name)[0].cls
    known, hints = arguments(cls), get_type_hints(cls)
    for key in given:
        if key not in known:
            raise ValueError(f"{name} has no argument {key!r}; it takes {', '.join(known) or 'none'}")
    values = {key: _from_plain(value, hints[key]) for key, value in given.items()}
    for key, value in values.items():
        if not _fits(value, hints[key]):
            raise ValueError(f"{name}: expected {_spelled(hints[key])} for {key}, got {value!r}")
    missing = [key for key, p in known.items() if p.default is p.empty and key not in given]
    if missing:
        raise ValueError(f"{name} needs a value for {', '.join(missing)}")
    return cls(**values)


def _from_plain(value: Any, hint: Any) -> Any:
    """A list as a tuple; the name of a class as that class, where the annotation is not that of a string."""
    if isinstance(value, list):
        return tuple(_from_plain(item, str) for item in value)
    if isinstance(value, str) and hint is not str:
        classes = vars(layers) | {entry.cls.__name__: entry.cls for entry in CATALOG}
        return classes[value] if inspect.isclass(classes.get(value)) else value
    return value


def _fits(value: Any, hint: Any) -> bool:
    """Whether ``value`` is of the annotated type."""
    kind, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if kind in (Union, types.UnionType):
        return any(_fits(value, each) for each in inner)
    if kind is collections.abc.Callable:
        return callable(value) and (inner[0] is ... or _takes(value, len(inner[0])))
    if kind is type:
        return isinstance(value, type) and issubclass(value, inner[0])
    if kind is collections.abc.Sequence or (kind is tuple and inner[-1] is ...):
        return isinstance(value, tuple) and all(_fits(item, inner[0]) for item in value)
    if kind is tuple:
        return isinstance(value, tuple) and len(value) == len(inner) and all(map(_fits, value, inner))
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, int | float if hint is float else hint)


def _takes(function: Any, count: int) -> bool:
    """Whether ``function`` can be called with ``count`` positional arguments."""
    try:
        inspect.signature(function).bind(*range(count))
    except TypeError:
        return False
    return True


def _spelled(hint: Any) -> str:
    """An annotation without the names of the files that its types are in."""
    return hint.__name__ if isinstance(hint, type) else re.sub(r"\w+\.", "", str(hint))
