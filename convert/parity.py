"""Runs both sides of a catalog entry, Flax and its PyTorch twin, on the same random numbers.

Outputs and gradients of both sides are numpy arrays, channels last. Only ``torch_ref.twins`` imports torch, and it is
imported when the PyTorch side runs.
"""

import functools
import math
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.typing import DTypeLike

from convert.state_dict import Plan, Variables
from flax_attn import layers
from flax_attn.catalog import Entry, channels_first, channels_last
from flax_attn.layers import Module

Step = dict[str, np.ndarray]
"""Results of one forward and backward pass: "output 0", "gradient of fc.0.weight", "gradient of input 0",
"bn1.running_mean", ..."""

KEEP = 0.7
"""The share of values that the shared dropout masks keep."""

LENGTH = 1e-2
"""How far at most the step of gradient descent moves a parameter."""


def random_array(key: str, shape: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    """Random numbers for the parameter or statistic called ``key`` in PyTorch, such that signals keep their scale."""
    if key.endswith("running_var"):
        return rng.uniform(0.5, 1.5, shape)
    values = np.asarray(rng.normal(size=shape))
    return values / math.sqrt(max(1, math.prod(shape[1:]))) if len(shape) > 1 else values


def random_state(plan: Plan, rng: np.random.Generator, dtype: DTypeLike = "float64") -> dict[str, np.ndarray]:
    """A random state dict for ``plan``; with their own initialisation several blocks are the identity."""
    rows = sorted(plan.rows, key=lambda row: row.key)
    state = {row.key: random_array(row.key, row.torch_shape, rng).astype(dtype) for row in rows}
    return state | {key: state[row.key] for key, row in plan.aliases.items()}


def to_nchw(entry: Entry, inputs: Iterable[Any]) -> list[np.ndarray]:
    """The inputs of ``entry`` in PyTorch's layout."""
    return [channels_first(x, i.layout) for x, i in zip(inputs, entry.inputs, strict=True)]


def outputs_to_nhwc(entry: Entry, outputs: Iterable[Any]) -> list[np.ndarray]:
    """The outputs of the twin in Flax's layout."""
    return [channels_last(x, layout) for x, layout in zip(outputs, entry.outputs, strict=True)]


def flax_outputs(entry: Entry, module: Module, variables: Variables, inputs: Sequence[Any]) -> list[np.ndarray]:
    """The outputs of ``module`` in eval mode."""
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        out = jax.jit(functools.partial(entry.apply, module))(variables, inputs)
        return [np.asarray(leaf) for leaf in jax.tree.leaves(out)]


def torch_outputs(entry: Entry, twin: Any, inputs: Sequence[Any]) -> list[np.ndarray]:
    """The outputs of ``twin`` in eval mode."""
    twins = import_module("torch_ref.twins")
    return outputs_to_nhwc(entry, twins.outputs(twin, entry.arguments, to_nchw(entry, inputs)))


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
    state_dict = {k: v if v.dtype.kind in "iub" else v.astype(dtype, copy=False) for k, v in state_dict.items()}
    import_module("torch_ref.twins").fill(twin, state_dict, dtype)
    inputs = entry.draw(module, rng, dtype)
    ours = flax_outputs(entry, module, plan.from_torch(state_dict), inputs)
    return list(zip(ours, torch_outputs(entry, twin, inputs), strict=True))


def dropout_mask(path: str, shape: Sequence[int]) -> np.ndarray:
    """The factors of the dropout at ``path``, channels last; both sides multiply with the same."""
    rng = np.random.default_rng(zlib.crc32(path.encode()))
    return rng.binomial(1, KEEP, tuple(shape)) / KEEP


def share_dropout(call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
    """Linen interceptor: every kind of Dropout multiplies with ``dropout_mask`` in training mode."""
    if not isinstance(context.module, layers.Dropout) or context.method_name != "__call__":
        return call(*args, **kwargs)
    x, train = args[0], kwargs.get("train", args[1] if len(args) > 1 else False)
    mask = dropout_mask(".".join(context.module.path), context.module.mask_shape(x.shape))
    return x * mask.astype(x.dtype) if train else x


def rate(step: Step) -> float:
    """The learning rate at which no parameter moves further than ``LENGTH``."""
    return LENGTH / max([1.0, *(float(np.abs(g).max(initial=0)) for g in gradients(step).values())])


def outputs(step: Step) -> Step:
    """The outputs of ``step``."""
    return {name: array for name, array in step.items() if name.startswith("output ")}


def gradients(step: Step) -> Step:
    """The gradients of ``step``, of parameters and of inputs."""
    return {name: array for name, array in step.items() if name.startswith("gradient of ")}


def named(results: Iterable[Any], params: Step, inputs: Mapping[int, Any], statistics: Step) -> Step:
    """The outputs, gradients and statistics of a step by name."""
    step = {f"output {i}": x for i, x in enumerate(results)}
    step |= {f"gradient of {key}": x for key, x in params.items()}
    step |= {f"gradient of input {i}": x for i, x in inputs.items()}
    return {name: np.asarray(array) for name, array in (step | statistics).items()}


def descend(variables: Variables, gradients: Any, rate: float) -> Variables:
    """One step of gradient descent."""
    move = functools.partial(jax.tree.map, lambda p, g: (p - rate * g).astype(p.dtype))
    return {**variables, "params": move(variables.get("params", {}), gradients)}


class Parity:
    """Both sides of ``entry`` in ``dtype`` with the same random parameters, statistics, inputs and dropout masks.

    ``flax_steps`` and ``torch_steps`` must give the same numbers. Each side takes its steps of gradient descent by
    itself. The numbers are numpy's, so that PyTorch's steps can be stored and read where torch is not installed.
    """

    def __init__(self, entry: Entry, plan: Plan, dtype: DTypeLike, seed: int = 0):
        self.entry, self.plan, self.dtype = entry, plan, np.dtype(dtype)
        self.module = entry.module()
        rng = np.random.default_rng(seed)
        self.state = random_state(plan, rng, self.dtype)
        self.batches = [entry.draw(self.module, rng, self.dtype) for _ in range(2)]
        self.statistics = [row.key for row in plan.rows if row.path[0] == "batch_stats"]
        self.parameters = [row.key for row in plan.rows if row.path[0] == "params"]
        structs, self.dropouts = self.trace()
        self.cotangents = [rng.normal(size=s.shape).astype(s.dtype) for s in structs]

    def trace(self) -> tuple[list[jax.ShapeDtypeStruct], dict[str, dict[tuple, tuple]]]:
        """The outputs of the Flax module, and of each Dropout, by path, {shape of the input: shape of the mask}."""
        shapes: dict[str, dict[tuple, tuple]] = {}

        def record(call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
            if isinstance(context.module, layers.Dropout) and context.method_name == "__call__":
                masks = shapes.setdefault(".".join(context.module.path), {})
                masks[args[0].shape] = context.module.mask_shape(args[0].shape)
            return call(*args, **kwargs)

        with nn.intercept_methods(record):
            run = functools.partial(self.entry.apply, self.module)
            out = jax.eval_shape(run, self.plan.from_torch(self.state), self.batches[0])
        return jax.tree.leaves(out), shapes

    def torch_mask(self, path: str, shape: tuple[int, ...]) -> np.ndarray:
        """The mask of the twin's Dropout at ``path`` for an input of ``shape``, in PyTorch's layout."""
        path = path if path in self.dropouts else f"{path}0"  # ``dropout`` of torch.nn.Transformer is our ``dropout0``
        masks, last = self.dropouts[path], (shape[0], *shape[2:], shape[1])
        if shape in masks:
            return dropout_mask(path, masks[shape])
        if last in masks:
            return np.moveaxis(dropout_mask(path, masks[last]), -1, 1)
        (mask,) = masks.values()  # of attention weights: ours (n, heads, q, k), PyTorch's (n*heads, q, k)
        return dropout_mask(path, mask).reshape(shape)

    def flax_steps(self, train: bool, count: int = 1) -> list[Step]:
        """``count`` steps of the Flax module, at most two."""
        variables, steps = self.plan.from_torch(self.state), []
        for batch in self.batches[:count]:
            out, params, floats, variables = self.compiled(variables, batch, self.cotangents, train)
            torch_grads = self.plan.to_torch({**variables, "params": params} if params else variables)
            state = self.plan.to_torch(variables)
            weights = {key: torch_grads[key] for key in self.parameters}
            inputs = {i: g for i, g in enumerate(floats) if np.ndim(g)}
            steps.append(named(out, weights, inputs, {key: state[key] for key in self.statistics}))
            variables = descend(variables, params, rate(steps[-1]))
        return steps

    @functools.cached_property
    def compiled(self) -> Callable:
        """One step of the Flax module. In eval mode it is rematerialised, so that ``jax.checkpoint`` is covered too."""
        floating = [x.dtype.kind == "f" for x in self.batches[0]]

        def step(variables: Variables, inputs: Sequence[Any], cotangents: Sequence[Any], train: bool) -> tuple:
            def forward(variables: Variables, arrays: Sequence[Any]) -> tuple:
                mutable = ["batch_stats"] if train else []
                return self.entry.apply(self.module, variables, arrays, train=train, mutable=mutable)

            def loss(params: Any, floats: Sequence[Any]) -> tuple:
                arrays = [f if is_float else x for is_float, f, x in zip(floating, floats, inputs, strict=True)]
                run = forward if train else jax.checkpoint(forward)
                with nn.intercept_methods(share_dropout):
                    out, changed = run({**variables, "params": params}, arrays)
                out = jax.tree.leaves(out)
                return sum((o * c).sum() for o, c in zip(out, cotangents, strict=True)), (out, changed)

            floats = [x if is_float else 0.0 for is_float, x in zip(floating, inputs, strict=True)]
            grads, (out, changed) = jax.grad(loss, (0, 1), has_aux=True)(variables.get("params", {}), floats)
            return out, *grads, {**variables, **changed}

        return jax.jit(step, static_argnums=3)

    def torch_steps(self, train: bool, count: int = 1) -> list[Step]:
        """The same steps of the twin."""
        twins, steps = import_module("torch_ref.twins"), []
        twin = twins.build_twin(self.entry.cls, self.entry.kwargs)
        twins.fill(twin, self.state, self.dtype.name)
        twins.share_dropout(twin, self.torch_mask)
        cotangents = [channels_first(c, layout) for c, layout in zip(self.cotangents, self.entry.outputs, strict=True)]
        layouts = [i.layout for i in self.entry.inputs]
        for batch in self.batches[:count]:
            xs = to_nchw(self.entry, batch)
            out, params, floats, buffers = twins.step(twin, self.entry.arguments, xs, cotangents, train)
            inputs = {i: channels_last(g, layouts[i]) for i, g in floats.items()}
            statistics = {key: buffers[key] for key in self.statistics}
            steps.append(named(outputs_to_nhwc(self.entry, out), params, inputs, statistics))
            twins.descend(twin, rate(steps[-1]))
        return steps
