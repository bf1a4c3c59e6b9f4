"""Brings a state dict under the names here, and lists everything in it that does not fit a module."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from convert.dialects import AUTO, choose, detect
from convert.mismatch import shape_differences
from convert.planning import Row
from convert.precision import Precision
from convert.renaming import Dialect, Read, Translation
from convert.replacing import Replaced
from convert.rules import dropped
from convert.values import dtype_of, trouble

Shapes = Mapping[str, tuple[int, ...]]
NOTHING = Replaced()


@dataclass(frozen=True)
class Match:
    """A state dict, held against the keys that a module has.

    Args:
        found: the arrays of the state dict by the names here.
        expected: the shapes that the module has, without those that another problem stands for.
        labels: what a message calls each name.
        problems: a line for each difference, but for those of the dtypes.
        dialect: the dialect that was read; None if the names are those here.
    """

    found: dict[str, Any]
    expected: dict[str, tuple[int, ...]]
    labels: dict[str, str]
    problems: list[str]
    dialect: Dialect | None

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each array of the state dict."""
        return {key: tuple(value.shape) for key, value in self.found.items()}

    def value_problems(self, rows: Iterable[Row], precision: Precision) -> list[str]:
        """A line for each array of numbers that the leaf of its row cannot hold."""
        dtypes = {row.key: (dtype_of(self.found[row.key]), row.dtype) for row in rows if row.key in self.found}
        texts = {key: precision.problem(found, leaf) for key, (found, leaf) in dtypes.items() if found is not None}
        return [f"! {self.labels[key]}: {text}" for key, text in texts.items() if text]


def matched(shapes: Shapes, given: Mapping[str, Any], dialect: str | None, replaced: Replaced = NOTHING) -> Match:
    """The state dict ``given``, read in ``dialect``, held against ``shapes``. What is ``replaced`` is left out."""
    chosen = spoken(shapes, given, dialect, replaced)
    shapes, given = replaced.without(shapes), given if chosen else replaced.without(given)
    useless = {k: text for k, value in given.items() if (k in shapes or not dropped(k)) and (text := trouble(value))}
    usable = {key: value for key, value in given.items() if key not in useless}
    useless = elsewhere(useless, given, chosen, replaced) if chosen else useless
    entries, problems = replaced.untouched(chosen.read(usable)) if chosen else Translation(untranslated(usable), [])
    found = {key: entry.value for key, entry in entries.items() if entry.value is not None}
    found |= {key: usable.get(key, np.zeros((), np.int64)) for key in shapes if dropped(key) and key not in useless}
    lost = {*entries, *useless} - found.keys()
    expected = {key: shape for key, shape in shapes.items() if key not in lost}
    labels = called(chosen, entries, expected)
    problems = shape_differences(expected, {k: tuple(v.shape) for k, v in found.items()}, labels) + problems
    problems += [f"! {key}: expected an array of numbers, found {text}" for key, text in useless.items()]
    return Match(found, expected, labels, problems=problems, dialect=chosen)


def spoken(shapes: Iterable[str], given: Iterable[str], dialect: str | None, replaced: Replaced) -> Dialect | None:
    """The dialect that the keys ``given`` are read in. With "auto", none if they are those of ``shapes``."""
    ours, theirs = ({key for key in keys if not (dropped(key) or replaced.covers(key))} for keys in (shapes, given))
    return None if dialect == AUTO and ours == theirs else choose(dialect, given)


def elsewhere(
    useless: dict[str, str], given: Mapping[str, Any], dialect: Dialect, replaced: Replaced
) -> dict[str, str]:
    """Those of the ``useless`` keys that the dialect does not read as leaves that are replaced."""
    arrays = {key: np.zeros(()) if key in useless else value for key, value in given.items()}
    entries = dialect.read(arrays).entries if useless and replaced.prefixes else {}
    gone = {origin for key, entry in entries.items() if replaced.covers(key) for origin in entry.origins}
    return {key: text for key, text in useless.items() if key not in gone}


def untranslated(state_dict: Mapping[str, Any]) -> dict[str, Read]:
    """``state_dict`` under its own names, without the keys that are dropped."""
    return {key: Read(value, (key,)) for key, value in state_dict.items() if not dropped(key)}


def called(dialect: Dialect | None, entries: Mapping[str, Read], expected: Iterable[str]) -> dict[str, str]:
    """The label of each key in a message: the foreign name or names, and our name after it if it is another."""
    lost = [key for key in expected if key not in entries]
    names = dialect.write_names([*lost, *expected]) if dialect and lost else {}
    origins = {key: names.get(key, (key,)) for key in lost} | {key: entry.origins for key, entry in entries.items()}
    return {k: k if v in ((k,), ()) else f"{', '.join(v)} (here {k})" for k, v in origins.items()}


def dialect_hint(match: Match, given: Mapping[str, Any]) -> str:
    """The dialect that gives most keys the names here; empty if that is less than half of them."""
    usable = {key: value for key, value in given.items() if not trouble(value)}
    direct = sum(key in match.found for key in match.expected)
    counts = {d: sum(key in d.read(usable).entries for key in match.expected) for d in detect(given)}
    best = max(counts, key=lambda dialect: counts[dialect], default=None)
    if best is None or counts[best] <= direct or 2 * counts[best] <= len(match.expected):
        return ""
    several = [dialect.name for dialect in counts if counts[dialect] == counts[best]]
    names = " or ".join(f"dialect={name!r}" for name in several)
    return f"the keys are those of another project, {best.about}; pass {names}"
