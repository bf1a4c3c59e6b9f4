"""The parts of a dialect: rules that rename keys by pattern, and give arrays another form."""

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from convert.forms import SAME, ZEROS, Form, Shape
from convert.rules import dropped
from convert.tensors import Lazy, as_numpy

WILD = {"**": r"(.+)", "*": r"([^.]+)", "#": r"(\d+)"}
PREFIX = r"(|.+\.)"


@functools.cache
def pattern(template: str) -> re.Pattern:
    """The regular expression of a template, which has three wildcards.

    ``#`` stands for a number, and ``*`` for one or more characters that are no dots. ``**`` at the beginning stands for
    any number of parts that each end in a dot, and elsewhere for one or more characters of any kind.
    """
    start, rest = (PREFIX, template[2:]) if template.startswith("**") else ("", template)
    return re.compile(start + re.sub(r"\\\*\\\*|\\\*|\\?#", lambda m: WILD[m[0].replace("\\", "")], re.escape(rest)))


def fill(template: str, captures: Sequence[str]) -> str:
    """``template`` with its wildcards replaced, in order, by ``captures``: the matches of another template."""
    parts = iter(captures)
    return re.sub(r"\*\*|\*|#", lambda _: next(parts), template)


class Rule(NamedTuple):
    """The foreign keys of one array, and its key here: templates with the same wildcards in the same order.

    Args:
        beside: a foreign key and a key here, as templates too; the rule applies only if the state dict has this key.
        added: whether the array is an additional one; then the next rules are applied to the foreign keys as well.
    """

    foreign: str | tuple[str, ...]
    native: str
    form: Form = SAME
    beside: tuple[str, str] | None = None
    added: bool = False

    @property
    def parts(self) -> tuple[str, ...]:
        return (self.foreign,) if isinstance(self.foreign, str) else self.foreign

    def match(self, key: str, keys: Iterable[str], side: int) -> Sequence[str] | None:
        """What the wildcards match in ``key``, foreign (side 0) or a name here (1). None: the rule does not apply."""
        for template in (self.native,) if side else self.parts:
            found = pattern(template).fullmatch(key)
            if found and (self.beside is None or fill(self.beside[side], found.groups()) in keys):
                return found.groups()
        return None


Rules = tuple[Rule, ...]


class Read(NamedTuple):
    """An array under a name here, and the foreign keys it comes from. The array is None if their arrays do not fit."""

    value: Any
    origins: tuple[str, ...]


class Translation(NamedTuple):
    """A state dict under the names here, and a line for each problem with it."""

    entries: dict[str, Read]
    problems: list[str]


