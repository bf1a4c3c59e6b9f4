"""Finds what has to be put before the keys of one side of a mismatch, or taken away, so that they fit the other."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

DEPTH = 12
"""How many parts a prefix has at most."""

Shapes = Mapping[str, tuple[int, ...]]


def prefix_hint(expected: Shapes, found: Shapes) -> str:
    """The prefix with which most keys fit, and how to apply it; empty if none is better than the keys as they are.

    The time is linear in the number of keys.
    """
    direct = sum(key in found for key in expected)
    total = len(expected)
    longer = _best(found, expected)
    if longer and longer[0][1] > direct and 2 * longer[0][1] > total:
        return _below(longer, total)
    shorter = _best(expected, found)
    if shorter and shorter[0][1] > direct and 2 * shorter[0][1] > len(found):
        return _above(*shorter[0], len(found))
    return _exchanged(expected, found, direct)


def _below(best: list[tuple[str, int]], total: int) -> str:
    """The keys of the state dict begin with a prefix."""
    (prefix, count), *others = best
    also = f" (and below {' and '.join(repr(other) for other, _ in others[:4])})" if others else ""
    call = f"{{key.removeprefix({prefix!r}): value for key, value in state_dict.items() if key.startswith({prefix!r})}}"
    return (
        f"{_share(count, total)} would match below {prefix!r}{also}; pass load(path, prefix={prefix!r}), "
        f"--prefix {prefix} on the command line, or {call}"
    )


def _above(prefix: str, count: int, total: int) -> str:
    """The keys of the module begin with a prefix."""
    call = f"{{{prefix!r} + key: value for key, value in state_dict.items()}}"
    return f"{_share(count, total)} would match with {prefix!r} in front, as in the module; pass {call}"


def _exchanged(expected: Shapes, found: Shapes, direct: int) -> str:
    """The keys of both sides begin with a prefix, each with one of its own."""
    ours, theirs = (_common(keys) if keys else "" for keys in (expected, found))
    if not (ours and theirs):
        return ""
    ours, theirs = _without_common_end(ours, theirs)
    count = sum(ours + key.removeprefix(theirs) in expected for key in found)
    if count <= direct or 2 * count <= len(expected):
        return ""
    call = f"{{{ours!r} + key.removeprefix({theirs!r}): value for key, value in state_dict.items()}}"
    return f"{_share(count, len(expected))} would match with {ours!r} in place of {theirs!r}; pass {call}"


def _share(count: int, total: int) -> str:
    return "every key" if count == total else f"{count:,} of {total:,} keys"


def _best(long: Shapes, short: Shapes) -> list[tuple[str, int]]:
    """The prefixes of keys in ``long`` after which most keys of ``short`` follow, and how many do.

    Of several prefixes with as many keys, those with the most equal shapes.
    """
    names: Counter[str] = Counter()
    shapes: Counter[str] = Counter()
    for key, prefix, rest in _cuts(long, max(map(len, short), default=0)):
        if rest in short:
            names[prefix] += 1
            shapes[prefix] += long[key] == short[rest]
    if not names:
        return []
    top = max((names[prefix], shapes[prefix]) for prefix in names)
    return [(prefix, names[prefix]) for prefix in names if (names[prefix], shapes[prefix]) == top]


def _cuts(keys: Iterable[str], longest: int) -> Iterator[tuple[str, str, str]]:
    """Each key with what is before and after each of its first dots, if the rest has at most ``longest`` characters."""
    for key in keys:
        end = key.find(".") + 1
        for _ in range(DEPTH):
            if not end:
                break
            if len(key) - end <= longest:
                yield key, key[:end], key[end:]
            end = key.find(".", end) + 1


def _without_common_end(a: str, b: str) -> tuple[str, str]:
    """Two prefixes without the last parts that they have in common; the first part of each stays."""
    while a.count(".") > 1 < b.count(".") and a.split(".")[-2] == b.split(".")[-2]:
        a, b = (prefix[: prefix.rfind(".", 0, -1) + 1] for prefix in (a, b))
    return a, b


def _common(keys: Iterable[str]) -> str:
    """What all keys begin with, up to a dot."""
    first, last = min(keys), max(keys)
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return first[: first.rfind(".", 0, same) + 1]
