"""What wrappers of PyTorch put before the keys of a state dict, and the sub-trees that the keys form."""

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from convert.errors import RefusedError, shown

WRAPPING = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")
"""The parts of keys that torch.compile, FSDP, activation checkpoints, and Lightning's and DeepSpeed's engines add."""

OUTERMOST = "module."
"""What DataParallel puts before every key."""

AVERAGED = "n_averaged"
"""The counter that torch's AveragedModel has beside its module."""

DEPTH, MANY = 16, 4000
"""Sub-trees are looked for in so many parts of a key, and so many of them at most."""

_ADDED = re.compile(rf"(?<![^.])(?:{'|'.join(WRAPPING)})\.(?!\Z)")
_LEADING = re.compile(rf"(?:{re.escape(OUTERMOST)}(?!\Z))*")


def cleaned(keys: Iterable[str], prefix: str | None = None) -> tuple[dict[str, str], str]:
    """The keys of a file as the network itself has them.

    The parts ``WRAPPING`` are removed wherever they are in a key. ``module.`` is removed as often as every key begins
    with it; an ``n_averaged`` beside such keys is left out.

    Args:
        prefix: keep only the keys below this prefix, and remove it; with or without the dot at its end.

    Returns:
        {key in the file: key without prefixes}, and the text with which every one of these keys begins in the file.

    Raises:
        RefusedError: if no key begins with ``prefix``, or if two keys become one.
    """
    names = {key: _ADDED.sub("", key) for key in keys}
    found = _unwrapped(names)
    if prefix:
        found = _below(prefix, found, names)
    first: dict[str, str] = {}
    for key, name in found.items():
        if (other := first.setdefault(name, key)) != key:
            both = f"{shown(other)} and {shown(key)}"
            raise RefusedError(f"expected keys that differ without the prefixes of wrappers, got {both} for one array")
    return found, _removed(found, names)


def starts(key: str) -> Iterator[str]:
    """The prefixes of ``key`` that end in a dot, the shortest first; at most ``DEPTH``."""
    end = -1
    for _ in range(DEPTH):
        if (end := key.find(".", end + 1)) < 0:
            return
        yield key[: end + 1]


def below(keys: Iterable[str]) -> list[str]:
    """The prefixes, each with the dot at its end, below which there are at least 2 of the keys.

    Those with more keys come first, and of those with as many keys the shorter ones. There are at most ``MANY``.
    """
    counts = Counter(prefix for key in keys for prefix in starts(key))
    found = [prefix for prefix, count in counts.items() if count > 1]
    return sorted(found, key=lambda prefix: (-counts[prefix], len(prefix)))[:MANY]


def _unwrapped(names: Mapping[str, str]) -> dict[str, str]:
    """``names`` without the ``module.`` with which every one begins, and without the counter beside them."""
    inside = {key: name for key, name in names.items() if name != AVERAGED}
    count = min((match.end() for name in inside.values() if (match := _LEADING.match(name))), default=0)
    return {key: name[count:] for key, name in inside.items()} if count else dict(names)


def _below(prefix: str, found: Mapping[str, str], names: Mapping[str, str]) -> dict[str, str]:
    """The names below ``prefix``, of ``found`` or else of ``names``, without it."""
    wanted = _ADDED.sub("", f"{prefix.removesuffix('.')}.*").removesuffix("*")
    for tree in (found, names):
        kept = {key: name[len(wanted) :] for key, name in tree.items() if name.startswith(wanted) and name != wanted}
        if kept:
            return _unwrapped(kept)
    parts = dict.fromkeys(name[:200].partition(".")[0] for name in found.values())
    listed = ", ".join(map(shown, [*parts][:8])) + f" and {len(parts) - 8} more" * (len(parts) > 8)
    raise RefusedError(f"expected keys that begin with {shown(wanted)}, got keys that begin with {listed or 'nothing'}")


def _removed(found: Mapping[str, str], names: Mapping[str, str]) -> str:
    """The text that was removed before every name of ``found``, as the file has it."""
    common: list[str] | None = None
    for key, name in found.items():
        parts = _parts_before(key, names[key].count(".") - name.count(".")) if name != key else []
        if common is not None:
            same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(parts, common, strict=False))
            parts = [part for part, _ in same]
        common = parts
    return "".join(f"{part}." for part in common or ())


def _parts_before(key: str, count: int) -> list[str]:
    """The first ``count`` parts of ``key``, and the parts of wrappers before, between and after them."""
    parts: list[str] = []
    for part in key.split("."):
        if part not in WRAPPING and count == 0:
            break
        count -= part not in WRAPPING
        parts.append(part)
    return parts
