"""The Flax side of a measurement: forward pass and training step, compiled."""

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from examples.benchmark.case import Numbers
from flax_attn import layers


@dataclass(frozen=True)
class Compiled:
    """A compiled function and its arguments, which are on the device.

    Args:
        text: the lowered program.
        first: seconds to trace, lower and compile it.
        temporaries: bytes that the compiled program needs beside arguments and results; None where unknown.
    """

    function: Callable[..., Any]
    arguments: tuple
    text: str
    first: float
    temporaries: int | None

    def __call__(self) -> Any:
        return jax.block_until_ready(self.function(*self.arguments))


@dataclass(frozen=True)
class Lowered:
    """A function that is lowered but not compiled; ``seconds`` is what that took."""

    program: Any
    arguments: tuple
    seconds: float

    @property
    def text(self) -> str:
        return self.program.as_text()

    def compiled(self) -> Compiled:
        begin = time.perf_counter()
        function = self.program.compile()
        first = self.seconds + time.perf_counter() - begin
        analysis = function.memory_analysis()
        temporaries = None if analysis is None else int(analysis.temp_size_in_bytes)
        return Compiled(function, self.arguments, self.text, first=first, temporaries=temporaries)


def plain_forms() -> contextlib.AbstractContextManager | None:
    """What makes the layers use the forms that a user of flax.linen would write; None if they have no others."""
    make = getattr(layers, "plain_forms", None)
    return make() if make else None


def lowered(numbers: Numbers, mode: str, forms: contextlib.AbstractContextManager | None = None) -> Lowered:
    """The forward pass or the training step; ``forms`` may be ``plain_forms()``."""
    entry = numbers.entry
    module = entry.module(**({"dtype": jnp.bfloat16} if numbers.dtype == "bfloat16" else {}))
    function = forward(entry.apply, module) if mode == "forward" else training(entry.apply, module)
    variables = jax.tree.map(jnp.asarray, numbers.plan.from_torch(numbers.state))
    arguments = jax.device_put((variables, [jnp.asarray(x) for x in numbers.inputs], jax.random.key(0)))
    if forms is not None:
        jax.clear_caches()
    begin = time.perf_counter()
    with forms or contextlib.nullcontext():
        program = jax.jit(function).lower(*arguments)
    return Lowered(program, arguments, seconds=time.perf_counter() - begin)


def forward(apply: Callable[..., Any], module: layers.Module) -> Callable[..., Any]:
    """The outputs of ``module`` in eval mode."""

    def run(variables: Any, inputs: Sequence[Any], key: jax.Array) -> Any:
        return jax.tree.leaves(apply(module, variables, inputs, train=False))

    return run


def training(apply: Callable[..., Any], module: layers.Module) -> Callable[..., Any]:
    """The gradients of the parameters and of the floating point inputs, and the new statistics of a training step.

    The loss is the mean of the squares of all floating point outputs.
    """

    def run(variables: Any, inputs: Sequence[Any], key: jax.Array) -> Any:
        floating = [jnp.issubdtype(x.dtype, jnp.floating) for x in inputs]

        def loss(params: Any, floats: Sequence[Any]) -> Any:
            arrays = [f if is_float else x for is_float, f, x in zip(floating, floats, inputs, strict=True)]
            given = {**variables, "params": params}
            out, changed = apply(module, given, arrays, train=True, mutable=["batch_stats"], rngs={"dropout": key})
            floats = [leaf for leaf in jax.tree.leaves(out) if jnp.issubdtype(leaf.dtype, jnp.floating)]
            return sum(jnp.square(leaf.astype(jnp.float32)).mean() for leaf in floats), changed

        floats = [x if is_float else 0.0 for is_float, x in zip(floating, inputs, strict=True)]
        return jax.value_and_grad(loss, (0, 1), has_aux=True)(variables.get("params", {}), floats)

    return run
