"""Runs both sides of a catalog entry, Flax and its PyTorch twin, on the same random numbers.

Outputs and gradients of both sides are numpy arrays, channels last. Only ``torch_ref.twins`` imports torch, and it is
imported when the PyTorch side runs.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.typing import DTypeLike

from convert.comparing.case import Case, Step, random_state
from convert.comparing.dropouts import share_dropout, torch_mask
from convert.comparing.movement import Moved, movements
from convert.comparing.sides import FlaxSide, TorchSide
from convert.precision import KEEP
from convert.state_dict import Plan, Variables
from flax_attn import layers
from flax_attn.catalog import Entry, channels_first, channels_last
from flax_attn.layers import Module


def to_nchw(entry: Entry, inputs: Sequence[Any]) -> list[np.ndarray]:
    """The inputs of ``entry`` in PyTorch's layout."""
    return [channels_first(x, i.layout) for x, i in zip(inputs, entry.inputs, strict=True)]


def flax_outputs(entry: Entry, module: Module, variables: Variables, inputs: Sequence[Any]) -> list[np.ndarray]:
    """The outputs of ``module`` in eval mode."""
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        out = jax.jit(functools.partial(entry.apply, module))(variables, inputs)
        return [np.asarray(leaf) for leaf in jax.tree.leaves(out)]


def torch_outputs(entry: Entry, twin: Any, inputs: Sequence[Any]) -> list[np.ndarray]:
    """The outputs of ``twin`` in eval mode."""
    out = import_module("torch_ref.twins").outputs(twin, entry.arguments, to_nchw(entry, inputs))
    return [channels_last(x, layout) for x, layout in zip(out, entry.outputs, strict=True)]


def in_eval_mode(
    entry: Entry,
    module: Module,
    plan: Plan,
    twin: Any,
    state_dict: Mapping[str, np.ndarray],
    rng: np.random.Generator,
    dtype: str = "float64",
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pairs (Flax, PyTorch) of the outputs of ``module`` and ``twin`` in eval mode, for one random input.

    Args:
        entry: says what the inputs and outputs look like.
        state_dict: the numbers for both sides, under PyTorch's names; the floating point ones are cast to ``dtype``.
    """
    state_dict = in_precision(state_dict, dtype)
    import_module("torch_ref.twins").fill(twin, state_dict, dtype)
    inputs = entry.draw(module, rng, dtype)
    ours = flax_outputs(entry, module, plan.from_torch(state_dict, dtype=KEEP), inputs)
    return list(zip(ours, torch_outputs(entry, twin, inputs), strict=True))


def in_precision(state_dict: Mapping[str, np.ndarray], dtype: str) -> dict[str, np.ndarray]:
    """The numbers of ``state_dict``, those that are no integers in ``dtype``."""
    return {k: v if v.dtype.kind in "iub" else v.astype(dtype, copy=False) for k, v in state_dict.items()}


def moved_in_eval_mode(
    entry: Entry, module: Module, plan: Plan, twin: Any, state_dict: Mapping[str, np.ndarray], seed: int = 0
) -> Moved:
    """How far the outputs of ``twin`` move with its inputs and its parameters, at the numbers of ``state_dict``."""

    def run(state: Mapping[str, np.ndarray], arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        import_module("torch_ref.twins").fill(twin, state, "float64")
        return torch_outputs(entry, twin, arrays)

    inputs = entry.draw(module, np.random.default_rng(seed), "float64")
    return movements(run, plan, state=in_precision(state_dict, "float64"), arrays=inputs, seed=seed + 1, every=True)


class Parity:
    """Both sides of ``entry`` in ``dtype`` with the same random parameters, statistics, inputs and dropout masks.

    ``flax_steps`` and ``torch_steps`` must give the same numbers. Each side takes its steps of gradient descent by
    itself. The numbers are numpy's, so that PyTorch's steps can be stored and read where torch is not installed.

    Args:
        state: the parameters and statistics in place of random ones, by their PyTorch key.
        module: the Flax module in place of the one that ``entry`` makes; it has the arguments of ``entry``.
    """

    def __init__(
        self,
        entry: Entry,
        plan: Plan,
        dtype: DTypeLike,
        seed: int = 0,
        state: Mapping[str, np.ndarray] | None = None,
        module: Module | None = None,
    ):
        self.entry, self.dtype = entry, np.dtype(dtype)
        module, rng = module or entry.module(), np.random.default_rng(seed)
        state = random_state(plan, rng, self.dtype) if state is None else in_precision(state, self.dtype.name)
        batches = [entry.draw(module, rng, self.dtype) for _ in range(2)]
        structs, self.masks = trace(entry, module, plan.from_torch(state, dtype=KEEP), batches[0])
        self.case = Case(
            module=module,
            plan=plan,
            arguments=entry.arguments,
            inputs=[i.layout for i in entry.inputs],
            outputs=entry.outputs,
            names=[f"output {i}" for i in range(len(structs))],
            state=state,
            batches=batches,
            cotangents=[rng.normal(size=s.shape).astype(s.dtype) for s in structs],
        )
        self.flax_steps = FlaxSide(self.case, share_dropout, remat=True).steps

    def torch_steps(self, train: bool, count: int = 1) -> list[Step]:
        """The same steps of the twin."""
        twins = import_module("torch_ref.twins")
        twin = twins.build_twin(self.entry.cls, self.entry.kwargs)
        twins.share_dropout(twin, functools.partial(torch_mask, self.masks))
        return TorchSide(self.case, twin, self.dtype.name).steps(train, count)


def trace(
    entry: Entry, module: Module, variables: Variables, inputs: Sequence[Any]
) -> tuple[list[jax.ShapeDtypeStruct], dict[str, dict[tuple, tuple]]]:
    """The outputs of the Flax module, and of each Dropout, by path, {shape of the input: shape of the mask}."""
    shapes: dict[str, dict[tuple, tuple]] = {}

    def record(call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        if isinstance(context.module, layers.Dropout) and context.method_name == "__call__":
            masks = shapes.setdefault(".".join(context.module.path), {})
            masks[args[0].shape] = context.module.mask_shape(args[0].shape)
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        out = jax.eval_shape(functools.partial(entry.apply, module), variables, inputs)
    return jax.tree.leaves(out), shapes
