"""Checks the arguments of a module against their annotations: "SELayer: expected int for channel, got '16'"."""

import functools
import inspect
import numbers
import re
import types
from collections.abc import Sequence
from typing import Any, Union, cast, get_args, get_origin

import numpy as np

LARGEST = 2**31
"""An integer of this magnitude is no size of anything."""
CHILDREN = 10_000
"""How many modules another module makes at most."""
SHOWN = 80
NUMBERS = (int, float, bool, str, type(None))


def fits(value: Any, hint: Any) -> bool:
    """Whether ``value`` is of an annotated type: int, float, bool, str, None, a sequence of them, or a union.

    numpy's numbers count. A bool is no number. Every value fits any other annotation.
    """
    kind, inner = get_origin(hint), get_args(hint)
    if kind in (Union, types.UnionType):
        return any(fits(value, each) for each in inner)
    if kind in (Sequence, tuple):
        return fits_sequence(value, inner if kind is tuple else (*inner, ...))
    if hint not in NUMBERS:
        return True
    if isinstance(value, bool | np.bool_):
        return hint is bool
    if hint is int:
        return isinstance(value, numbers.Integral) and abs(int(value)) < LARGEST
    if hint is float:
        return isinstance(value, numbers.Real) or (hasattr(value, "dtype") and np.shape(value) == ())
    return isinstance(value, hint)


def fits_sequence(value: Any, inner: tuple[Any, ...]) -> bool:
    """Whether ``value`` is a sequence of the types ``inner``; a type and then ``...`` stand for any number of them."""
    if isinstance(value, str | bytes) or not (hasattr(value, "__len__") and hasattr(value, "__iter__")):
        return False
    if inner[-1] is ...:
        return all(fits(item, inner[0]) for item in value)
    return len(value) == len(inner) and all(map(fits, value, inner))


def spelled(hint: Any) -> str:
    """An annotation without the names of the files that its types are in."""
    return hint.__name__ if isinstance(hint, type) else re.sub(r"\w+\.", "", str(hint))


def brief(value: Any) -> str:
    """What a message shows of ``value``: its beginning, and of an integer with too many digits only how many bits."""
    if isinstance(value, int) and value.bit_length() > 4 * SHOWN:
        return f"an integer of {value.bit_length()} bits"
    if isinstance(value, str | bytes | list | tuple):
        value = value[:SHOWN]
    text = f"[{', '.join(map(brief, value[:8]))}]" if isinstance(value, list | tuple) else repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def refusal(who: str, name: str, hint: Any, value: Any) -> str:
    """The sentence about an argument that does not fit."""
    size = isinstance(value, int) and abs(value) >= LARGEST
    expected = f"{spelled(hint)} below 2**31" if size else spelled(hint)
    return f"{who}: expected {expected} for {name}, got {brief(value)}"


@functools.cache
def checked_fields(cls: type) -> tuple[tuple[str, Any], ...]:
    """Name and annotation of the arguments that are checked: those that classes of this package declare."""
    owners: dict[str, tuple[type, Any]] = {}
    for base in reversed(cls.__mro__):
        owners |= {name: (base, hint) for name, hint in inspect.get_annotations(base).items()}
    return tuple(
        (name, hint)
        for name, (owner, hint) in owners.items()
        if owner.__module__.partition(".")[0] == "flax_attn" and is_checked(hint)
    )


def is_checked(hint: Any) -> bool:
    """Whether ``fits`` can say no to ``hint``."""
    inner = get_args(hint)
    if get_origin(hint) in (Union, types.UnionType):
        return all(map(is_checked, inner))
    return hint in NUMBERS or get_origin(hint) in (Sequence, tuple)


def check_fields(module: Any) -> None:
    """Refuse an argument of ``module`` that is not of its annotated type, and a module that makes too many others.

    Raises:
        ValueError: in one sentence.
    """
    cls, values = type(module), vars(module)
    fields = module.__dataclass_fields__
    for name, hint in checked_fields(cast(Any, cls)):
        value = values.get(name)
        given = name in values and value is not fields[name].default
        if given and not fits(value, hint):
            raise ValueError(refusal(cls.__name__, name, hint, value))
    count_children(module.parent)


def count_children(parent: Any) -> None:
    """Count the modules that ``parent`` makes in its ``setup``, and refuse too many, which would fill the memory.

    A compact method makes its modules again in every call, so that their number says nothing.
    """
    if not hasattr(parent, "parent_context") or not parent._state.in_setup:
        return
    made = vars(parent)
    made["_made"] = made.get("_made", 0) + 1
    if made["_made"] > CHILDREN:
        raise ValueError(f"{type(parent).__name__}: expected arguments that make at most {CHILDREN} layers, got more")
