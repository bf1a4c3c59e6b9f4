"""PyTorch state dicts <-> Flax variables. Both directions follow one plan, made from the module's structure alone."""

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import flax.linen as nn
import numpy as np
from flax import traverse_util

from convert.advice import Shapes, advice, variables_advice
from convert.arguments import require_module, state_dict_of, variables_of
from convert.checkpoint import Checkpoint
from convert.dialects import NATIVE, find_dialect
from convert.matching import Match, dialect_hint, matched
from convert.matching import untranslated as untranslated
from convert.mismatch import MismatchError as MismatchError
from convert.mismatch import refuse, shape_differences
from convert.planning import REFUSALS, Path, Row, channels_first, channels_moved, traced_rows
from convert.precision import HalfPrecisionWarning, Precision, half_precision, is_floating
from convert.quantized import quantized_hint
from convert.replacing import Initial, initial_leaves, new_leaves, no_initial, replaced_of
from convert.tensors import Lazy, as_numpy, owned, same_bits
from convert.values import numpy_dtype, trouble
from flax_attn.layers.calls import frozen, takes_train

Variables = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """Every leaf of a module by its key in PyTorch. The conversion in both directions follows this table.

    Args:
        module: the name of the module's class.
        keyed: {key: row}, in the order of PyTorch's state dict. A leaf that the state dict holds twice has two keys.
        training: makes the plan of the module as it is called with ``train=True``, for the advice in an error.
        moved: gives the shapes that the module has with example inputs whose channels are moved to the last axis, and
            a sentence that says so, for the advice in an error.
        initial: gives the leaves of ``module.init`` with a key, at some paths.
    """

    module: str
    keyed: Mapping[str, Row]
    training: Callable[[], "Plan | None"] = field(default=lambda: None, compare=False, repr=False)
    moved: Callable[[], Iterable[tuple[Shapes, str]]] = field(default=lambda: (), compare=False, repr=False)
    initial: Initial = field(default=no_initial, compare=False, repr=False)

    @functools.cached_property
    def rows(self) -> tuple[Row, ...]:
        """Every leaf once, in the order of PyTorch's state dict."""
        return tuple(r for key, r in self.keyed.items() if key == r.key)

    @functools.cached_property
    def aliases(self) -> dict[str, Row]:
        """The rows of the leaves that PyTorch's state dict holds twice, by their second keys."""
        return {key: r for key, r in self.keyed.items() if key != r.key}

    @property
    def parameters(self) -> tuple[str, ...]:
        """The keys of the parameters in the order of PyTorch's ``module.parameters()``, each parameter once.

        PyTorch's optimizers number the parameters in this order. It is known for the modules of this package. A module
        of a user must have its layers in the order of the PyTorch module; ``convert.registration`` says what that is.
        """
        return tuple(r.key for r in self.rows if not r.statistic)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every key of the state dict, in its order."""
        return {key: r.torch_shape for key, r in self.keyed.items()}

    def leaves(
        self,
        state_dict: Mapping[str, Any] | Checkpoint,
        dialect: str | None = None,
        dtype: Any = None,
        replace: str | Sequence[str] = (),
        rng: Any = 0,
    ) -> dict[Path, Lazy]:
        """The leaves by path, with the checks of ``from_torch``. Each is computed when its ``make`` is called.

        What ``make`` gives may be a view of an array in ``state_dict``. There is no note on half precision.
        """
        precision, given = Precision.of(dtype), state_dict_of(state_dict)
        replaced = replaced_of(replace, self.keyed, self.module)
        match = matched(self.shapes, given, dialect, replaced)
        problems = match.problems + match.value_problems(self.rows, precision)
        summary = f"the state dict does not fit {self.module}"
        summary += f", read as {match.dialect.name}" if match.dialect else ""
        refuse(problems, summary, self.hint(match, given) if problems else "")
        found, label, second = match.found, match.labels, replaced.without(self.aliases)
        twice = [(k, r.key) for k, r in second.items() if not same_bits(found[k], found[r.key])]
        refuse([f"! {label[other]}: differs from {label[first]}" for other, first in twice], summary)
        new = new_leaves([r for r in self.rows if replaced.covers(r.key)], self.initial, rng, precision=precision)
        return {r.path: new.get(r.path) or in_flax_layout(found[r.key], r, precision) for r in self.rows}

    def hint(self, match: Match, given: Mapping[str, Any]) -> str:
        """The likely cause of the differences; empty where none is known."""
        floats = [r.key for r in self.rows if is_floating(r.dtype)]
        if found := quantized_hint(given, floats):
            return found
        if match.dialect:
            return ""

        @functools.cache
        def training() -> Shapes:
            trained = self.training()
            return trained.shapes if trained else {}

        stored = {key: r.shape for key, r in self.keyed.items()}
        known = dialect_hint(match, given)
        return known or advice(match.expected, match.shapes, stored, training=training, moved=self.moved)

    def from_torch(
        self,
        state_dict: Mapping[str, Any] | Checkpoint,
        dialect: str | None = None,
        dtype: Any = None,
        replace: str | Sequence[str] = (),
        rng: Any = 0,
    ) -> Variables:
        """See ``convert.from_torch``."""
        return self.variables(self.leaves(state_dict, dialect, dtype, replace=replace, rng=rng), dtype)

    def variables(self, leaves: Mapping[Path, Lazy], dtype: Any, depth: int = 2) -> Variables:
        """The variables of ``leaves``, in memory of their own, with the note on half precision if ``dtype`` is None.

        Args:
            depth: how many calls above this one the note points to.
        """
        note = self.half_precision(leaves) if dtype is None else ""
        if note:
            warnings.warn(note, HalfPrecisionWarning, stacklevel=depth + 1)
        return traverse_util.unflatten_dict(owned(leaves))

    def half_precision(self, leaves: Mapping[Path, Lazy], option: str = "dtype='{}'") -> str:
        """The note on the parameters among ``leaves`` that are in half precision; empty if there are none.

        Args:
            option: how the note asks for a dtype, with {} in its place.
        """
        return half_precision(((leaves[r.path].dtype, r.dtype) for r in self.rows if not r.statistic), option)

    def to_torch(self, variables: Mapping[str, Any], dialect: str | None = None) -> dict[str, np.ndarray]:
        """See ``convert.to_torch``."""
        spoken = None if dialect in (None, NATIVE) else find_dialect(dialect)
        expected = {r.path: r.shape for r in self.rows}
        flat = traverse_util.flatten_dict(dict(variables_of(variables, list(expected))))
        useless = {path: text for path, leaf in flat.items() if (text := trouble(leaf))}
        shapes = {path: tuple(leaf.shape) for path, leaf in flat.items() if path not in useless}
        wanted = {path: shape for path, shape in expected.items() if path not in useless}
        names = {path: "/".join(map(str, path)) for path in (*flat, *expected)}
        problems = shape_differences(wanted, shapes, names)
        problems += [f"! {names[path]}: expected an array of numbers, found {text}" for path, text in useless.items()]
        refuse(problems, f"the variables do not fit {self.module}", variables_advice(expected, shapes))
        state = {key: in_torch_layout(flat[r.path], r) for key, r in self.keyed.items()}
        return owned(spoken.write(state) if spoken else state)


def in_flax_layout(value: Any, row: Row, precision: Precision) -> Lazy:
    """``value`` with its axes in Flax's order and its dtype as ``precision`` asks, where possible without a copy."""
    dtype = precision.stored(numpy_dtype(value), row.statistic)

    def make() -> np.ndarray:
        array = as_numpy(value).transpose(row.axes)
        return array if array.dtype == dtype else array.astype(dtype, order="C")

    return Lazy(row.shape, dtype, make)


