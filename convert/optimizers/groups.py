"""The parameter groups of a PyTorch optimizer, what it stores for their parameters, and whether that is complete."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from convert.mismatch import refuse
from convert.optimizers.kinds import Kind
from convert.optimizers.names import Names
from convert.tensors import as_numpy
from convert.values import is_array, numpy_dtype, trouble

MOST = 2**31
"""The counters of optax are below this number."""

Stored = Mapping[str, Mapping[str, Any]]
"""What an optimizer stores for each parameter, by its PyTorch key: {"fc.weight": {"step": 7, "exp_avg": ...}}."""


@dataclass(frozen=True)
class Group:
    """A parameter group of a PyTorch optimizer.

    Args:
        keys: the PyTorch keys of its parameters, in the order in which the optimizer counts them.
        options: its options as PyTorch calls them: lr, betas, weight_decay and so on.
    """

    keys: tuple[str, ...]
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Label:
    """Parameters of one group that have taken the same number of steps.

    Args:
        group: the number of the group.
        behind: how many steps of the optimizer they have not taken.
    """

    group: int
    behind: int = 0

    def __str__(self) -> str:
        return f"{self.group}" + f", {self.behind} steps behind" * bool(self.behind)


def number(value: Any) -> Any:
    """A number of Python, from one, or from an array without axes; any other value as it is, a list as a tuple."""
    if isinstance(value, list | tuple):
        return tuple(map(number, value))
    return as_numpy(value).item() if is_array(value) and np.shape(value) == () else value


def options_of(kind: Kind, group: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a group of a state dict, as numbers of Python. ValueError if one that ``kind`` needs is none."""
    options = {name: number(value) for name, value in group.items() if name != "params"}
    for name in kind.options:
        values = options[name] if isinstance(options[name], tuple) else (options[name],)
        if not all(isinstance(value, int | float) for value in values):
            raise ValueError(f"{kind.name}: expected numbers as {name} of a group, found {group[name]!r:.40}")
    return options


def steps_of(stored: Stored) -> dict[str, int]:
    """How many steps each parameter has taken, by its PyTorch key, where that is stored.

    Raises:
        MismatchError: for steps that are no whole numbers.
    """
    found = {key: number(values["step"]) for key, values in stored.items() if "step" in values}
    odd = {
        key: step
        for key, step in found.items()
        if not (isinstance(step, int | float) and 0 <= step < MOST and step % 1 == 0)
    }
    problems = [f"- step of {key}: expected a whole number below 2^31, found {step!r:.40}" for key, step in odd.items()]
    refuse(problems, "the state of the optimizer cannot be mapped")
    return {key: int(step) for key, step in found.items()}


def taken_by(stored: Stored, said: int | None = None) -> int:
    """How many steps the optimizer has taken. SGD does not store the number: it is 1 if anything is stored, else 0.

    Raises:
        ValueError: if the user has ``said`` a number that is smaller than what is stored.
    """
    least = max(steps_of(stored).values(), default=int(any(stored.values())))
    if said is not None and not (isinstance(said, int) and least <= said < MOST):
        raise ValueError(
            f"step: expected a whole number from {least}, which the state shows, to 2^31 - 1, got {said!r:.40}"
        )
    return least if said is None else said


def labelled(
    kind: Kind, groups: Sequence[Group], names: Names, stored: Stored, step: int, start_missing: bool = False
) -> dict[str, Label | None]:
    """The label of each parameter here, by its key here; None for those that the optimizer leaves as they are.

    These are the parameters in no group, and those that have not had a gradient: nothing is stored for them where
    PyTorch stores something for the others, or their step is still 0.

    Args:
        step: the number of steps that the optimizer has taken.
        start_missing: parameters for which nothing is stored begin at step 0, and are not left as they are.

    Raises:
        MismatchError: if several parameters in PyTorch become one here, and are not trained alike.
    """
    taken = steps_of(stored)
    begun = {key for key, values in stored.items() if values and taken.get(key, 1)}
    labels: dict[str, Label] = {}
    for i, group in enumerate(groups):
        slots = kind.slots_of(group.options)
        trained = begun if slots else begun & {*group.keys}
        for key in group.keys:
            if key in trained or not trained or start_missing:
                known = not slots or is_stored(stored.get(key))
                labels[key] = Label(i, step - taken.get(key, step) if known else step)
    found = {key: {labels.get(origin) for origin in origins} for key, origins in names.origins.items()}
    mixed = [
        f"* {key}: {', '.join(names.origins[key])} are not trained alike" for key, f in found.items() if len(f) > 1
    ]
    refuse(mixed, "the state of the optimizer cannot be mapped")
    return {key: next(iter(own), None) for key, own in found.items()}


def is_stored(values: Mapping[str, Any] | None) -> bool:
    """Whether anything is stored for a parameter. PyTorch stores None for a momentum that has not begun."""
    return any(value is not None for value in (values or {}).values())


def require_fit(kind: Kind, groups: Sequence[Group], names: Names, stored: Stored) -> None:
    """Refuse what is stored if an array is missing or has another shape; a MismatchError lists all of these."""
    problems = [line for group in groups for line in _problems(kind, group, names, stored)]
    refuse(problems, f"the state of the optimizer does not fit {kind.name} on {names.plan.module}")


def _problems(kind: Kind, group: Group, names: Names, stored: Stored) -> Iterator[str]:
    slots = kind.slots_of(group.options)
    for key in group.keys:
        values, shape = stored.get(key), names.shapes[key]
        if values is None or not is_stored(values):
            continue
        for slot in slots:
            value = values.get(slot)
            if value is None:
                yield f"- {slot} of {key}: expected shape {shape}, found nothing"
            elif text := trouble(value):
                yield f"! {slot} of {key}: expected an array of numbers, found {text}"
            elif tuple(value.shape) != shape:
                yield f"~ {slot} of {key}: expected shape {shape}, found {tuple(value.shape)}"
            elif numpy_dtype(value).kind == "c":
                yield f"! {slot} of {key}: expected real numbers, found complex ones"
        for scalar in kind.scalars:
            if not isinstance(number(values.get(scalar)), int | float):
                yield f"- {scalar} of {key}: expected a number, found {number(values.get(scalar))!r:.40}"
