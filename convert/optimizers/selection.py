"""Which parameter of a module each parameter of an optimizer is.

The state dict of an optimizer counts the parameters: the first group has 0, 1, 2 and so on. The names are known if the
file has them (``param_names``, of PyTorch 2.6 and later), if the user gives them, if one group has all parameters, in
the order of ``module.parameters()``, or if the groups are those of the published training.
"""

import re
from collections.abc import Callable, Iterable, Sequence

from convert.optimizers.kinds import Groups
from convert.prefixes import cleaned

Selector = str | Sequence[str] | Callable[[str], bool]
"""A group of parameters: a regular expression that is searched for in their keys, the keys, or a function of a key."""

FROM_FILE = "param_names in the file"

HOW = (
    "pass groups=[...] with one item for each group: a regular expression that is searched for in the keys of its "
    "parameters, such as '^backbone' (on the command line --group), or the list of the keys"
)


def grouped(
    keys: Sequence[str],
    found: Groups,
    wanted: Sequence[Selector] | None = None,
    published: Iterable[Sequence[Sequence[str]]] = (),
    is_sorted: bool = False,
) -> list[tuple[str, ...]]:
    """The keys of the parameters of each group, in the order of its numbers.

    Args:
        keys: the parameters of the module, in the order of ``module.parameters()``.
        found: the groups in the state dict of the optimizer.
        wanted: what the user says of each group.
        published: the keys in each group, in each published training of a network of this class.
        is_sorted: whether the keys are in alphabetical order, and that of ``module.parameters()`` is not known.

    Raises:
        ValueError: if the names cannot be known, or if what is said of them does not fit.
    """
    counts = [len(group["params"]) for group in found]
    named = all(group.get("param_names") for group in found if group["params"])
    listed = isinstance(wanted, list | tuple) and all(isinstance(own, list | tuple) for own in wanted)
    if is_sorted and not listed and (wanted is not None or not named):
        raise ValueError(
            "the keys of the state dict are sorted, so that the order in which the optimizer counts the parameters is "
            "not known; pass a state dict in the order of the PyTorch module, or groups=[...] with a list of the keys "
            "of each group in the order of the optimizer"
        )
    if wanted is not None:
        return _counted(selected(keys, wanted), counts, who="groups")
    if named:
        return _counted(_named(keys, [group.get("param_names", ()) for group in found]), counts, who=FROM_FILE)
    if counts == [len(keys)]:
        return [tuple(keys)]
    fits = {tuple(map(tuple, groups)) for groups in published if [len(group) for group in groups] == counts}
    if len(fits) == 1:
        return list(fits.pop())
    total = f"{len(found)} group{'s' * (len(found) > 1)}, of {_listed(counts)} parameters"
    raise ValueError(
        f"the optimizer has {total}, the module has {len(keys)}, and the file does not say which ones they are; {HOW}"
    )


def selected(keys: Sequence[str], groups: Sequence[Selector], who: str = "groups") -> list[tuple[str, ...]]:
    """The keys that each selector stands for, in the order of ``keys``, or in that of the selector if it lists keys.

    Args:
        who: what a message calls the groups.
    """
    if isinstance(groups, str) or not isinstance(groups, Sequence):
        raise ValueError(f"expected a list with an item for each group, got {groups!r:.80}; {HOW}")
    chosen = [_chosen(keys, selector, who) for selector in groups]
    listed = [key for group in chosen for key in group]
    if twice := sorted({key for key in listed if listed.count(key) > 1}):
        raise ValueError(f"{who}: expected each parameter in one group, found {_some(twice)} twice")
    return chosen


def _chosen(keys: Sequence[str], selector: Selector, who: str) -> tuple[str, ...]:
    if callable(selector):
        return tuple(key for key in keys if selector(key))
    if isinstance(selector, str):
        try:
            return tuple(key for key in keys if re.search(selector, key))
        except re.error as error:
            raise ValueError(f"{who}: expected a regular expression, got {selector!r}: {error}") from error
    if not isinstance(selector, Sequence) or not all(isinstance(key, str) for key in selector):
        raise ValueError(f"{who}: expected a regular expression, a list of keys or a function, got {selector!r:.80}")
    if unknown := [key for key in selector if key not in set(keys)]:
        raise ValueError(f"{who}: expected keys of the parameters of the module, got {_some(unknown)}")
    return tuple(selector)


def _named(keys: Sequence[str], names: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    """The groups that the names in a file stand for, which may have the prefix of a wrapper such as ``module.``."""
    flat = [name for group in names for name in group]
    bare = dict(zip(flat, flat, strict=True)) if set(flat) <= set(keys) else cleaned(flat)[0]
    return selected(keys, [[bare.get(name, name) for name in group] for group in names], FROM_FILE)


def _counted(groups: list[tuple[str, ...]], counts: Sequence[int], who: str) -> list[tuple[str, ...]]:
    got = [len(group) for group in groups]
    if got != list(counts):
        raise ValueError(
            f"{who}: expected {_listed(counts)} parameters, as the groups of the optimizer have, got {_listed(got)}"
        )
    return groups


def _listed(numbers: Sequence[int]) -> str:
    return " and ".join(map(str, numbers)) or "no"


def _some(keys: Sequence[str]) -> str:
    return ", ".join(keys[:5]) + f" and {len(keys) - 5} more" * (len(keys) > 5)
