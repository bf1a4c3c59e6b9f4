"""Reads the state dict of a PyTorch optimizer: {"state": {0: {...}, ...}, "param_groups": [...]}."""

from collections.abc import Mapping
from typing import Any

from convert.arguments import described
from convert.errors import shown
from convert.optimizers.kinds import Groups, States
from convert.training.places import is_optimizer


def groups_and_states(value: Any) -> tuple[Groups, States]:
    """The groups of an optimizer's state dict, and what it stores for each parameter, by its number.

    JSON has the numbers of the parameters as text; they become those of the groups.

    Raises:
        ValueError: if ``value`` is something else, or if its parts do not fit together.
    """
    if not is_optimizer(value):
        raise ValueError(
            'expected the state dict of an optimizer, {"state": ..., "param_groups": [...]}, got '
            + (f"a dict with the keys {', '.join(map(str, value))}" if isinstance(value, Mapping) else described(value))
        )
    groups, states = list(value["param_groups"]), value["state"]
    _require(bool(groups), "param_groups", "one group or more", "none")
    for i, group in enumerate(groups):
        _require_group(group, f"param_groups[{i}]")
    numbers = {number for group in groups for number in group["params"]}
    total = sum(len(group["params"]) for group in groups)
    _require(len(numbers) == total, "param_groups", "each parameter in one place", f"{total - len(numbers)} twice")
    numbered = {int(i) if isinstance(i, str) and i.isdecimal() else i: stored for i, stored in states.items()}
    for i, stored in numbered.items():
        _require(i in numbers, "state", "only numbers of parameters that are in a group", repr(i))
        _require(isinstance(stored, Mapping), f"state[{i}]", "a dict", described(stored))
    return groups, numbered


def _require_group(group: Any, who: str) -> None:
    _require(isinstance(group, Mapping), who, "a dict", described(group))
    params = group.get("params")
    fits = isinstance(params, list | tuple) and all(isinstance(number, int) for number in params)
    _require(fits, f"{who}['params']", "a list of the numbers of parameters", repr(params))
    names = group.get("param_names", [])
    fits = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
    _require(fits, f"{who}['param_names']", "a list of names", repr(names))


def _require(fits: bool, who: str, expected: str, found: str) -> None:
    if not fits:
        raise ValueError(f"{who} of the optimizer: expected {expected}, found {shown(found)}")
