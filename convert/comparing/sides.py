"""Runs the Flax side and the torch side of a ``Case``: outputs, gradients and statistics, step by step.

Only ``torch_ref.twins`` imports torch, and it is imported when the torch side runs.
"""

import functools
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from convert.comparing.case import Case, Step, rate
from convert.precision import KEEP
from convert.state_dict import Variables
from flax_attn.catalog import channels_first, channels_last


class FlaxSide:
    """The Flax module of ``case``.

    Args:
        intercept: the linen interceptor that replaces dropout.
        remat: whether the forward pass of eval mode is rematerialised, so that ``jax.checkpoint`` is covered too.
    """

    def __init__(self, case: Case, intercept: Callable, remat: bool = False):
        self.case, self.intercept, self.remat = case, intercept, remat

    def steps(self, train: bool, count: int = 1) -> list[Step]:
        """``count`` steps of gradient descent."""
        case, steps = self.case, []
        variables = case.plan.from_torch(case.state, dtype=KEEP)
        for batch in case.batches[:count]:
            mode = train or self.alike(variables, batch)
            out, params, floats, variables = self.compiled(variables, batch, case.cotangents, mode)
            torch_grads = case.plan.to_torch({**variables, "params": params} if params else variables)
            state = case.plan.to_torch(variables)
            weights = {key: torch_grads[key] for key in case.parameters}
            inputs = {i: g for i, g in enumerate(floats) if batch[i].dtype.kind == "f"}
            steps.append(case.named(out, weights, inputs, {key: state[key] for key in case.statistics}))
            variables = descend(variables, params, rate(steps[-1]))
        return steps

    def alike(self, variables: Variables, inputs: Sequence[Any]) -> bool:
        """Whether ``train=True`` changes nothing in the module, so that one compiled program serves both modes."""
        if self.case.statistics:
            return False

        def traced(train: bool) -> tuple[str, list[bytes]]:
            def call(variables: Variables, arrays: Sequence[Any]) -> Any:
                with nn.intercept_methods(self.intercept):
                    return self.case.apply(variables, arrays, train=train, mutable=[])

            jaxpr = jax.make_jaxpr(call)(variables, inputs)
            return str(jaxpr), [np.asarray(constant).tobytes() for constant in jaxpr.consts]

        return traced(False) == traced(True)

    @functools.cached_property
    def compiled(self) -> Callable:
        """One step: outputs, gradients of the parameters and of the inputs, the variables with new statistics."""
        floating = [x.dtype.kind == "f" for x in self.case.batches[0]]

        def step(variables: Variables, inputs: Sequence[Any], cotangents: Sequence[Any], train: bool) -> tuple:
            def loss(params: Any, floats: Sequence[Any]) -> tuple:
                arrays = [f if is_float else x for is_float, f, x in zip(floating, floats, inputs, strict=True)]
                with nn.intercept_methods(self.intercept):
                    out, changed = self.forward(train)({**variables, "params": params}, arrays)
                out = jax.tree.leaves(out)
                return weighted_sum(out, cotangents), (out, changed)

            floats = [x if is_float else 0.0 for is_float, x in zip(floating, inputs, strict=True)]
            grads, (out, changed) = jax.grad(loss, (0, 1), has_aux=True)(variables.get("params", {}), floats)
            return out, *grads, {**variables, **changed}

        return jax.jit(step, static_argnums=3)

    def forward(self, train: bool) -> Callable:
        """The forward pass: outputs, and the statistics that changed."""
        mutable = ["batch_stats"] if train else []

        def forward(variables: Variables, arrays: Sequence[Any]) -> tuple:
            return self.case.apply(variables, arrays, train=train, mutable=mutable)

        return jax.checkpoint(forward) if self.remat and not train else forward


def weighted_sum(outputs: Sequence[Any], weights: Sequence[Any]) -> Any:
    """The sum of all floating point outputs, each times its weights."""
    pairs = zip(outputs, weights, strict=True)
    return sum(((out * w).sum() for out, w in pairs if jax.numpy.issubdtype(out.dtype, jax.numpy.floating)), 0.0)


def descend(variables: Variables, gradients: Any, rate: float) -> Variables:
    """One step of gradient descent."""
    move = functools.partial(jax.tree.map, lambda p, g: (p - rate * g).astype(p.dtype))
    return {**variables, "params": move(variables.get("params", {}), gradients)}


class TorchSide:
    """A torch module of its own, which is filled with the numbers of ``case`` and then trained."""

    def __init__(self, case: Case, module: Any, dtype: str):
        self.case, self.module, self.dtype = case, module, dtype

    def steps(self, train: bool, count: int = 1) -> list[Step]:
        """The same steps as those of ``FlaxSide``."""
        twins, case, steps = import_module("torch_ref.twins"), self.case, []
        twins.fill(self.module, case.state, self.dtype)
        cotangents = [channels_first(c, layout) for c, layout in zip(case.cotangents, case.outputs, strict=True)]
        for batch in case.batches[:count]:
            xs = case.to_torch(batch)
            out, params, floats, buffers = twins.step(self.module, case.arguments, xs, cotangents, train)
            inputs = {i: channels_last(g, case.inputs[i]) for i, g in floats.items()}
            statistics = {key: buffers[key] for key in case.statistics if key in buffers}
            steps.append(case.named(case.from_torch(out), params, inputs, statistics))
            twins.descend(self.module, rate(steps[-1]))
        return steps
