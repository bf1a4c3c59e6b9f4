"""Where in a training checkpoint the states of the optimizer and of the scheduler are."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from convert.files.pickled import Inert

Trail = tuple[Any, ...]
"""The keys, and the numbers of list items, that lead to a value."""

DEPTH = 3


def is_optimizer(value: Any) -> bool:
    """Whether ``value`` is the state dict of an optimizer."""
    return (
        isinstance(value, Mapping)
        and isinstance(value.get("param_groups"), list | tuple)
        and isinstance(value.get("state"), Mapping)
    )


def is_scheduler(value: Any) -> bool:
    """Whether ``value`` is the state dict of a learning rate scheduler."""
    return (
        isinstance(value, Mapping) and not {"last_epoch", "_schedulers"}.isdisjoint(value) and not is_optimizer(value)
    )


def places(tree: Any, fits: Callable[[Any], bool], trail: Trail = ()) -> Iterator[Trail]:
    """The places in ``tree`` of the values that fit, to a depth of 3. There is none inside of another."""
    if fits(tree):
        yield trail
    elif len(trail) < DEPTH:
        for key, value in entries(tree):
            yield from places(value, fits, (*trail, key))


def entries(tree: Any) -> list[tuple[Any, Any]]:
    """The keys and values of a dict, or the numbers and items of a list; none of anything else."""
    if isinstance(tree, Mapping):
        return list(tree.items())
    return list(enumerate(tree)) if isinstance(tree, list | tuple) else []


def find_place(tree: Any, fits: Callable[[Any], bool], what: str, option: str, spelled: str | None) -> Trail | None:
    """The one place of a value that fits; None if there is none.

    Args:
        what: what a message calls the value.
        option: the argument with which a user says where it is.
        spelled: what the user says: the keys, joined by dots.

    Raises:
        ValueError: if there are several, or if no value that fits is where the user says.
    """
    found = {".".join(map(str, trail)): trail for trail in places(tree, fits)}
    if spelled is not None and spelled not in found:
        there = f"there is one at {' and at '.join(found)}" if found else "there is none in the file"
        raise ValueError(f"{option}: expected the state of {what} at {spelled!r}; {there}")
    if spelled is None and len(found) > 1:
        raise ValueError(f"the file has several states of {what}; say which with {option}: {', '.join(found)}")
    return found[spelled] if spelled is not None else next(iter(found.values()), None)


def at(tree: Any, trail: Trail) -> Any:
    """The value at a place."""
    for key in trail:
        tree = tree[key]
    return tree


def put(tree: Any, trail: Trail, value: Any) -> Any:
    """A copy of ``tree`` with ``value`` at a place. Dicts that are not there are made; a dict joins one that is."""
    if not trail:
        return {**tree, **value} if isinstance(tree, Mapping) and isinstance(value, Mapping) else value
    first, rest = trail[0], trail[1:]
    if isinstance(tree, list):
        return [put(item, rest, value) if i == first else item for i, item in enumerate(tree)]
    there = dict(tree) if isinstance(tree, Mapping) else {}
    return {**there, first: put(there.get(first), rest, value)}


def without(tree: Any, trail: Trail) -> Any:
    """A copy of ``tree`` without the value at a place; in a list, None stands there."""
    first, rest = trail[0], trail[1:]
    if isinstance(tree, list):
        return [(without(item, rest) if rest else None) if i == first else item for i, item in enumerate(tree)]
    kept = {key: value for key, value in tree.items() if key != first}
    return {**kept, first: without(tree[first], rest)} if rest and first in tree else kept


def writable(tree: Any, left: list[str], trail: Trail = ()) -> Any:
    """A copy of ``tree`` without inert objects, whose classes PyTorch would have to import.

    Args:
        left: gets a line for each inert object: where it was, and its class.
    """
    if isinstance(tree, Counter):
        return tree
    if isinstance(tree, Mapping):
        items = {key: writable(value, left, (*trail, key)) for key, value in tree.items() if not isinstance(key, Inert)}
        return {key: value for key, value in items.items() if not isinstance(value, Inert)}
    if isinstance(tree, list):
        return [item for i, v in enumerate(tree) if not isinstance(item := writable(v, left, (*trail, i)), Inert)]
    if isinstance(tree, Inert):
        left.append(f"{'.'.join(map(str, trail))} ({tree.name})")
    return tree
