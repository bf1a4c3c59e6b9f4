"""PyTorch state dicts <-> Flax variables, both read off one plan that follows from the module's structure alone."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax import traverse_util

from convert.rules import DROPPED, Axes, leaf_rule
from convert.tensors import as_numpy

Path = tuple[str, ...]
Variables = dict[str, Any]

COLLECTIONS = ("params", "batch_stats")


class MismatchError(ValueError):
    """A state dict or a tree of variables does not fit a module; the message lists every difference."""


@dataclass(frozen=True)
class Row:
    """One leaf on both sides: ``variables[path] == state_dict[key].transpose(axes)``."""

    path: Path
    key: str
    axes: Axes
    shape: tuple[int, ...]

    @property
    def torch_shape(self) -> tuple[int, ...]:
        return tuple(self.shape[i] for i in np.argsort(self.axes))

    @property
    def transposed(self) -> bool:
        return self.axes != tuple(sorted(self.axes))


@dataclass(frozen=True)
class Plan:
    """Every leaf of a module with its torch key, sorted by path; both directions are read off it.

    Args:
        aliases: {second key: row}, for leaves that PyTorch's state dict has twice.
    """

    module: str
    rows: tuple[Row, ...]
    aliases: Mapping[str, Row] = field(default_factory=dict)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every key of the state dict."""
        shapes = {r.key: r.torch_shape for r in self.rows}
        return shapes | {key: r.torch_shape for key, r in self.aliases.items()}

    def from_torch(self, state_dict: Mapping[str, Any]) -> Variables:
        """See ``convert.from_torch``."""
        found = {k: v for k, v in state_dict.items() if not dropped(k)}
        summary = f"the state dict does not fit {self.module}"
        refuse(compare(self.shapes, {k: tuple(v.shape) for k, v in found.items()}), summary)
        refuse(
            [f"! {k}: differs from {r.key}" for k, r in self.aliases.items() if differ(found[k], found[r.key])], summary
        )
        flat = {r.path: np.asarray(as_numpy(found[r.key]).transpose(r.axes), order="C") for r in self.rows}
        return traverse_util.unflatten_dict(flat)

    def to_torch(self, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """See ``convert.to_torch``."""
        found = traverse_util.flatten_dict(dict(variables))
        shapes = {"/".join(path): tuple(np.shape(leaf)) for path, leaf in found.items()}
        problems = compare({"/".join(r.path): r.shape for r in self.rows}, shapes)
        refuse(problems, f"the variables do not fit {self.module}")
        state = {r.key: np.asarray(as_numpy(found[r.path]).transpose(np.argsort(r.axes)), order="C") for r in self.rows}
        return state | {key: state[r.key] for key, r in self.aliases.items()}


def plan(module: nn.Module, *example_inputs: Any, **kwargs: Any) -> Plan:
    """The plan of ``module``, from its structure alone: it is traced, not run.

    Args:
        example_inputs, kwargs: what ``module`` is called with; arrays or ``jax.ShapeDtypeStruct``.
    """
    owners: dict[Path, type] = {}

    def record(call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        if context.module.scope is not None:
            owners[context.module.path] = type(context.module)
        return call(*args, **kwargs)

    arrays = {name: value for name, value in kwargs.items() if hasattr(value, "shape")}
    flags = {name: value for name, value in kwargs.items() if name not in arrays}

    def init(args: tuple, arrays: dict) -> Any:
        return module.init(jax.random.key(0), *args, **arrays, **flags)

    with nn.intercept_methods(record):
        shapes = jax.eval_shape(init, example_inputs, arrays)
    leaves = traverse_util.flatten_dict({k: v for k, v in shapes.items() if k in COLLECTIONS})
    rows = tuple(row(path, leaf.shape, owners) for path, leaf in leaves.items())
    counts = Counter(r.key for r in rows)
    who = type(module).__name__
    refuse([f"* {key}: {n} leaves have this key" for key, n in counts.items() if n > 1], f"{who} cannot be mapped")
    aliases = {key: r for path, cls in owners.items() for key, r in second_names(path, cls, rows)}
    return Plan(who, rows, aliases)


def second_names(path: Path, cls: type, rows: Sequence[Row]) -> Iterator[tuple[str, Row]]:
    """The second keys of rows below the module of class ``cls`` at ``path``, by its ``aliases``."""
    for second, first in getattr(cls, "aliases", ()):
        old, new = (".".join([*path, name]) for name in (first, second))
        yield from ((new + r.key.removeprefix(old), r) for r in rows if r.key.startswith(f"{old}."))


def row(path: Path, shape: tuple[int, ...], owners: Mapping[Path, type]) -> Row:
    """The row of one leaf, by the rule of the class that owns it."""
    _, *parents, name = path
    rule = leaf_rule(owners[tuple(parents)], name)
    return Row(path, ".".join([*parents, rule.name]), rule.axes(len(shape)), shape)


def from_torch(module: nn.Module, state_dict: Mapping[str, Any], *example_inputs: Any, **kwargs: Any) -> Variables:
    """The Flax variables of ``module`` that hold the numbers of a PyTorch ``state_dict``.

    Args:
        state_dict: numpy arrays or torch tensors by key, as ``load`` or ``torch.nn.Module.state_dict`` give them.
        example_inputs, kwargs: what ``module`` is called with; arrays or ``jax.ShapeDtypeStruct``.

    Returns:
        ``{"params": ..., "batch_stats": ...}``; the leaves are numpy arrays of the dtypes in ``state_dict``.

    Raises:
        MismatchError: for any missing key, left-over key or wrong shape; all are listed at once.
    """
    return plan(module, *example_inputs, **kwargs).from_torch(state_dict)


def to_torch(
    module: nn.Module, variables: Mapping[str, Any], *example_inputs: Any, **kwargs: Any
) -> dict[str, np.ndarray]:
    """The inverse of ``from_torch``: numpy arrays by PyTorch key, in the dtypes of ``variables``.

    Gradients and other trees shaped like the variables map as well. ``num_batches_tracked`` is not in the result;
    ``load_state_dict(strict=True)`` accepts a plain dict without it.

    Raises:
        MismatchError: for any missing leaf, left-over leaf or wrong shape; all are listed at once.
    """
    return plan(module, *example_inputs, **kwargs).to_torch(variables)


def dropped(key: str) -> bool:
    """Whether a torch key is one that no Flax leaf holds."""
    return key.rpartition(".")[2] in DROPPED


def differ(a: Any, b: Any) -> bool:
    """Whether two arrays of one shape differ in a bit."""
    return as_numpy(a).tobytes() != as_numpy(b).tobytes()


def compare(expected: Mapping[str, tuple], found: Mapping[str, tuple]) -> list[str]:
    """A line for each name that is missing (-), left over (+) or of another shape (~)."""
    missing = [f"- {name}: expected shape {expected[name]}, found nothing" for name in expected if name not in found]
    surplus = [f"+ {name}: found shape {found[name]}, expected nothing" for name in found if name not in expected]
    wrong = [
        f"~ {name}: expected shape {shape}, found {found[name]}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    return missing + surplus + wrong


def refuse(problems: list[str], summary: str) -> None:
    """Raise MismatchError with every problem on a line of its own, if there is any."""
    if problems:
        count = f"{len(problems)} difference" + "s" * (len(problems) > 1)
        raise MismatchError("\n".join([f"{summary}: {count}", *problems]))
