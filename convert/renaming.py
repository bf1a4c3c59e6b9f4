"""What a dialect is made of: renames by pattern, with the reversible changes of form that go with them."""

import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from convert.rules import dropped
from convert.tensors import Lazy, as_numpy

Shape = tuple[int, ...]

WILD = {"**": r"(.+)", "*": r"([^.]+)", "#": r"(\d+)"}
PREFIX = r"(|.+\.)"


@functools.cache
def pattern(template: str) -> re.Pattern:
    """The regular expression of a template.

    In it ``#`` stands for a number, ``*`` for what has no dot, ``**`` at the beginning for any number of parts with a
    dot behind each, and ``**`` elsewhere for the rest.
    """
    start, rest = (PREFIX, template[2:]) if template.startswith("**") else ("", template)
    return re.compile(start + re.sub(r"\\\*\\\*|\\\*|\\?#", lambda m: WILD[m[0].replace("\\", "")], re.escape(rest)))


def fill(template: str, captures: Sequence[str]) -> str:
    """``template`` with what stood for its wildcards in another one, in their order."""
    parts = iter(captures)
    return re.sub(r"\*\*|\*|#", lambda _: next(parts), template)


class Form(NamedTuple):
    """How the numbers of foreign arrays become one of ours, and back.

    Args:
        shape: that of ours, from those of the parts; ValueError says what does not suit.
        write: None where there is no way back.
    """

    shape: Callable[[Sequence[Shape]], Shape]
    read: Callable[[Sequence[np.ndarray]], np.ndarray]
    write: Callable[[np.ndarray, int], Sequence[np.ndarray]] | None


def _expect(fits: bool, expected: str, shapes: Sequence[Shape]) -> None:
    if not fits:
        raise ValueError(f"expected {expected}, found {', '.join(map(str, shapes))}")


def _rows(shapes: Sequence[Shape]) -> Shape:
    _expect(len(set(shapes)) == 1 and len(shapes[0]) > 0, "parts of one shape", shapes)
    return (len(shapes) * shapes[0][0], *shapes[0][1:])


def _pointwise(shapes: Sequence[Shape]) -> Shape:
    _expect(len(shapes[0]) == 4 and shapes[0][2:] == (1, 1), "a 1x1 convolution's weight", shapes)
    return shapes[0][:2]


def _scalar(shapes: Sequence[Shape]) -> Shape:
    _expect(shapes[0] == (), "a number without axes", shapes)
    return (1,)


def _nothing(x: np.ndarray, n: int) -> Sequence[np.ndarray]:
    if np.any(x):
        raise ValueError("expected zeros, for which there is no place, found others")
    return []


SAME = Form(lambda shapes: shapes[0], lambda parts: parts[0], lambda x, n: [x])

ROWS = Form(_rows, np.concatenate, lambda x, n: np.split(x, n))
"""Parts of one shape, one below the other."""

POINTWISE = Form(_pointwise, lambda parts: parts[0][:, :, 0, 0], lambda x, n: [x[:, :, None, None]])
"""A 1x1 convolution (o, i, 1, 1) that is a linear layer (o, i) here."""

SCALAR = Form(_scalar, lambda parts: parts[0][None], lambda x, n: [x[0]])
"""A number without axes that has shape (1,) here."""

SCALED = Form(
    lambda shapes: shapes[0],
    lambda parts: (parts[0] * parts[0].shape[0] ** -0.5).astype(parts[0].dtype),
    lambda x, n: [(x * x.shape[0] ** 0.5).astype(x.dtype)],
)
"""Divided by the root of the number of rows; the way back is exact where that is a power of 2, else to rounding."""

POSITIVE = Form(lambda shapes: shapes[0], lambda parts: (np.abs(parts[0]) + 1e-5).astype(parts[0].dtype), None)
"""|weight| + eps, from which there is no way back to the sign."""

ZEROS = Form(lambda shapes: shapes[0][:1], lambda parts: np.zeros(parts[0].shape[:1], parts[0].dtype), _nothing)
"""A bias that they have not, as long as the weight has rows."""


