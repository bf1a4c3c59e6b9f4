"""A module as JSON, and a module built from JSON or from the names and values of a command line."""

import collections.abc
import dataclasses
import functools
import inspect
import math
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Union, get_args, get_origin, get_type_hints

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from flax_attn import layers
from flax_attn.catalog import CATALOG, arguments, find_entries
from flax_attn.constructor import LINEN_ONLY, PRECISION
from flax_attn.layers import Module
from flax_attn.layers.arguments import SHOWN, brief, fits, is_checked, refusal

FLOATS = ("bfloat16", "float16", "float32", "float64", "float8_e4m3fn", "float8_e5m2")
DTYPES = (*FLOATS, *(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)))
"""The dtypes that a file can name."""

DEEPEST = 50
"""How deep lists, dicts and modules in a file may be nested."""

MOST = 2**24
"""The largest integer that an argument of a file or a command line may be."""

MAIN = "__main__"
"""The module of a class in the script that was started; the same class has another path when it is imported."""


def class_path(cls: type) -> str:
    """What a file calls a class: "flax_attn.blocks.se:SELayer"."""
    return f"{cls.__module__}:{cls.__qualname__}"


@functools.cache
def library() -> dict[str, type]:
    """The public classes of this package by their path. A file can name these without more."""
    of_layers = [getattr(layers, name) for name in (*vars(layers), *layers.TRANSFORMERS)]
    found = [*of_layers, *(entry.cls for entry in CATALOG)]
    return {class_path(cls): cls for cls in found if inspect.isclass(cls) and issubclass(cls, Module)}


def module_to_json(module: nn.Module) -> dict[str, Any]:
    """{"module": the path of the class, "arguments": those that are not the default}, of values that JSON has.

    Raises:
        ValueError: if an argument is of a type that has no form here, such as a function.
    """
    given = {}
    for field in dataclasses.fields(module):
        value = getattr(module, field.name)
        try:
            if field.init and field.name not in LINEN_ONLY and not _is_default(value, field):
                given[field.name] = _to_json(value)
        except ValueError as error:
            got = f"a {type(value).__name__} for {field.name} of {type(module).__name__}"
            raise ValueError(f"expected arguments that JSON can hold, got {got}") from error
    return {"module": class_path(type(module)), "arguments": given}


def _is_default(value: Any, field: dataclasses.Field) -> bool:
    return type(value) is type(field.default) and bool(value == field.default)


