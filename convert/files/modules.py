"""The state dict of a whole module: the pickle holds the parameters, buffers and children of each module as data."""

from collections.abc import Iterator
from typing import Any

from convert.errors import RefusedError
from convert.files.names import SCRIPT
from convert.files.pickled import Inert, Tensor

CHILDREN, DEEPEST = 100_000, 100
"""How many modules a module may have inside, and how deep. A pickle can hold a module that contains itself."""

PARTS = ("_parameters", "_modules")
"""What the state of every torch.nn.Module has."""


def is_module(value: Any) -> bool:
    """Whether ``value`` stands for a module that was pickled whole, or for one in a TorchScript archive."""
    return _attributes(value) is not None


def state_dict(module: Inert) -> dict[str, Any]:
    """What ``module.state_dict()`` would give, in the same order; without extra state and non-persistent buffers.

    A TorchScript archive does not tell which buffers are persistent: all tensors are in its state dict.

    Raises:
        RefusedError: if the modules are nested too deep, or are too many.
    """
    found: dict[str, Any] = {}
    waiting = [("", module, 0)]
    for _ in range(CHILDREN):
        if not waiting:
            return found
        prefix, value, depth = waiting.pop()
        if depth > DEEPEST:
            raise RefusedError(f"expected modules nested at most {DEEPEST} deep, got a deeper one at {prefix[:40]}")
        tensors, children = _parts(_attributes(value) or {}, scripted=value.name.startswith(SCRIPT))
        found |= {prefix + key: entry for key, entry in tensors}
        waiting += reversed([(f"{prefix}{key}.", child, depth + 1) for key, child in children if is_module(child)])
    raise RefusedError(f"expected a module of at most {CHILDREN} modules, got more")


def _attributes(value: Any) -> dict | None:
    """The attributes of a module by name, None if ``value`` is no module.

    torch.fx passes them as the first argument of a function.
    """
    if type(value) is not Inert:
        return None
    if type(value.state) is dict and value.name.startswith(SCRIPT):
        return value.state
    first = value.arguments[0] if type(value.arguments) is tuple and value.arguments else None
    for state in (value.state, first):
        if type(state) is dict and all(type(state.get(part)) is dict for part in PARTS):
            return state
    return None


def _parts(state: dict, scripted: bool) -> tuple[Iterator[tuple[str, Any]], Iterator[tuple[str, Any]]]:
    """The tensors of a module itself, and its children, by name."""
    if scripted:
        named = [(key, value) for key, value in state.items() if type(key) is str]
        tensors = ((key, value) for key, value in named if type(value) is Tensor)
        return tensors, ((key, value) for key, value in named if is_module(value))
    hidden = state.get("_non_persistent_buffers_set")
    hidden = [name for name in hidden if type(name) is str] if type(hidden) is list else []
    buffers = state.get("_buffers")
    buffers = buffers if type(buffers) is dict else {}
    own = {**state["_parameters"], **{key: value for key, value in buffers.items() if key not in hidden}}
    named_tensors = ((key, value) for key, value in own.items() if type(key) is str and value is not None)
    return named_tensors, ((key, child) for key, child in state["_modules"].items() if type(key) is str)
