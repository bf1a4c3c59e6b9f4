"""PyTorch state dicts <-> Flax variables. Both directions follow one plan, made from the module's structure alone."""

import contextlib
import functools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax import traverse_util

from convert.advice import advice, foreign_layers
from convert.dialects import AUTO, NATIVE, choose, find_dialect
from convert.files.pickled import DTYPES
from convert.renaming import Dialect, Read, Translation
from convert.rules import Axes, dropped, leaf_rule
from convert.tensors import Lazy, as_numpy
from flax_attn.layers.calls import frozen, takes_train

Path = tuple[str, ...]
Variables = dict[str, Any]

COLLECTIONS = ("params", "batch_stats")


class MismatchError(ValueError):
    """A state dict, or a tree of variables, does not fit a module. The message lists every difference."""


@dataclass(frozen=True)
class Row:
    """One leaf, and its key in PyTorch: ``variables[path] == state_dict[key].transpose(axes)``."""

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
    """Every leaf of a module with its torch key, sorted by path. The conversion in both directions follows this table.

    Args:
        aliases: {second key: row}, for leaves that PyTorch's state dict holds twice.
        training: makes the plan of the module as it is called with ``train=True``, for the advice in an error.
    """

    module: str
    rows: tuple[Row, ...]
    aliases: Mapping[str, Row] = field(default_factory=dict)
    training: Callable[[], "Plan | None"] = field(default=lambda: None, compare=False, repr=False)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every key of the state dict."""
        shapes = {r.key: r.torch_shape for r in self.rows}
        return shapes | {key: r.torch_shape for key, r in self.aliases.items()}

    def leaves(self, state_dict: Mapping[str, Any], dialect: str | None = None) -> dict[Path, Lazy]:
        """The leaves by path, with the checks of ``from_torch``. Each is computed when its ``make`` is called."""
        if dialect == AUTO and set(untranslated(self.shapes)) == set(untranslated(state_dict)):
            dialect = None
        chosen = choose(dialect, state_dict)
        entries, problems = chosen.read(state_dict) if chosen else Translation(untranslated(state_dict), [])
        found = {key: entry.value for key, entry in entries.items() if entry.value is not None}
        found |= {key: state_dict.get(key, np.zeros((), np.int64)) for key in self.shapes if dropped(key)}
        expected = {key: shape for key, shape in self.shapes.items() if key in found or key not in entries}
        summary = f"the state dict does not fit {self.module}" + (f", read as {chosen.name}" if chosen else "")
        labels, shapes = called(chosen, entries, expected), {k: tuple(v.shape) for k, v in found.items()}
        differences = shape_differences(expected, shapes, labels)
        hint = self.hint(expected, shapes) if differences and not chosen else ""
        refuse(differences + problems, summary, hint)
        twice = [(k, r.key) for k, r in self.aliases.items() if differ_in_bits(found[k], found[r.key])]
        refuse([f"! {labels[second]}: differs from {labels[first]}" for second, first in twice], summary)
        return {r.path: in_flax_layout(found[r.key], r.axes, r.shape) for r in self.rows}

    def hint(self, expected: Mapping[str, tuple], found: Mapping[str, tuple]) -> str:
        """The likely cause of the differences; empty where none is known."""
        rows = {r.key: r for r in self.rows} | dict(self.aliases)

        @functools.cache
        def training() -> Mapping[str, tuple]:
            trained = self.training()
            return trained.shapes if trained else {}

        return advice(expected, found, {key: r.shape for key, r in rows.items()}, training)

    def from_torch(self, state_dict: Mapping[str, Any], dialect: str | None = None) -> Variables:
        """See ``convert.from_torch``."""
        leaves = self.leaves(state_dict, dialect)
        return traverse_util.unflatten_dict({p: np.asarray(leaf.make(), order="C") for p, leaf in leaves.items()})

    def to_torch(self, variables: Mapping[str, Any], dialect: str | None = None) -> dict[str, np.ndarray]:
        """See ``convert.to_torch``."""
        found = traverse_util.flatten_dict(dict(variables))
        shapes = {"/".join(path): tuple(np.shape(leaf)) for path, leaf in found.items()}
        problems = shape_differences({"/".join(r.path): r.shape for r in self.rows}, shapes)
        refuse(problems, f"the variables do not fit {self.module}")
        state = {r.key: np.asarray(as_numpy(found[r.path]).transpose(np.argsort(r.axes)), order="C") for r in self.rows}
        state |= {key: state[r.key] for key, r in self.aliases.items()}
        return state if dialect in (None, NATIVE) else find_dialect(dialect).write(state)


def untranslated(state_dict: Mapping[str, Any]) -> dict[str, Read]:
    """``state_dict`` under its own names, without the keys that are dropped."""
    return {key: Read(value, (key,)) for key, value in state_dict.items() if not dropped(key)}


def called(dialect: Dialect | None, entries: Mapping[str, Read], expected: Iterable[str]) -> dict[str, str]:
    """The label of each key in a message: the foreign name or names, and our name after it if it is another."""
    lost = [key for key in expected if key not in entries]
    names = dialect.write_names([*lost, *expected]) if dialect and lost else {}
    origins = {key: names.get(key, (key,)) for key in lost} | {key: entry.origins for key, entry in entries.items()}
    return {k: k if v in ((k,), ()) else f"{', '.join(v)} (here {k})" for k, v in origins.items()}


def in_flax_layout(value: Any, axes: Axes, shape: tuple[int, ...]) -> Lazy:
    """``value`` with its axes in Flax's order, without a copy where ``value`` is an array."""
    dtype = DTYPES.get(str(value.dtype), value.dtype)
    return Lazy(shape, dtype, lambda: as_numpy(value).transpose(axes))


