"""Trains a catalog entry in PyTorch and in JAX: the same numbers, batches, targets and dropout masks on both sides.

Everything that a run shows of itself is numpy's, under PyTorch's keys and in PyTorch's layout.
"""

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from convert import Plan
from convert.comparing.case import random_state
from convert.comparing.dropouts import share_dropout, torch_mask
from convert.comparing.parity import to_nchw, trace
from convert.precision import KEEP
from flax_attn.catalog import Entry, channels_first
from flax_attn.training import TrainState, train_step
from tests.helpers.walk import entry_plan

LOSS, FINAL = 1e-9, 1e-8
"""How far a loss may be off, as a share of itself; and a final array, as a share of its largest number."""

SMALL = 1e-5
"""An array all of whose numbers are a smaller share of the largest one of its kind may hold nothing but rounding: the
gradient of a bias before a BatchNorm does. Its difference is taken as a share of this number."""

FIELDS = {
    "exp_avg": "mu",
    "exp_avg_sq": "nu",
    "max_exp_avg_sq": "nu_max",
    "exp_inf": "nu",
    "momentum_buffer": "trace",
    "grad_avg": "mu",
    "sum": "sum_of_squares",
    "acc_delta": "e_x",
}
"""What PyTorch calls the state of an optimizer, and the field of the optax state that is the same."""

Arrays = dict[str, np.ndarray]
Values = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Task:
    """What both sides are given.

    Args:
        state: the parameters and statistics at the start, by their PyTorch key.
        batches: the inputs of a step, in Flax's layout; the steps go through them again and again.
        targets: for each batch what the outputs shall be: one array for each output, or the classes of the images.
        classes: whether the loss is the cross-entropy of the first output. Else it is the mean squared distance.
        masks: see ``convert.comparing.dropouts``.
    """

    entry: Entry
    plan: Plan
    state: Values
    batches: Sequence[Sequence[np.ndarray]]
    targets: Sequence[Sequence[np.ndarray]]
    classes: bool
    masks: Mapping[str, Any]

    @property
    def parameters(self) -> list[str]:
        return [row.key for row in self.plan.rows if not row.statistic]

    def loss(self, outputs: Sequence[Any], targets: Sequence[Any]) -> Any:
        """The loss of the Flax side."""
        if self.classes:
            logits = outputs[0]
            return optax.softmax_cross_entropy_with_integer_labels(logits, targets[0]).mean()
        floats = [(x, y) for x, y in zip(outputs, targets, strict=True) if jnp.issubdtype(x.dtype, jnp.floating)]
        return sum(jnp.square(x - y).mean() for x, y in floats)

    def torch_loss(self, outputs: Sequence[Any], targets: Sequence[Any]) -> Any:
        """The loss of the PyTorch side, from targets in PyTorch's layout."""
        import torch

        if self.classes:
            return torch.nn.functional.cross_entropy(outputs[0], torch.tensor(targets[0]))
        pairs = [(x, torch.tensor(y)) for x, y in zip(outputs, targets, strict=True) if x.is_floating_point()]
        return sum(torch.nn.functional.mse_loss(x, y) for x, y in pairs)


def make_task(entry: Entry, dtype: str = "float64", classes: bool = False, count: int = 4, seed: int = 0) -> Task:
    """A task with ``count`` random batches and targets."""
    plan, module, rng = entry_plan(entry), entry.module(), np.random.default_rng(seed)
    state = random_state(plan, rng, dtype)
    batches = [entry.draw(module, rng, dtype) for _ in range(count)]
    structs, masks = trace(entry, module, plan.from_torch(state, dtype=KEEP), batches[0])

    def target() -> list[np.ndarray]:
        if classes:
            return [rng.integers(0, structs[0].shape[1], structs[0].shape[0])]
        return [np.asarray(rng.normal(size=s.shape), s.dtype) for s in structs]

    targets = [target() for _ in batches]
    return Task(entry, plan, state, batches=batches, targets=targets, classes=classes, masks=masks)


def arguments(task: Task, batch: Any) -> dict[str, Any]:
    """The arguments of the Flax module for a batch, by name."""
    args, call = task.entry.arguments(batch["inputs"])
    names = inspect.signature(task.entry.makes.__call__).parameters
    return dict(zip(list(names)[1:], args, strict=False)) | call


def flax_step(task: Task, optimizer: optax.GradientTransformation) -> Callable:
    """The training step of ``flax_attn.training``, with the dropout masks of the task."""
    step = train_step(
        task.entry.module(),
        lambda outputs, batch: task.loss(jax.tree.leaves(outputs), batch["targets"]),
        optimizer,
        inputs=functools.partial(arguments, task),
    )

    def shared(state: TrainState, batch: Any) -> tuple[TrainState, Any]:
        with nn.intercept_methods(share_dropout):
            return step(state, batch)

    return shared