def in_torch_layout(value: Any, row: Row) -> Lazy:
    """``value`` with its axes in PyTorch's order, where possible without a copy."""
    return Lazy(row.torch_shape, numpy_dtype(value), lambda: as_numpy(value).transpose(np.argsort(row.axes)))


def plan(module: nn.Module, *example_inputs: Any, **kwargs: Any) -> Plan:
    """The plan of ``module``, from its structure alone: the module is traced, not run.

    Args:
        example_inputs, kwargs: what ``module`` is called with, with the channels last; arrays or
            ``jax.ShapeDtypeStruct``.

    Raises:
        ValueError: if ``module`` is no linen module, or cannot be called with the example inputs.
    """
    require_module("plan", module)
    keyed = traced_rows(module, example_inputs, kwargs)
    training = functools.partial(trained_plan, module, example_inputs, kwargs)
    moved = functools.partial(moved_shapes, module, example_inputs, kwargs)
    initial = functools.partial(initial_leaves, module, example_inputs, kwargs)
    return Plan(type(module).__name__, keyed, training=training, moved=moved, initial=initial)


def trained_plan(module: nn.Module, example_inputs: tuple, kwargs: Mapping[str, Any]) -> Plan | None:
    """The plan of ``module`` as it is called with ``train=True``; None where it cannot be called so."""
    if kwargs.get("train") or not takes_train(type(module)):
        return None
    with contextlib.suppress(Exception), frozen():
        return plan(module, *example_inputs, **{**kwargs, "train": True})
    return None