class Rule(NamedTuple):
    """Foreign keys, by templates with the same wildcards in the same order, and the key of ours that they make up.

    Args:
        beside: further keys (theirs, ours) without which the rule does not apply, in the wildcards of the rule.
        added: ours in addition; the foreign keys go on to the other rules.
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
        """What stands for the wildcards in ``key``, theirs (0) or ours (1); None where the rule does not apply."""
        for template in (self.native,) if side else self.parts:
            found = pattern(template).fullmatch(key)
            if found and (self.beside is None or fill(self.beside[side], found.groups()) in keys):
                return found.groups()
        return None


Rules = tuple[Rule, ...]


class Read(NamedTuple):
    """An array under a name of ours, and the foreign keys that it comes from; None where these do not suit."""

    value: Any
    origins: tuple[str, ...]


class Translation(NamedTuple):
    """A state dict under our names, and a line for everything that is wrong with it."""

    entries: dict[str, Read]
    problems: list[str]


class Dialect(NamedTuple):
    """Foreign names of a state dict.

    Args:
        about: whose names they are, in one sentence, and what else is different there.
        passes: rules of which the first that applies renames a key; on reading the passes follow one another.
        signature: templates of keys that are all there in this dialect, and are not ours. Empty: names do not tell.
        networks: names of the constructors of published networks that have such files, as ``fnmatch`` takes them.
        without: templates of keys that are not there.
    """

    name: str
    about: str
    passes: tuple[Rules, ...]
    signature: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    without: tuple[str, ...] = ()

    def speaks(self, keys: Iterable[str]) -> bool:
        """Whether ``keys`` bear the signature."""
        keys = list(keys)

        def there(template: str) -> bool:
            return any(map(pattern(template).fullmatch, keys))

        return bool(self.signature) and all(map(there, self.signature)) and not any(map(there, self.without))

    def read(self, state_dict: Mapping[str, Any]) -> Translation:
        """``state_dict`` under our names; parts are joined when they are asked for."""
        entries = {key: Read(as_numpy(value), (key,)) for key, value in state_dict.items() if not dropped(key)}
        problems: list[str] = []
        for i, rules in enumerate(self.passes):
            entries = self._read(i, rules, entries, problems)
        back = self.write_names(entries)
        for key, entry in entries.items():
            if entry.value is not None and set(back[key]) != set(entry.origins):
                problems.append(f"+ {', '.join(entry.origins)}: expected {', '.join(back[key])} instead")
        return Translation(entries, problems)

    def _read(self, i: int, rules: Rules, entries: dict[str, Read], problems: list[str]) -> dict[str, Read]:
        """Pass ``i``, of ``rules``; the first of the parts that are there brings in the others."""
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
        """What the parts ``names`` make up; what is wrong with them is added to ``problems``."""
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
        """The foreign keys of each of ``keys`` of ours, or of those that the first ``passes`` passes lead to."""
        names = {key: [key] for key in keys}
        for rules in reversed(self.passes[:passes]):
            known = {name for group in names.values() for name in group}
            parts = {name: _written(rules, name, known)[1] for name in known}
            names = {key: [part for name in group for part in parts[name]] for key, group in names.items()}
        return {key: tuple(group) for key, group in names.items()}

    def write(self, state_dict: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The inverse of ``read``.

        Raises:
            ValueError: if there is no way back, or no place for something.
        """
        for rules in reversed(self.passes):
            out = {}
            for key, value in state_dict.items():
                form, names = _written(rules, key, state_dict)
                if form.write is None:
                    raise ValueError(f"{self.name} can be read and not written: {key} does not tell what it was")
                try:
                    parts = form.write(value, len(names))
                except ValueError as error:
                    raise ValueError(f"{self.name} cannot be written: {key}: {error}") from error
                out.update({name: np.asarray(part, order="C") for name, part in zip(names, parts, strict=True)})
            state_dict = out
        return dict(state_dict)


def _targets(rules: Rules, key: str, keys: Iterable[str]) -> list[tuple[tuple[str, ...], str, Form]]:
    """What ``key`` of theirs goes into: (names of all parts, name of ours, form)."""
    found = []
    for rule in rules:
        captures = rule.match(key, keys, 0)
        if captures is not None:
            found.append((tuple(fill(t, captures) for t in rule.parts), fill(rule.native, captures), rule.form))
            if not rule.added:
                return found
    return [*found, ((key,), key, SAME)]


def _written(rules: Rules, key: str, keys: Iterable[str]) -> tuple[Form, tuple[str, ...]]:
    """How ``key`` of ours is written, and the names of its parts."""
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