def _to_json(value: Any) -> Any:
    """A module or a class of module as a dict, a dtype as its name, a tuple as a list; ValueError for other values."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_to_json(item) for item in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _to_json(item) for key, item in value.items()}
    if isinstance(value, nn.Module):
        return module_to_json(value)
    if isinstance(value, type) and issubclass(value, nn.Module):
        return {"class": class_path(value)}
    if isinstance(value, type | np.dtype) and np.dtype(value).kind != "O":
        return np.dtype(value).name
    raise ValueError(f"a {type(value).__name__} has no JSON form")


def module_from_json(spelled: Any, own: Sequence[type] = ()) -> nn.Module:
    """The inverse of ``module_to_json``. No name in ``spelled`` is ever imported.

    Args:
        own: the classes that may be built beside those of this package. One of them at least must be named.

    Raises:
        ValueError: if the JSON is not of that form, or names a class that is neither of this package nor in ``own``,
            or none of ``own``, or if the class does not take the arguments.
    """
    if not _is_module(spelled):
        raise ValueError("expected the name of a module and its arguments, got something else")
    check_plain(spelled)
    named: set[type] = set()
    module = _from_json(spelled, own, named)
    if not isinstance(module, nn.Module):
        raise ValueError(f"expected a class of module, got {spelled['module'][:SHOWN]}")
    if own and not named & {*own}:
        expected = " or ".join(class_path(cls) for cls in own)
        raise ValueError(f"expected a module of the class {expected}, got {spelled['module']}")
    return module


def check_plain(spelled: Any, who: str = "a file") -> None:
    """Refuse values that are nested too deep, or whose numbers are no size of anything: a check of bounded time."""
    level = [spelled]
    for _ in range(DEEPEST):
        for value in level:
            if isinstance(value, int) and abs(value) > MOST:
                raise ValueError(f"expected integers of at most {MOST} in {who}, got {brief(value)}")
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"expected finite numbers in {who}, got {value}")
        dicts = [value.values() for value in level if isinstance(value, Mapping)]
        level = [item for value in level if isinstance(value, list | tuple) for item in value]
        level += [item for values in dicts for item in values]
        if not level:
            return
    raise ValueError(f"expected values that are nested at most {DEEPEST} deep in {who}, got deeper ones")


def _from_json(value: Any, own: Sequence[type], named: set[type]) -> Any:
    """The inverse of ``_to_json``, but for dtypes. The classes that ``value`` names are added to ``named``."""
    if isinstance(value, list):
        return tuple(_from_json(item, own, named) for item in value)
    if not isinstance(value, dict):
        return value
    if [*value] == ["class"] and isinstance(value["class"], str):
        return _find(value["class"], own, named)
    if not _is_module(value):
        return {key: _from_json(item, own, named) for key, item in value.items()}
    cls = _find(value["module"], own, named)
    given = {key: _from_json(item, own, named) for key, item in value["arguments"].items()}
    precision = {key: _number_type(given.pop(key)) for key in PRECISION if key in given}
    try:
        built = build_own(cls, given) if cls in own else _build(cls, cls.__name__, given)
        return built.clone(**precision)
    except ValueError:
        raise
    except Exception as error:
        found = f"{type(error).__name__} {error}".strip().partition("\n")[0][: 2 * SHOWN]
        raise ValueError(f"{cls.__name__} cannot be built from the arguments in the file: {found}") from error


def _find(spelled: str, own: Sequence[type], named: set[type]) -> type:
    """The class that a file calls ``spelled``: its path, or in an old file the bare name of a class of this package."""
    found = next((cls for cls in own if _is_called(cls, spelled)), None) or library().get(spelled)
    found = found or {cls.__name__: cls for cls in library().values()}.get(spelled)
    if found is None:
        name = spelled.rpartition(".")[2].rpartition(":")[2]
        raise ValueError(
            f"the class {spelled[:SHOWN]} is none of the public classes of flax_attn: import it yourself, and give it "
            f"as cls={name[:SHOWN]}"
        )
    named.add(found)
    return found


def _is_called(cls: type, spelled: str) -> bool:
    """Whether ``spelled`` is the path of ``cls``, or its bare name; the module of a started script is any module."""
    module, colon, name = spelled.rpartition(":")
    if not colon:
        return spelled == cls.__name__
    return name == cls.__qualname__ and (module == cls.__module__ or MAIN in (module, cls.__module__))


def _is_module(value: Any) -> bool:
    kinds = {"module": str, "arguments": dict}
    return isinstance(value, dict) and {key: type(item) for key, item in value.items()} == kinds


def _number_type(name: Any) -> Any:
    """``jnp.float32`` for "float32"."""
    if not isinstance(name, str) or name not in DTYPES:
        raise ValueError(f"expected the name of a dtype, such as float32 or bfloat16, got {brief(name)}")
    return getattr(jnp, name)


def build_module(name: str, given: Mapping[str, Any]) -> Module:
    """The class or constructor called ``name``, called with the arguments ``given``, and its defaults for the others.

    A class as an argument may be given by its name, a tuple as a list.

    Raises:
        ValueError: if there is no such class; if it has no such argument, or needs one more, or takes no such value.
    """
    check_plain(given, who="the arguments")
    return _build(find_entries(name)[0].cls, name, given)


def _build(cls: Callable[..., Module], name: str, given: Mapping[str, Any]) -> Module:
    """What ``build_module`` makes of a class or constructor of this package."""
    known, hints = arguments(cls), get_type_hints(cls)
    require_arguments(name, known, given)
    values = {key: _from_plain(value, hints[key]) for key, value in given.items()}
    for key, value in values.items():
        if not _fits(value, hints[key]):
            raise ValueError(refusal(name, key, hints[key], value))
    return cls(**values)


def build_own(cls: Callable[..., Any], given: Mapping[str, Any]) -> Any:
    """A class of a user, Flax or torch, called with the arguments ``given``.

    Raises:
        ValueError: if it has no such argument, or needs one more, or refuses a value.
    """
    parameters = inspect.signature(cls).parameters
    known = {name: p for name, p in parameters.items() if name not in LINEN_ONLY}
    require_arguments(cls.__name__, known, given)
    try:
        return cls(**given)
    except TypeError as error:
        raise ValueError(f"{cls.__name__} cannot be built from these arguments: {error}") from error


def require_arguments(name: str, known: Mapping[str, inspect.Parameter], given: Mapping[str, Any]) -> None:
    """Refuse an argument that ``known`` does not have, and one that is missing."""
    kinds = {p.kind for p in known.values()}
    for key in given if inspect.Parameter.VAR_KEYWORD not in kinds else ():
        if key not in known:
            raise ValueError(f"{name} has no argument {brief(key)}; it takes {', '.join(known) or 'none'}")
    starred = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    missing = [key for key, p in known.items() if p.default is p.empty and key not in given and p.kind not in starred]
    if missing:
        raise ValueError(f"{name} needs a value for {', '.join(missing)}")


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
        return isinstance(value, type) and (inner[0] is Any or issubclass(value, inner[0]))
    if kind is collections.abc.Sequence or (kind is tuple and inner[-1] is ...):
        return isinstance(value, tuple) and all(_fits(item, inner[0]) for item in value)
    if kind is tuple:
        return isinstance(value, tuple) and len(value) == len(inner) and all(map(_fits, value, inner))
    return fits(value, hint) if is_checked(hint) else isinstance(value, get_origin(hint) or hint)


def _takes(function: Any, count: int) -> bool:
    """Whether ``function`` can be called with ``count`` positional arguments."""
    try:
        inspect.signature(function).bind(*range(count))
    except TypeError:
        return False
    return True
