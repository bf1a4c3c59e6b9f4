"""Finds the state dicts in the plain data of a checkpoint file."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from itertools import islice
from typing import Any

from convert.errors import RefusedError, shown
from convert.files import modules
from convert.files.arrays import is_array, is_scalar
from convert.files.calls import SHARD
from convert.files.names import SCRIPT
from convert.files.pickled import Inert, Tensor

WRAPPERS = (
    *("state_dict", "model_state_dict", "model_state", "model", "net_state_dict", "net", "network", "module"),
    *("params", "weights", "state_dict_ema", "model_ema", "ema", "params_ema"),
)
"""Keys under which training scripts store the state dict, in the order in which they are tried."""

IGNORED = ("_metadata", "_extra_state")
"""The last part of keys of a state dict that need not hold a tensor."""

PACKED = "_packed_params"
"""The last part of the key under which PyTorch packs the quantized weight and the bias of a layer."""

FLAT = ("_flat_param", "flat_param")
"""The last part of the keys under which FSDP has the parameters of several layers in one flat tensor."""

DEEPEST, MOST = 4, 2000
"""State dicts are looked for so deep, in so many containers."""

Trail = tuple[str | int, ...]
"""The keys that lead to a state dict."""


def is_weight(value: Any) -> bool:
    """Whether ``value`` stands for a tensor or a numpy array."""
    return type(value) is Tensor or (is_array(value) and not is_scalar(value))


def is_tensor(value: Any) -> bool:
    """Whether ``value`` stands for a tensor of any kind, also of one that cannot be read."""
    return is_weight(value) or (type(value) is Inert and bool(value.reason))


def entries(value: Any) -> Mapping[Any, Any] | None:
    """What is in a dict, in an object whose class derives from dict, in a list or in a tuple, by key or index."""
    if type(value) in (list, tuple):
        return dict(enumerate(value))
    return value.entries if type(value) is Inert else value if type(value) is dict else None


class Search:
    """Looks for state dicts in ``tree``. Each container is looked into once: a pickle can hold one a thousand times."""

    def __init__(self, tree: Any):
        self.tree = tree
        self.known: dict[int, bool] = {}
        self.trails: dict[tuple[int, int], Trail | None] = {}

    def holds_tensors(self, value: Any) -> bool:
        """Whether ``value`` stands for a dict with tensors in it, or for a whole module."""
        if id(value) not in self.known:
            inside = None if type(value) in (list, tuple) else entries(value)
            tensors = inside is not None and any(map(is_tensor, inside.values()))
            self.known[id(value)] = tensors or modules.is_module(value)
        return self.known[id(value)]

    def all(self) -> dict[Trail, int]:
        """The trail to every dict with tensors and every whole module, and how many tensors are in it.

        Containers in lists, and those with keys that are no strings, as in the state of an optimizer, are left out.
        """
        found: dict[Trail, int] = {}
        counts: dict[int, int] = {}
        seen: set[int] = set()
        budget = modules.Budget()
        waiting: list[tuple[Trail, Any]] = [((), self.tree)] if type(self.tree) in (dict, Inert) else []
        for trail, value in waiting:
            if self.holds_tensors(value):
                if id(value) not in counts:
                    counts[id(value)] = _count(value, budget)
                found[trail] = counts[id(value)]
            deeper = entries(value) if len(trail) < DEEPEST and id(value) not in seen else None
            seen.add(id(value))
            left = MOST - len(waiting)
            inner = ((key, value) for key, value in (deeper or {}).items() if type(value) in (dict, Inert))
            waiting += islice((((*trail, key), value) for key, value in inner if type(key) is str), max(left, 0))
        return {trail: count for trail, count in found.items() if count}

    def best(self) -> Trail | None:
        """The trail to the state dict; None if there is none, or if nothing tells which of several it is."""
        return self._best(self.tree, 3)

    def _best(self, value: Any, depth: int) -> Trail | None:
        """``_found``, once for each container and depth."""
        key = id(value), depth
        if key not in self.trails:
            self.trails[key] = self._found(value, depth)
        return self.trails[key]

    def _found(self, value: Any, depth: int) -> Trail | None:
        """First come ``WRAPPERS``, then ``value`` itself, then its only entry with tensors.

        ``depth`` limits the number of wrappers, because a pickle can contain itself.
        """
        if modules.is_module(value):
            return ()
        inside = None if type(value) in (list, tuple) else entries(value)
        if inside is None:
            return None
        for name in WRAPPERS if depth else ():
            below = self._best(inside.get(name), depth - 1)
            if below is not None:
                return (name, *below)
        if self.holds_tensors(value):
            return ()
        only = list(islice((key for key, entry in inside.items() if self.holds_tensors(entry)), 2))
        return (only[0],) if len(only) == 1 and type(only[0]) is str else None


def _count(value: Any, budget: modules.Budget) -> int:
    """How many tensors are in a dict or a whole module; 0 if they are too many to be counted."""
    if not modules.is_module(value):
        return sum(map(is_tensor, (entries(value) or {}).values()))
    try:
        return sum(map(is_tensor, modules.state_dict(value, budget).values()))
    except RefusedError:
        return 0


def trail_of(tree: Any, wrapper: str) -> Trail:
    """The keys that ``wrapper`` names, joined by dots. A key may have dots itself, or be a number.

    Raises:
        RefusedError: if there is no such key.
    """
    trail: Trail = ()
    parts = wrapper.split(".")
    while parts:
        inside = entries(tree)
        if inside is None and type(tree) is Inert and type(tree.state) is dict:
            inside = tree.state
        known = {str(key): key for key in inside or {} if type(key) in (str, int)}
        count = next((n for n in range(1, min(len(parts), 64) + 1) if ".".join(parts[:n]) in known), 0)
        if not count:
            near = get_close_matches(parts[0][:80], [key[:80] for key in islice(known, 1000)], n=1)
            meant = f"; did you mean {shown(near[0])}?" if near else ""
            raise RefusedError(f"expected a state dict under {shown(wrapper)}, got {described(tree)}{meant}")
        key = known[".".join(parts[:count])]
        trail, tree, parts = (*trail, key), (inside or {})[key], parts[count:]
    return trail


def at(tree: Any, trail: Trail) -> Any:
    """The value to which ``trail`` leads."""
    for key in trail:
        inside = entries(tree)
        tree = (inside if inside is not None and key in inside else tree.state)[key]
    return tree


def split(value: Any, where: str) -> tuple[dict[str, Any], dict[Any, Any]]:
    """The weights in a state dict or a whole module, and what else is in it.

    Raises:
        RefusedError: if there are no weights, or if a tensor is of a kind that cannot be read.
    """
    inside = modules.state_dict(value) if modules.is_module(value) else None if is_tensor(value) else entries(value)
    if inside is None or not any(map(is_tensor, inside.values())):
        under = f" under {shown(where)}" if where else ""
        frozen = getattr(value, "name", "").startswith(SCRIPT)
        why = ", without parameters: torch.jit.freeze moves them into constants" if frozen else ""
        raise RefusedError(f"expected a dict of tensors{under}, got {described(value)}{why}")
    found = {key: entry for key, entry in inside.items() if str(key).rpartition(".")[2] not in IGNORED}
    odd = {key: entry for key, entry in found.items() if type(key) is not str and is_tensor(entry)}
    if odd:
        raise RefusedError(f"expected strings as the keys of a state dict, got {listed(odd)}")
    unread = {key: why for key, entry in found.items() if (why := _unreadable(str(key), entry))}
    if unread:
        first, why = next(iter(unread.items()))
        more = f" (and {len(unread) - 1} more)" if len(unread) > 1 else ""
        raise RefusedError(f"expected plain tensors, got at {shown(first)}{more} {why}")
    weights = {key: entry for key, entry in found.items() if is_weight(entry)}
    return weights, {key: entry for key, entry in found.items() if key not in weights}


def _unreadable(key: str, entry: Any) -> str:
    """Why a weight cannot be read, and what to do; empty if it can, or if ``entry`` is no weight."""
    if key.rpartition(".")[2] == PACKED and type(entry) in (tuple, list, Inert):
        return "a packed quantized weight: save the state dict of the float model, or unpack it and dequantize()"
    if key.rpartition(".")[2] in FLAT and type(entry) is Tensor and len(entry.size) == 1:
        return SHARD
    return entry.reason if is_tensor(entry) and not is_weight(entry) else ""


def without(tree: Any, trail: Trail, beside: dict[Any, Any]) -> dict[Any, Any]:
    """What is in ``tree`` but not in the state dict to which ``trail`` leads, of which ``beside`` are no weights."""
    if not trail:
        return beside
    inside = entries(tree)
    inside = (tree.state if inside is None else inside) or {}
    inner = without(inside[trail[0]], trail[1:], beside)
    return {key: value for key, value in inside.items() if key != trail[0]} | ({trail[0]: inner} if inner else {})


def described(value: Any) -> str:
    """What a message calls a value of the file."""
    if type(value) is dict:
        return f"a dict of {listed(value)}"
    return shown(value.name) if type(value) is Inert else type(value).__name__


def listed(found: Mapping[Any, Any]) -> str:
    """The first keys, the type of each value, and how many more entries there are."""
    kinds = {key: "dict" if type(value) is dict else described(value) for key, value in islice(found.items(), 8)}
    first = [f"{shown(str(key))} ({kind})" for key, kind in kinds.items()]
    return ", ".join(first or ["nothing"]) + f" and {len(found) - 8} more" * (len(found) > 8)


def spelled(trail: Iterable[str | int]) -> str:
    """A trail as one text, its keys joined by dots."""
    return ".".join(map(str, trail))