class FlaxRun:
    """A training in JAX.

    Args:
        state: the training state to begin with; None: that of the task before the first step.
    """

    def __init__(self, task: Task, optimizer: optax.GradientTransformation, state: TrainState | None = None) -> None:
        self.task, self.step = task, flax_step(task, optimizer)
        variables = task.plan.from_torch(task.state, dtype=KEEP)
        self.state = TrainState.create(variables, optimizer) if state is None else state

    def train(self, steps: Iterable[int]) -> list[float]:
        """The losses of the steps with these numbers; the number says which batch a step has."""
        losses = []
        for number in steps:
            inputs, targets = (x[number % len(x)] for x in (self.task.batches, self.task.targets))
            self.state, metrics = self.step(self.state, {"inputs": inputs, "targets": targets})
            losses.append(float(metrics["loss"]))
        return losses

    def state_dict(self) -> Arrays:
        """The parameters and statistics."""
        return self.task.plan.to_torch(self.state.variables)

    def optimizer_state(self, names: Iterable[str]) -> dict[str, Arrays]:
        """The parts of the optimizer's state that PyTorch calls ``names``, each by parameter."""
        return {name: self._part(name) for name in names}

    def _part(self, name: str) -> Arrays:
        if name == "step":
            counts = {int(x) for _, x in optax.tree_utils.tree_get_all_with_path(self.state.opt_state, "count")}
            assert len(counts) == 1, f"the optimizer counts its steps in two ways: {counts}"
            return dict.fromkeys(self.task.parameters, np.asarray(counts.pop()))
        found = self._field(name)
        if name == "mu_product":
            return dict.fromkeys(self.task.parameters, np.asarray(found))
        state = self.task.plan.to_torch({**self.state.variables, "params": found})
        return {key: state[key] for key in self.task.parameters}

    def _field(self, name: str) -> Any:
        fields, opt_state = ("e_g", "nu") if name == "square_avg" else (FIELDS.get(name, name),), self.state.opt_state
        found = [x for field in fields for _, x in optax.tree_utils.tree_get_all_with_path(opt_state, field)]
        assert len(found) == 1, f"the optimizer has {len(found)} fields for {name}"
        return found[0]


class TorchRun:
    """A training of the PyTorch twin.

    Args:
        optimizer: makes the optimizer from the parameters by name.
        scheduler: makes a scheduler of the learning rate from the optimizer; None: there is none.
        per_epoch: the scheduler is stepped once after so many steps.
    """

    def __init__(
        self,
        task: Task,
        optimizer: Callable[[Any], Any],
        scheduler: Callable[[Any], Any] | None = None,
        per_epoch: int = 1,
    ) -> None:
        from torch_ref import twins

        self.task, self.per_epoch, self.taken = task, per_epoch, 0
        self.module = twins.build_twin(task.entry.cls, task.entry.kwargs)
        twins.share_dropout(self.module, functools.partial(torch_mask, task.masks))
        twins.fill(self.module, task.state, next(iter(task.batches[0])).dtype.name)
        self.optimizer = optimizer(dict(self.module.named_parameters()))
        self.scheduler = scheduler(self.optimizer) if scheduler else None

    def train(self, steps: Iterable[int]) -> list[float]:
        """The same steps as those of ``FlaxRun``."""
        import torch

        from torch_ref import twins

        entry, losses = self.task.entry, []
        self.module.train()
        for number in steps:
            batch, targets = (x[number % len(x)] for x in (self.task.batches, self.task.targets))
            args, call = entry.arguments([torch.tensor(x) for x in to_nchw(entry, batch)])
            if not self.task.classes:
                targets = [channels_first(y, layout) for y, layout in zip(targets, entry.outputs, strict=True)]
            self.optimizer.zero_grad()
            loss = self.task.torch_loss(twins.leaves(self.module(*args, **call)), targets)
            loss.backward()
            self.optimizer.step()
            losses.append(loss.item())
            self.taken += 1
            if self.scheduler and self.taken % self.per_epoch == 0:
                self.scheduler.step()
        return losses

    def state_dict(self) -> Arrays:
        """The parameters and statistics."""
        state = self.module.state_dict()
        return {key: state[key].numpy().copy() for key in self.task.state}

    def optimizer_state(self) -> dict[str, Arrays]:
        """The state of the optimizer, by part and by parameter."""
        import torch

        parts: dict[str, Arrays] = {}
        for key, parameter in self.module.named_parameters():
            for name, value in self.optimizer.state[parameter].items():
                if value is not None:
                    parts.setdefault(name, {})[key] = np.array(torch.as_tensor(value).numpy())
        return parts


def worst(ours: Values, theirs: Values) -> tuple[float, str]:
    """The largest difference of two sets of arrays, and the key where it is."""
    assert ours.keys() == theirs.keys()
    least = SMALL * max((largest(array) for array in theirs.values()), default=0.0)
    return max(((off(ours[key], theirs[key], least), key) for key in theirs), default=(0.0, ""))


def off(ours: np.ndarray, theirs: np.ndarray, least: float) -> float:
    """The largest difference, as a share of the largest expected number, or of ``least`` if that is larger."""
    assert ours.shape == theirs.shape
    difference = largest(np.asarray(ours, np.float64) - theirs)
    return difference / max(largest(theirs), least) if difference else 0.0


def largest(array: np.ndarray) -> float:
    return float(np.abs(array).max(initial=0))


def off_by(losses: Sequence[float], expected: Sequence[float]) -> tuple[float, str]:
    """The largest difference of two rows of losses, as a share of the loss, and the step where it is."""
    return max((abs(a - b) / abs(b), f"step {i}") for i, (a, b) in enumerate(zip(losses, expected, strict=True)))


def differences(ours: FlaxRun, theirs: TorchRun, losses: Sequence[float], expected: Sequence[float]) -> dict[str, Any]:
    """The largest differences of two runs: in the losses, the final state and each part of the optimizer's state."""
    found = {"loss": off_by(losses, expected), "state": worst(ours.state_dict(), theirs.state_dict())}
    parts = theirs.optimizer_state()
    found |= {name: worst(part, parts[name]) for name, part in ours.optimizer_state(parts).items()}
    return found


def too_far(found: Mapping[str, tuple[float, str]]) -> list[str]:
    """A line for each of the differences that is above its tolerance."""
    allowed = {name: LOSS if name == "loss" else FINAL for name in found}
    return [
        f"{name}: off by {value:.2g} at {place}, allowed {allowed[name]:.0e}"
        for name, (value, place) in found.items()
        if not value <= allowed[name]
    ]