class Dialect(NamedTuple):
    """The names that other code uses in its state dicts.

    Args:
        about: one sentence on whose names they are, and on what else is different in that code.
        passes: lists of rules, applied one after the other when reading. In each, the first rule that applies to a key
            renames it.
        signature: templates of keys that every state dict in this dialect has, and no network here. Empty: the names
            do not show that a state dict is in this dialect.
        networks: names of the constructors of published networks that have such files, with ``fnmatch`` wildcards.
        without: templates of keys that no state dict in this dialect has.
    """

    name: str
    about: str
    passes: tuple[Rules, ...]
    signature: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    without: tuple[str, ...] = ()

    def speaks(self, keys: Iterable[str]) -> bool:
        """Whether ``keys`` have the signature of this dialect."""
        keys = list(keys)

        def there(template: str) -> bool:
            return any(map(pattern(template).fullmatch, keys))

        return bool(self.signature) and all(map(there, self.signature)) and not any(map(there, self.without))

    def read(self, state_dict: Mapping[str, Any]) -> Translation:
        """``state_dict`` under the names here. No ``Lazy`` value is made.

        An array of another form, such as one that several parts are joined to, is a ``Lazy`` that makes its parts.
        """
        entries = {key: Read(_described(value), (key,)) for key, value in state_dict.items() if not dropped(key)}
        problems: list[str] = []
        for i, rules in enumerate(self.passes):
            entries = self._read(i, rules, entries, problems)
        back = self.write_names(entries)
        for key, entry in entries.items():
            if entry.value is not None and set(back[key]) != set(entry.origins):
                problems.append(f"+ {', '.join(entry.origins)}: expected {', '.join(back[key])} instead")
        return Translation(entries, problems)

    def _read(self, i: int, rules: Rules, entries: dict[str, Read], problems: list[str]) -> dict[str, Read]:
        """Apply pass ``i``, of ``rules``. An array of several parts is joined at the first part that is there."""
        out: dict[str, Read] = {}
        for key in entries:
            for names, target, form in _targets(rules, key, entries):
                if key != next(name for name in names if name in entries):
                    continue
                read = self._join(i, form, names, entries, problems)
                if target in out:
                    both = [", ".join(origins) for origins in (out[target].origins, read.origins)]
                    problems.append(f"* {target}: comes from {both[0]} and from {both[1]}")
                out[target] = read
        return out

    def _join(self, i: int, form: Form, names: Sequence[str], entries: Mapping[str, Read], problems: list[str]) -> Read:
        """The array of the parts ``names``. Problems with them are added to ``problems``."""
        parts = [entries[name] for name in names if name in entries]
        origins = tuple(origin for part in parts for origin in part.origins)
        if len(parts) < len(names):
            lost = [name for name in names if name not in entries]
            called = self.write_names([*lost, *entries], i)
            gone = [part for name in lost for part in called[name]]
            problems += [f"- {name}: expected beside {', '.join(origins)}, found nothing" for name in gone]
            return Read(None, origins)
        try:
            return Read(_joined(form, parts), () if form is ZEROS else origins)
        except ValueError as error:
            problems.append(f"~ {', '.join(origins)}: {error}")
            return Read(None, origins)

    def write_names(self, keys: Iterable[str], passes: int | None = None) -> dict[str, tuple[str, ...]]:
        """The foreign keys of each of ``keys``, which are names here, or names after the first ``passes`` passes."""
        names = {key: [key] for key in keys}
        for rules in reversed(self.passes[:passes]):
            known = {name for group in names.values() for name in group}
            parts = {name: _written(rules, name, known)[1] for name in known}
            names = {key: [part for name in group for part in parts[name]] for key, group in names.items()}
        return {key: tuple(group) for key, group in names.items()}

    def write(self, state_dict: Mapping[str, Any]) -> dict[str, Any]:
        """The inverse of ``read``. The parts of an array are arrays, those of a ``Lazy`` are ``Lazy`` values.

        Raises:
            ValueError: if an array has no form in this dialect.
        """
        for rules in reversed(self.passes):
            out: dict[str, Any] = {}
            for key, value in state_dict.items():
                form, names = _written(rules, key, state_dict)
                if form.write is None:
                    raise ValueError(f"{self.name} can be read and not written: {key} does not tell what it was")
                try:
                    out |= zip(names, _parts(form, value, len(names)), strict=True)
                except ValueError as error:
                    raise ValueError(f"{self.name} cannot be written: {key}: {error}") from error
            state_dict = out
        return dict(state_dict)

    def inexact(self, shapes: Mapping[str, Shape]) -> list[str]:
        """The names here, of those in ``shapes``, whose arrays this dialect does not keep to the bit."""
        lost: dict[str, None] = {}
        names = {key: [key] for key in shapes}
        for rules in reversed(self.passes):
            known = {name for group in names.values() for name in group}
            written = {name: _written(rules, name, known) for name in known}
            for key, group in names.items():
                if not all(written[name][0].exact(shapes[key]) for name in group):
                    lost[key] = None
            names = {key: [part for name in group for part in written[name][1]] for key, group in names.items()}
        return list(lost)


def _described(value: Any) -> Any:
    return value if isinstance(value, Lazy) else as_numpy(value)


def _parts(form: Form, value: Any, n: int) -> Sequence[Any]:
    """The ``n`` parts of ``value``, one after the other; each part of a ``Lazy`` makes the whole of it."""
    assert form.write
    if form is SAME:
        return [value if isinstance(value, Lazy) else np.asarray(as_numpy(value), order="C")]
    shapes = form.split(tuple(value.shape), n)
    if not isinstance(value, Lazy) or not shapes:
        return [np.asarray(part, order="C") for part in form.write(as_numpy(value), n)]
    write, whole = form.write, value
    return [
        Lazy(shape, value.dtype, functools.partial(lambda i: np.array(write(as_numpy(whole), n)[i], order="C"), i))
        for i, shape in enumerate(shapes)
    ]


def _targets(rules: Rules, key: str, keys: Iterable[str]) -> list[tuple[tuple[str, ...], str, Form]]:
    """The arrays that the foreign ``key`` is a part of: (names of all parts, name here, form)."""
    found = []
    for rule in rules:
        captures = rule.match(key, keys, 0)
        if captures is not None:
            found.append((tuple(fill(t, captures) for t in rule.parts), fill(rule.native, captures), rule.form))
            if not rule.added:
                return found
    return [*found, ((key,), key, SAME)]


def _written(rules: Rules, key: str, keys: Iterable[str]) -> tuple[Form, tuple[str, ...]]:
    """The form in which ``key``, a name here, is written, and the names of its parts."""
    for rule in rules:
        captures = rule.match(key, keys, 1)
        if captures is not None:
            return rule.form, () if rule.added else tuple(fill(t, captures) for t in rule.parts)
    return SAME, (key,)


def _joined(form: Form, parts: Sequence[Read]) -> Any:
    if any(part.value is None for part in parts):
        return None
    if form is SAME:
        return parts[0].value
    shape = form.shape([tuple(part.value.shape) for part in parts])
    dtypes = {part.value.dtype for part in parts}
    if len(dtypes) > 1:
        raise ValueError(f"expected parts of one dtype, found {', '.join(sorted(d.name for d in dtypes))}")
    return Lazy(shape, parts[0].value.dtype, lambda: form.read([as_numpy(part.value) for part in parts]))
