"""A Flax module and a torch module of a user, and the ``Case`` that both are given: numbers, layouts, names."""

import dataclasses
import functools
import inspect
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from importlib import import_module
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from convert.comparing.case import Case
from convert.precision import KEEP
from convert.state_dict import MismatchError, Plan
from flax_attn.catalog import IMAGE, PLAIN

Shapes = dict[str, tuple[int, ...]]
Layouts = str | Sequence[str]

REFUSALS = (RuntimeError, ValueError, TypeError, IndexError, AssertionError)
"""What a torch module raises when it is called with other inputs than it expects."""


@dataclasses.dataclass(frozen=True)
class Pair:
    """Both modules of a comparison, and what both are called with.

    Args:
        arrays: the inputs, channels last.
        call: more keyword arguments of the call.
        steps: how many steps are compared in training mode.
        layouts, output_layouts: those that the user gave; None where the shapes tell.
    """

    module: nn.Module
    torch_module: Any
    plan: Plan
    arrays: Sequence[np.ndarray]
    call: Mapping[str, Any]
    steps: int
    seed: int
    layouts: Layouts | None = None
    output_layouts: Layouts | None = None

    @property
    def names(self) -> tuple[str, str]:
        """The class names of both modules."""
        return type(self.module).__name__, type(self.torch_module).__name__

    def arguments(self, arrays: Sequence[Any]) -> tuple[Sequence[Any], Mapping[str, Any]]:
        """The positional and the keyword arguments of the call."""
        return arrays, self.call

    def case(self, dtype: str, state: Mapping[str, np.ndarray]) -> Case:
        """What both sides are given in ``dtype``. ValueError if their outputs have other shapes or names."""
        arrays = [in_dtype(x, dtype) for x in self.arrays]
        case = Case(
            module=self.module,
            plan=self.plan,
            arguments=self.arguments,
            inputs=spread(self.layouts, [IMAGE if is_float(x) and x.ndim > 2 else PLAIN for x in arrays], "inputs"),
            outputs=(),
            names=(),
            state={key: in_dtype(value, dtype) for key, value in state.items()},
            batches=[arrays] * max(1, self.steps),
            cotangents=(),
            takes_train="train" in inspect.signature(type(self.module).__call__).parameters,
        )
        ours, theirs = flax_shapes(case, dtype), torch_shapes(case, self.torch_module, dtype)
        require_same_names(self.names, ours, theirs)
        guesses = [guessed(name, shape, theirs[name]) for name, shape in ours.items()]
        rng = np.random.default_rng(self.seed)
        return dataclasses.replace(
            case,
            outputs=spread(self.output_layouts, guesses, "outputs"),
            names=[f"output {name}".strip() for name in ours],
            cotangents=[np.asarray(rng.normal(size=shape)).astype(dtype) for shape in ours.values()],
        )


def precision(dtype: str) -> AbstractContextManager:
    """Flax computes as a user's Flax does: in 64 bits for float64 only. Matrix products are never rounded."""
    stack = ExitStack()
    stack.enter_context(jax.enable_x64(dtype == "float64"))
    stack.enter_context(jax.default_matmul_precision("highest"))
    return stack


def is_float(x: np.ndarray) -> bool:
    """Whether ``x`` holds floating point numbers, those of half precision included."""
    return bool(jnp.issubdtype(x.dtype, jnp.floating))


def in_dtype(x: np.ndarray, dtype: str) -> np.ndarray:
    """A floating point array in ``dtype``, any other array as it is."""
    return x.astype(dtype) if is_float(x) else x


def spread(given: Layouts | None, usual: Sequence[str], what: str) -> list[str]:
    """A layout for each of ``usual``: those that are given, or one for all, or the usual ones."""
    if given is None:
        return list(usual)
    found = [given] * len(usual) if isinstance(given, str) else list(given)
    if len(found) != len(usual) or not {*found} <= {IMAGE, PLAIN}:
        raise ValueError(f'compare: expected "{IMAGE}" or "{PLAIN}" for each of {len(usual)} {what}, got {given!r}')
    return found


def flax_shapes(case: Case, dtype: str) -> Shapes:
    """The shape of each output of the Flax module, by its place in the result."""
    with precision(dtype):
        run = functools.partial(case.apply, train=False, mutable=())
        out = jax.eval_shape(run, case.plan.from_torch(case.state, dtype=KEEP), case.batches[0])
    leaves, _ = jax.tree_util.tree_flatten_with_path(out[0])
    return {".".join(map(place, path)): leaf.shape for path, leaf in leaves}


def place(key: Any) -> str:
    """A dict key, an index or a field of a named tuple, as one word."""
    return str(next(getattr(key, name) for name in ("key", "idx", "name") if hasattr(key, name)))


def torch_shapes(case: Case, torch_module: Any, dtype: str) -> Shapes:
    """The shape of each output of the torch module, by its place in the result."""
    foreign, twins = import_module("torch_ref.foreign"), import_module("torch_ref.twins")
    copy, xs = foreign.copied(torch_module), case.to_torch(case.batches[0])
    twins.fill(copy, case.state, dtype)
    try:
        return {name: x.shape for name, x in foreign.called(copy, case.arguments, xs).items()}
    except REFUSALS as error:
        given = ", ".join(f"{x.shape} ({layout})" for x, layout in zip(xs, case.inputs, strict=True))
        raise ValueError(
            f"{type(torch_module).__name__} cannot be called with inputs of the shapes {given}: {error}. An image was "
            f"turned from (n, ..., c) into (n, c, ...); the argument layouts says which inputs are plain"
        ) from error


def require_same_names(who: tuple[str, str], ours: Shapes, theirs: Shapes) -> None:
    """Refuse results of other structure: as many arrays, under the same keys of dicts."""
    if [*ours] != [*theirs]:
        mine, other = (", ".join(name or "one array" for name in side) or "nothing" for side in (ours, theirs))
        raise ValueError(f"expected the same outputs from both sides, but {who[0]} returns {mine}; {who[1]}: {other}")


def fits(shape: Sequence[int], torch_shape: Sequence[int]) -> list[str]:
    """The layouts in which an output of ``shape`` has the shape ``torch_shape`` in PyTorch."""
    image = len(shape) > 2 and (shape[0], shape[-1], *shape[1:-1]) == tuple(torch_shape)
    return [PLAIN] * (tuple(shape) == tuple(torch_shape)) + [IMAGE] * image


def guessed(name: str, shape: Sequence[int], torch_shape: Sequence[int]) -> str:
    """The layout of an output. Where both fit, rank 4 and more is an image."""
    found = fits(shape, torch_shape)
    if not found:
        raise ValueError(
            f"{f'output {name}'.strip()}: expected the same shape from both sides, channels last in Flax and first in "
            f"PyTorch; got {tuple(shape)} from Flax and {tuple(torch_shape)} from PyTorch"
        )
    return found[-1] if len(shape) > 3 else found[0]


def shared_parameters(torch_module: Any, numbers: Mapping[str, np.ndarray], who: str) -> None:
    """Refuse numbers that differ where the torch module has one parameter under several keys."""
    for keys in import_module("torch_ref.foreign").shared_keys(torch_module):
        given = [key for key in keys if key in numbers]
        if any(not np.array_equal(numbers[given[0]], numbers[key]) for key in given):
            raise MismatchError(
                f"{', '.join(given)} are one parameter in {type(torch_module).__name__}, but not in {who}: use one "
                "layer for them there too, and list the second name in its aliases"
            )
