"""Makes a training state of what a PyTorch training checkpoint holds."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from convert.checkpoint import Checkpoint, read
from convert.errors import RefusedError
from convert.optimizer import names_in, optimizer_of
from convert.optimizers.selection import Selector
from convert.optimizers.torch_optimizer import Schedule, TorchOptimizer
from convert.rules import dropped
from convert.schedulers.scheduler import UNKNOWN, Scheduler, scheduler_of
from convert.state_dict import Plan
from convert.tensors import as_numpy
from convert.training.places import at, find_place, is_optimizer, is_scheduler, without
from convert.training.run import Layout, Run
from flax_attn.training import TrainState, new_ema
from flax_attn.training.ema import COUNT


@dataclass(frozen=True)
class Said:
    """What a user says of a training checkpoint, with the arguments of ``from_torch_checkpoint``.

    Args:
        attach: whether the learning rates of the scheduler are used. Without it, the scheduler is only kept.
    """

    optimizer: str | None = None
    groups: Sequence[Selector] | None = None
    recipe: str | None = None
    scheduler: str | None = None
    schedules: Sequence[Schedule] | None = None
    steps_per_epoch: int | None = None
    step_in_epoch: int = 0
    step: int | None = None
    start_missing: bool = False
    rng: Any = 0
    ema: str | None = None
    wrapper: str | None = None
    prefix: str | None = None
    optimizer_at: str | None = None
    scheduler_at: str | None = None
    dialect: str | None = None
    dtype: Any = None
    attach: bool = True


def run_of(path: str | os.PathLike, checkpoint: Checkpoint, module: nn.Module, mapping: Plan, said: Said) -> Run:
    """The training in ``checkpoint``, which was read from ``path``; see ``from_torch_checkpoint``."""
    variables = mapping.from_torch(checkpoint.arrays, said.dialect, said.dtype)
    layout, optimizer_state, scheduler_state = layout_of(path, checkpoint, said.optimizer_at, said.scheduler_at)
    optimizer, stored = optimizer_of(
        names_in(mapping, checkpoint.arrays, said.dialect),
        optimizer_state,
        kind=said.optimizer,
        groups=said.groups,
        recipe=said.recipe,
        step=said.step,
        start_missing=said.start_missing,
    )
    optimizer, scheduler = scheduled(optimizer, scheduler_state, said)
    average, layout = averaged(path, said, mapping, layout)
    if said.prefix:
        whole = read(path, said.wrapper, prefix="").arrays
        layout = replace(layout, others={key: x for key, x in whole.items() if not key.startswith(said.prefix)})
    opt_state = optimizer.from_torch(stored, variables["params"])
    state = state_of(variables, optimizer, opt_state, rng=said.rng, ema=average)
    return Run(module, mapping, state, optimizer=optimizer, scheduler=scheduler, layout=layout)


def scheduled(
    optimizer: TorchOptimizer, state: Mapping[str, Any] | None, said: Said
) -> tuple[TorchOptimizer, Scheduler | None]:
    """The optimizer with its learning rates, and the scheduler in the file, whose state dict is ``state``."""
    period, begun = said.steps_per_epoch, said.step_in_epoch
    unknown = None if state is None else Scheduler(UNKNOWN, state, period, step_in_epoch=begun)
    if said.schedules is not None:
        return replace(optimizer, schedules=schedules_of(said.schedules, optimizer)), unknown
    if state is None:
        return optimizer, None
    try:
        scheduler = scheduler_of(state, said.scheduler, period, begun, groups=optimizer.groups)
    except RefusedError:
        if said.attach:
            raise
        return optimizer, unknown
    return scheduler.attached(optimizer) if said.attach else optimizer, scheduler


def layout_of(
    path: str | os.PathLike, checkpoint: Checkpoint, optimizer_at: str | None, scheduler_at: str | None
) -> tuple[Layout, Mapping[str, Any], Mapping[str, Any] | None]:
    """The layout of a training checkpoint, and the state dicts of its optimizer and of its scheduler."""
    extras = checkpoint.extras
    optimizer = find_place(extras, is_optimizer, "an optimizer", option="optimizer_at", spelled=optimizer_at)
    scheduler = find_place(extras, is_scheduler, "a scheduler", option="scheduler_at", spelled=scheduler_at)
    if optimizer is None:
        there = ", ".join(map(str, extras)) or "nothing"
        raise ValueError(
            f"{path}: expected the state of an optimizer beside the weights, found {there}; without one, from_torch "
            "takes over the weights alone"
        )
    beside = without(extras, optimizer)
    beside = without(beside, scheduler) if scheduler else beside
    layout = Layout(
        model=tuple((checkpoint.wrapper or "").split(".")) if checkpoint.wrapper else (),
        prefix=checkpoint.prefix,
        keys=tuple(checkpoint.arrays),
        counters={key: int(as_numpy(value)) for key, value in checkpoint.arrays.items() if dropped(key)},
        optimizer=optimizer,
        scheduler=scheduler,
        beside=beside,
    )
    return layout, at(extras, optimizer), at(extras, scheduler) if scheduler else None


def schedules_of(schedules: Sequence[Schedule], optimizer: TorchOptimizer) -> Sequence[Schedule]:
    """A schedule for each group; ValueError if there are too many or too few, or if one is no function."""
    groups = len(optimizer.groups)
    if not isinstance(schedules, Sequence) or len(schedules) != groups or not all(map(callable, schedules)):
        raise ValueError(
            f"schedules: expected a list of {groups} functions from the number of steps to the learning rate, one for "
            f"each group, got {schedules!r:.80}"
        )
    return schedules


def averaged(path: str | os.PathLike, said: Said, mapping: Plan, layout: Layout) -> tuple[Any, Layout]:
    """The average of the weights in a file, as ``TrainState.create`` takes it, and the layout that says where it is."""
    if said.ema is None:
        return False, layout
    checkpoint, trail = read(path, said.ema), tuple(said.ema.split("."))
    variables = mapping.from_torch(checkpoint.arrays, said.dialect, said.dtype)
    count = at(layout.beside, trail).get(COUNT)
    average = new_ema(variables, copy_first=False) | ({} if count is None else {COUNT: jnp.int32(as_numpy(count))})
    beside = without(layout.beside, trail)
    return average, replace(layout, ema=trail, ema_prefix=checkpoint.prefix, beside=beside)


def state_of(variables: Mapping[str, Any], optimizer: TorchOptimizer, opt_state: Any, rng: Any, ema: Any) -> TrainState:
    """The training state at the step of ``optimizer``."""
    state = TrainState.create(variables, optax.identity(), rng=rng, ema=ema)
    return state.replace(step=jnp.int32(optimizer.step), opt_state=jax.tree.map(jnp.array, opt_state))
