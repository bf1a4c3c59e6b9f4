"""The leaves of a module and their keys in PyTorch, found by tracing the module without computing anything."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax import errors, traverse_util

from convert.advice import foreign_layers
from convert.arguments import require_call
from convert.mismatch import refuse
from convert.registration import Members, Registration, members_recorded
from convert.registration import Path as Path
from convert.rules import Axes, leaf_rule
from flax_attn.layers.structure import structure_alone

Trace = tuple[Any, Mapping[Path, type], Members]
"""The shapes of all variables, the class of the module at each path, and the names that each module registers."""

COLLECTIONS = ("params", "batch_stats")

REFUSALS = (ValueError, TypeError, errors.FlaxError)
"""What a module raises that cannot be called with its example inputs."""


@dataclass(frozen=True)
class Row:
    """One leaf, and its key in PyTorch: ``variables[path] == state_dict[key].transpose(axes)``."""

    path: Path
    key: str
    axes: Axes
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def torch_shape(self) -> tuple[int, ...]:
        return tuple(self.shape[i] for i in np.argsort(self.axes))

    @property
    def transposed(self) -> bool:
        return self.axes != tuple(sorted(self.axes))

    @property
    def statistic(self) -> bool:
        """Whether the leaf is a running statistic, or another buffer, and no parameter."""
        return self.path[0] != "params"


def traced_rows(module: nn.Module, inputs: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Row]:
    """The rows of ``module`` by key, in the order of PyTorch's state dict; some have a second key there.

    Raises:
        MismatchError: if the module has layers of linen, or two leaves with one key.
        ValueError: if the example inputs have their channels first, or are no arrays.
    """
    require_call(module, inputs, kwargs)
    shapes, owners, names = _traced(module, inputs, kwargs)
    leaves = traverse_util.flatten_dict({k: v for k, v in shapes.items() if k in COLLECTIONS})
    who = type(module).__name__
    foreign = foreign_layers(((path[1:], leaf.shape) for path, leaf in leaves.items()), owners)
    refuse(foreign, f"{who} cannot be mapped")
    rows = tuple(_row(path, leaf, owners) for path, leaf in leaves.items())
    counts = Counter(r.key for r in rows)
    refuse([f"* {key}: {n} leaves have this key" for key, n in counts.items() if n > 1], f"{who} cannot be mapped")
    keyed = [(r.path[1:], r.key, r) for r in rows]
    keyed += [second for path, cls in owners.items() for second in _second_names(path, cls, rows)]
    registration = Registration(names, owners)
    keyed.sort(key=lambda entry: registration.position(entry[0], entry[2].statistic))
    return {key: r for _, key, r in keyed}


def channels_moved(inputs: Sequence[Any]) -> list[tuple[Any, ...]]:
    """The example inputs with their second axis moved to the end: of images alone, then of all of rank 3 and more."""
    found: list[tuple[Any, ...]] = []
    for rank in (4, 3):
        moved = tuple(_moved(x) if len(np.shape(x)) >= rank else x for x in inputs)
        if [np.shape(x) for x in moved] not in [[np.shape(x) for x in other] for other in (inputs, *found)]:
            found.append(moved)
    return found


def channels_first(inputs: Sequence[Any], moved: Sequence[Any]) -> str:
    """What to say of ``inputs``, where ``moved`` fit and they do not."""
    x = next(a for a, b in zip(inputs, moved, strict=True) if a is not b)
    axes = ", ".join(map(str, [0, *range(2, len(x.shape)), 1]))
    return (
        f"the example input of shape {tuple(x.shape)} has its channels first; pass it with the channels last, "
        f"as x.transpose({axes})"
    )


def _moved(x: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((x.shape[0], *x.shape[2:], x.shape[1]), x.dtype)


def _traced(module: nn.Module, inputs: Sequence[Any], kwargs: Mapping[str, Any]) -> Trace:
    """What a call of ``module`` shows, or an error that says which axis of the inputs is to be moved."""
    try:
        return _trace(module, inputs, kwargs)
    except REFUSALS as refusal:
        known = "channels-first" in str(refusal)
        for moved in () if known else channels_moved(inputs):
            try:
                _trace(module, moved, kwargs)
            except REFUSALS:
                continue
            raise ValueError(f"{type(module).__name__}: {channels_first(inputs, moved)}") from refusal
        raise


def _trace(module: nn.Module, inputs: Sequence[Any], kwargs: Mapping[str, Any]) -> Trace:
    fixed = {i: value for i, value in enumerate(inputs) if isinstance(value, bool | str)}
    arrays = {name: value for name, value in kwargs.items() if hasattr(value, "shape")}
    flags = {name: value for name, value in kwargs.items() if name not in arrays}

    def init(args: Sequence[Any], arrays: dict) -> Any:
        given = [fixed.get(i, value) for i, value in enumerate(args)]
        return module.init(jax.random.key(0), *given, **arrays, **flags)

    with structure_alone(), owners_recorded() as owners, members_recorded() as names:
        shapes = jax.eval_shape(init, [None if i in fixed else x for i, x in enumerate(inputs)], arrays)
    return shapes, owners, names


@contextmanager
def owners_recorded() -> Iterator[dict[Path, type]]:
    """The class of every module that is called in the ``with`` block, by its path.

    A class such as ``nn.remat(Linear)`` is also called with the path of the root, after the root.
    """
    owners: dict[Path, type] = {}

    def record(call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        if context.module.scope is not None:
            owners.setdefault(context.module.path, type(context.module))
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        yield owners


def _second_names(path: Path, cls: type, rows: Sequence[Row]) -> Iterator[tuple[Path, str, Row]]:
    """The second paths and keys of the rows below the module at ``path``, of class ``cls``, as its ``aliases`` say."""
    for second, first in getattr(cls, "aliases", ()):
        old, new = ((*path, *name.split(".")) for name in (first, second))
        inside = (r for r in rows if r.path[1 : len(old) + 1] == old)
        yield from (
            ((*new, *r.path[len(old) + 1 :]), ".".join(new) + r.key.removeprefix(".".join(old)), r) for r in inside
        )


def _row(path: Path, leaf: Any, owners: Mapping[Path, type]) -> Row:
    """The row of one leaf, by the rule of the layer class that owns it."""
    _, *parents, name = path
    rule = leaf_rule(owners[tuple(parents)], name)
    axes = rule.axes(len(leaf.shape))
    return Row(path, ".".join([*parents, rule.name]), axes, shape=leaf.shape, dtype=np.dtype(leaf.dtype))
