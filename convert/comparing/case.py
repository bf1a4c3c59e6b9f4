"""What the Flax module and the torch module of a comparison are both given, and what a run of one of them gives."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import numpy as np
from jax.typing import DTypeLike

from convert.precision import is_floating
from convert.state_dict import Plan, Variables
from flax_attn.catalog import channels_first, channels_last

Step = dict[str, np.ndarray]
"""Results of one forward and backward pass: "output 0", "gradient of fc.0.weight", "gradient of input 0",
"bn1.running_mean", ..."""

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
    state = {
        row.key: random_array(row.key, row.torch_shape, rng).astype(dtype if is_floating(row.dtype) else row.dtype)
        for row in rows
    }
    return state | {key: state[row.key] for key, row in plan.aliases.items()}


@dataclass(frozen=True)
class Case:
    """A Flax module, and the numbers that it and a torch module are given.

    The numbers are numpy's, inputs and cotangents in Flax's layout.

    Args:
        arguments: makes the positional and the keyword arguments of the call from one array for each input.
        inputs: the layout of each input, as the catalog spells it.
        outputs: the layout of each output, in the order of the flattened result.
        names: what each output is called in a step.
        state: all parameters and statistics by their PyTorch key.
        batches: the inputs of each step.
        cotangents: the factor of each output in the loss; those of outputs that are no floats are not used.
        takes_train: whether the call of ``module`` has an argument ``train``.
    """

    module: nn.Module
    plan: Plan
    arguments: Callable[[Sequence[Any]], tuple[Sequence[Any], Mapping[str, Any]]]
    inputs: Sequence[str]
    outputs: Sequence[str]
    names: Sequence[str]
    state: Mapping[str, np.ndarray]
    batches: Sequence[Sequence[np.ndarray]]
    cotangents: Sequence[np.ndarray]
    takes_train: bool = True

    @property
    def statistics(self) -> list[str]:
        """The keys of the running statistics."""
        return [row.key for row in self.plan.rows if row.path[0] == "batch_stats"]

    @property
    def parameters(self) -> list[str]:
        """The keys of the parameters."""
        return [row.key for row in self.plan.rows if row.path[0] == "params"]

    def apply(self, variables: Variables, arrays: Sequence[Any], train: bool, mutable: Sequence[str]) -> Any:
        """The result of ``module.apply`` on one array for each input."""
        args, call = self.arguments(arrays)
        mode: dict[str, Any] = {"train": train} if self.takes_train else {}
        return self.module.apply(variables, *args, **call, **mode, mutable=mutable)

    def to_torch(self, inputs: Iterable[Any]) -> list[np.ndarray]:
        """The inputs in PyTorch's layout."""
        return [channels_first(x, layout) for x, layout in zip(inputs, self.inputs, strict=True)]

    def from_torch(self, outputs: Iterable[Any]) -> list[np.ndarray]:
        """The outputs of the torch module in Flax's layout."""
        return [channels_last(x, layout) for x, layout in zip(outputs, self.outputs, strict=True)]

    def named(self, results: Iterable[Any], params: Step, inputs: Mapping[int, Any], statistics: Step) -> Step:
        """The outputs, gradients and statistics of a step by name."""
        step = dict(zip(self.names, results, strict=True))
        step |= {f"gradient of {key}": x for key, x in params.items()}
        step |= {f"gradient of input {i}": x for i, x in inputs.items()}
        return {name: np.asarray(array) for name, array in (step | statistics).items()}


def outputs(step: Step) -> Step:
    """The outputs of ``step``."""
    return {name: array for name, array in step.items() if name.partition(" ")[0] == "output"}


def gradients(step: Step) -> Step:
    """The gradients of ``step``, of parameters and of inputs."""
    return {name: array for name, array in step.items() if name.startswith("gradient of ")}


def largest_gradient(step: Step) -> float:
    """The largest magnitude in the gradients of ``step``."""
    return max((float(np.abs(g).max(initial=0)) for g in gradients(step).values()), default=0.0)


def rate(step: Step) -> float:
    """The learning rate at which no parameter moves further than ``LENGTH``."""
    return LENGTH / max(1.0, largest_gradient(step))