def plan(module: nn.Module, *example_inputs: Any, **kwargs: Any) -> Plan:
    """The plan of ``module``, from its structure alone: the module is traced, not run.

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
    who = type(module).__name__
    foreign = foreign_layers(((path[1:], leaf.shape) for path, leaf in leaves.items()), owners)
    refuse(foreign, f"{who} cannot be mapped")
    rows = tuple(row(path, leaf.shape, owners) for path, leaf in leaves.items())
    counts = Counter(r.key for r in rows)
    refuse([f"* {key}: {n} leaves have this key" for key, n in counts.items() if n > 1], f"{who} cannot be mapped")
    aliases = {key: r for path, cls in owners.items() for key, r in second_names(path, cls, rows)}
    return Plan(who, rows, aliases, training=functools.partial(trained_plan, module, example_inputs, kwargs))


def trained_plan(module: nn.Module, example_inputs: tuple, kwargs: Mapping[str, Any]) -> Plan | None:
    """The plan of ``module`` as it is called with ``train=True``; None where it cannot be called so."""
    if kwargs.get("train") or not takes_train(type(module)):
        return None
    with contextlib.suppress(Exception), frozen():
        return plan(module, *example_inputs, **{**kwargs, "train": True})
    return None


def second_names(path: Path, cls: type, rows: Sequence[Row]) -> Iterator[tuple[str, Row]]:
    """The second keys of the rows below the module at ``path``, of class ``cls``, as its ``aliases`` say."""
    for second, first in getattr(cls, "aliases", ()):
        old, new = (".".join([*path, name]) for name in (first, second))
        yield from ((new + r.key.removeprefix(old), r) for r in rows if r.key.startswith(f"{old}."))


def row(path: Path, shape: tuple[int, ...], owners: Mapping[Path, type]) -> Row:
    """The row of one leaf, by the rule of the layer class that owns it."""
    _, *parents, name = path
    rule = leaf_rule(owners[tuple(parents)], name)
    return Row(path, ".".join([*parents, rule.name]), rule.axes(len(shape)), shape=shape)


def from_torch(
    module: nn.Module, state_dict: Mapping[str, Any], *example_inputs: Any, dialect: str | None = None, **kwargs: Any
) -> Variables:
    """The Flax variables of ``module`` that hold the numbers of a PyTorch ``state_dict``.

    Args:
        state_dict: numpy arrays or torch tensors by key, as ``load`` or ``torch.nn.Module.state_dict`` give them.
        example_inputs, kwargs: what ``module`` is called with; arrays or ``jax.ShapeDtypeStruct``.
        dialect: the name, in ``convert.dialects``, of the code that the keys come from. None: the keys are the names
            of this package. "auto": they are that if they match exactly, else those of the dialect whose typical keys
            the state dict has.

    Returns:
        ``{"params": ..., "batch_stats": ...}``; the leaves are numpy arrays of the dtypes in ``state_dict``.

    Raises:
        MismatchError: for any missing key, left-over key or wrong shape; all are listed at once.
        ValueError: if there is no such dialect, or if with "auto" the keys may be those of several dialects.
    """
    return plan(module, *example_inputs, **kwargs).from_torch(state_dict, dialect)


def to_torch(
    module: nn.Module,
    variables: Mapping[str, Any],
    *example_inputs: Any,
    dialect: str | None = None,
    **kwargs: Any,
) -> dict[str, np.ndarray]:
    """The inverse of ``from_torch``: numpy arrays by PyTorch key, in the dtypes of ``variables``.

    Gradients, and other trees with the shapes of the variables, can be converted too. ``num_batches_tracked`` is in
    the result only for a BatchNorm with ``momentum=None``; ``load_state_dict(strict=True)`` accepts a plain dict
    without it.

    Raises:
        MismatchError: for any missing leaf, left-over leaf or wrong shape; all are listed at once.
        ValueError: if there is no such dialect, or if the dialect cannot express an array.
    """
    return plan(module, *example_inputs, **kwargs).to_torch(variables, dialect)


def differ_in_bits(a: Any, b: Any) -> bool:
    """Whether two arrays of one shape differ in any bit. Arrays that are the same memory are not read."""
    a, b = as_numpy(a), as_numpy(b)
    one = a.__array_interface__["data"] == b.__array_interface__["data"] and a.strides == b.strides
    return not (one and a.dtype == b.dtype) and a.tobytes() != b.tobytes()


def shape_differences(
    expected: Mapping[str, tuple], found: Mapping[str, tuple], labels: Mapping[str, str] | None = None
) -> list[str]:
    """A line for each name that is missing (-), left over (+) or of another shape (~). ``labels`` replace the names."""

    def label(name: str) -> str:
        return labels[name] if labels else name

    missing = [f"- {label(k)}: expected shape {expected[k]}, found nothing" for k in expected if k not in found]
    surplus = [f"+ {label(k)}: found shape {found[k]}, expected nothing" for k in found if k not in expected]
    wrong = [
        f"~ {label(k)}: expected shape {shape}, found {found[k]}"
        for k, shape in expected.items()
        if k in found and found[k] != shape
    ]
    return missing + surplus + wrong


def refuse(problems: list[str], summary: str, hint: str = "") -> None:
    """Raise a MismatchError that lists ``problems``, one a line, and then the ``hint``, if there are any problems."""
    if problems:
        count = f"{len(problems)} difference" + "s" * (len(problems) > 1)
        hints = [f"hint: {hint}"] if hint else []
        raise MismatchError("\n".join([f"{summary}: {count}", *problems, *hints]))
