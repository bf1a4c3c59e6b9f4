"""Reads and replaces the fields of an optax state by their names."""

from collections.abc import Mapping
from typing import Any

from optax.transforms import MaskedState, PartitionState


def fields_of(state: Any) -> dict[str, Any]:
    """The fields of the named tuples in ``state``, which may be a chain. The last of one name wins."""
    found: dict[str, Any] = {}
    for name, value in _members(state):
        found |= {name: value} if name and not _is_state(value) else fields_of(value)
    return found


def with_fields(state: Any, values: Mapping[str, Any]) -> Any:
    """``state`` with ``values`` in its fields of these names, wherever they occur."""
    if isinstance(state, dict):
        return {name: with_fields(value, values) for name, value in state.items()}
    if not isinstance(state, tuple):
        return state
    new = [values[name] if name in values else with_fields(value, values) for name, value in _members(state)]
    return type(state)(*new) if hasattr(state, "_fields") else tuple(new)


def part_of(state: Any, label: str) -> Any:
    """The part of ``state`` that belongs to the parameters with ``label``; all of it if it has no parts."""
    return state.inner_states[label].inner_state if isinstance(state, PartitionState) else state


def with_part(state: Any, label: str, part: Any) -> Any:
    """``state`` with another part for the parameters with ``label``."""
    if not isinstance(state, PartitionState):
        return part
    return PartitionState({**state.inner_states, label: MaskedState(part)})


def _members(state: Any) -> list[tuple[str, Any]]:
    if hasattr(state, "_fields"):
        return list(zip(state._fields, state, strict=True))
    return [("", value) for value in state] if isinstance(state, tuple) else []


def _is_state(value: Any) -> bool:
    return isinstance(value, tuple) and not hasattr(value, "shape")
