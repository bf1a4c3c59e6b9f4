"""Suggests the names that a user may have meant. It imports little, so that every message can afford it."""

import difflib
from collections.abc import Iterable


def close_names(name: str, names: Iterable[str]) -> str:
    """A question for the most similar of ``names``, whatever their case; an empty string if none is similar."""
    known: dict[str, list[str]] = {}
    for other in dict.fromkeys(names):
        known.setdefault(other.lower(), []).append(other)
    found = [other for lower in difflib.get_close_matches(name.lower(), known, n=4) for other in known[lower]]
    return f"; did you mean {' or '.join(found)}?" if found else ""
