"""The one list of every public class, and of every published network. Tests, benchmark, command line and the README's
tables walk it."""

import inspect
from collections.abc import Callable
from typing import Any, get_type_hints

from flax_attn import layers
from flax_attn.catalog.blocks import BLOCKS
from flax_attn.catalog.entry import IMAGE, PLAIN, Entry, Make, Published, channels_first, channels_last
from flax_attn.catalog.models import MODELS
from flax_attn.catalog.published import PUBLISHED
from flax_attn.layers import Module

CATALOG = BLOCKS + MODELS

FLAX_ONLY = {"parent", "name", "dtype", "param_dtype", "outer", "mesh_axis", "scale_init", "kernel_init"}
"""Arguments that a twin does not have: where and in which precision a module runs, and initialisers handed down."""


def find(name: str) -> list[Entry]:
    """The entries of the class or constructor called ``name``; ValueError when there is none."""
    entries = [entry for entry in CATALOG + PUBLISHED if entry.cls.__name__ == name]
    if not entries:
        raise ValueError(f"no model is called {name!r}; `flax-attn-convert models` lists them")
    return entries


def arguments(cls: Callable[..., Module]) -> dict[str, inspect.Parameter]:
    """The arguments of ``cls`` that say which network it is: all but precision and linen's own."""
    return {name: p for name, p in inspect.signature(cls).parameters.items() if name not in FLAX_ONLY}


def build(name: str, **given: Any) -> Module:
    """What is called ``name``, with its defaults but the arguments ``given``; ValueError where one does not fit.

    A class as an argument may be given by its name, a tuple as a list.
    """
    cls = find(name)[0].cls
    known, hints = arguments(cls), get_type_hints(cls)
    for key, value in given.items():
        if key not in known:
            raise ValueError(f"{name} has no argument {key!r}; it takes {', '.join(known) or 'none'}")
        given[key] = value = _plain(value, hints[key])
        if not _fits(value, hints[key]):
            raise ValueError(f"{name}: expected {_spelled(hints[key])} for {key}, got {value!r}")
    missing = [k for k, p in known.items() if p.default is p.empty and k not in given]
    if missing:
        raise ValueError(f"{name} needs a value for {', '.join(missing)}")
    return cls(**given)


def _plain(value: Any, hint: Any) -> Any:
    """A list as a tuple; the name of a class, where the annotation asks for no string, as the class."""
    if isinstance(value, list):
        return tuple(value)
    if isinstance(value, str) and hint is not str:
        classes = vars(layers) | {entry.cls.__name__: entry.cls for entry in CATALOG}
        return classes[value] if inspect.isclass(classes.get(value)) else value
    return value


def _fits(value: Any, hint: Any) -> bool:
    """Whether ``value`` is of the annotated type; an annotation that ``isinstance`` cannot take accepts anything."""
    if hint is float:
        hint = int | float
    try:
        return isinstance(value, hint) and not (isinstance(value, bool) and hint is int)
    except TypeError:
        return True


def _spelled(hint: Any) -> str:
    return getattr(hint, "__name__", str(hint))
