"""The parts of a state dict, each the keys below a prefix, and the dialects that they may be of."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from convert.dialects import DIALECTS
from convert.files.pickled import DTYPES
from convert.prefixes import below, starts
from convert.renaming import Dialect, pattern

LONG = 1000
"""Keys with more characters are of no dialect."""


def parts(keys: Iterable[str]) -> dict[str, list[str]]:
    """{prefix: the keys below it, without it}, with all keys under "" first, and then the larger parts first."""
    keys = list(keys)
    found: dict[str, list[str]] = {"": keys} | {prefix: [] for prefix in below(keys)}
    for key in keys:
        for prefix in starts(key):
            if prefix in found:
                found[prefix].append(key[len(prefix) :])
    return found


def select(state_dict: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The entries of ``state_dict`` below ``prefix``, without it."""
    return {key[len(prefix) :]: value for key, value in state_dict.items() if key.startswith(prefix)}


def hollow(state_dict: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Arrays of zeros in place of those of ``state_dict``, which take no memory, so that no file is read."""
    return {key: _zeros(tuple(value.shape), value.dtype) for key, value in state_dict.items()}


def _zeros(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    kind = DTYPES.get(str(dtype), dtype if isinstance(dtype, np.dtype) else np.dtype(np.float32))
    try:
        return np.broadcast_to(np.zeros((), kind), shape)
    except ValueError:
        return np.zeros((), kind)


def spoken(found: Mapping[str, list[str]]) -> dict[str, list[Dialect]]:
    """{prefix: the dialects that the part below it may be of}, for the parts in ``found``.

    There are none where a key is longer than ``LONG``: no network has such keys, and patterns take long for them.
    """
    if any(len(key) > LONG for key in found[""]):
        return {}
    dialects = defaultdict(list)
    for dialect in DIALECTS:
        places: set[str] | None = None
        for template in dialect.signature:
            here = _places(template, found)
            places = here if places is None else places & here
            if not places:
                break
        for prefix in places or ():
            if dialect.speaks(found[prefix]):
                dialects[prefix].append(dialect)
    return dialects


def _places(template: str, found: Mapping[str, list[str]]) -> set[str]:
    """The prefixes of the parts with a key that ``template`` fits."""
    anywhere = template.startswith("**")
    expression = pattern(template if anywhere else f"**{template}")
    text = max(re.split(r"\*+|#", template), key=len)
    places: set[str] = set()
    for key in found[""]:
        match = expression.fullmatch(key) if text in key else None
        if match and match[1] not in places:
            places |= {"", match[1], *starts(match[1])} if anywhere else {match[1]}
    return places & found.keys()