def moved_shapes(
    module: nn.Module, example_inputs: Sequence[Any], kwargs: Mapping[str, Any]
) -> Iterator[tuple[Shapes, str]]:
    """The shapes of ``module`` with the channels of the example inputs moved to the last axis, and what to say then."""
    for inputs in channels_moved(example_inputs):
        with contextlib.suppress(*REFUSALS):
            yield plan(module, *inputs, **kwargs).shapes, channels_first(example_inputs, inputs)


def from_torch(
    module: nn.Module,
    state_dict: Mapping[str, Any] | Checkpoint,
    *example_inputs: Any,
    dialect: str | None = None,
    dtype: Any = None,
    replace: str | Sequence[str] = (),
    rng: Any = 0,
    **kwargs: Any,
) -> Variables:
    """The Flax variables of ``module`` that hold the numbers of a PyTorch ``state_dict``.

    Args:
        state_dict: arrays of numpy or JAX, or torch tensors, by key, as ``load`` or ``torch.nn.Module.state_dict`` give
            them; or a ``Checkpoint``, as ``read`` gives it.
        example_inputs, kwargs: what ``module`` is called with, with the channels last; arrays or
            ``jax.ShapeDtypeStruct``.
        dialect: the name, in ``convert.dialects``, of the code that the keys come from. None: the keys are the names
            of this package. "auto": they are that if they match exactly, else those of the dialect whose typical keys
            the state dict has.
        dtype: "float32", "bfloat16", "float16" or "float64" casts the floating point numbers. None keeps the dtypes,
            with a ``HalfPrecisionWarning`` if parameters are in half precision and the module's are not. Running
            statistics are never below float32 then. "keep" keeps all dtypes, those of the statistics too, without
            the warning.
        replace: prefixes of keys, such as ("fc",), by the names of this package. The leaves of these keys keep the
            values that ``module.init`` gives them. The state dict may have other shapes there, or more keys, or none.
            Everywhere else it must fit as usual.
        rng: the key of JAX for these initial values, or an int as its seed.

    Returns:
        ``{"params": ..., "batch_stats": ...}``; the leaves are numpy arrays in memory of their own.

    Raises:
        MismatchError: for any missing key, left-over key, wrong shape or wrong kind of value, such as integers where
            the module has floating point numbers; all are listed at once.
        ValueError: if there is no such dialect or dtype, if with "auto" the keys may be those of several dialects, if
            a prefix in ``replace`` names no leaf of the module, or if an argument is not what is described here.
    """
    require_module("from_torch", module)
    given = state_dict_of(state_dict)
    mapping = plan(module, *example_inputs, **kwargs)
    return mapping.variables(mapping.leaves(given, dialect, dtype, replace=replace, rng=rng), dtype)


def to_torch(
    module: nn.Module,
    variables: Mapping[str, Any],
    *example_inputs: Any,
    dialect: str | None = None,
    **kwargs: Any,
) -> dict[str, np.ndarray]:
    """The inverse of ``from_torch``: numpy arrays by PyTorch key, in the dtypes of ``variables``.

    Each array has memory of its own, also where PyTorch has one tensor under two keys. Gradients, and other trees with
    the shapes of the variables, can be converted too. ``num_batches_tracked`` is in the result only for a BatchNorm
    with ``momentum=None``; ``load_state_dict(strict=True)`` accepts a plain dict without it.

    Raises:
        MismatchError: for any missing leaf, left-over leaf, wrong shape or leaf that is no array; all are listed at
            once.
        ValueError: if there is no such dialect, if the dialect cannot express an array, or if an argument is not what
            is described here.
    """
    require_module("to_torch", module)
    variables_of(variables, [])
    return plan(module, *example_inputs, **kwargs).to_torch(variables, dialect)
