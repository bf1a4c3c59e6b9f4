"""PyTorch training checkpoints <-> training states of ``flax_attn.training``."""

import os
import warnings
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from convert.arguments import require_module
from convert.checkpoint import Checkpoint, read
from convert.exported import batch_counters
from convert.files.torch_writer import save_torch
from convert.optimizer import Schedule, TorchOptimizer, names_in, optimizer_of
from convert.planning import owners_recorded
from convert.prefixes import cleaned
from convert.rules import COUNTER, dropped
from convert.state_dict import Plan, plan
from convert.tensors import as_numpy
from convert.training.grouping import Selector
from convert.training.places import at, find_place, is_optimizer, is_scheduler, put, without, writable
from convert.training.run import Layout, Run
from convert.training.scheduling import scheduler_of
from flax_attn.optim import PlateauState
from flax_attn.training import TrainState, new_ema
from flax_attn.training.ema import COUNT


def from_torch_checkpoint(
    path: str | os.PathLike,
    module: nn.Module,
    *example_inputs: Any,
    optimizer: str | None = None,
    groups: Sequence[Selector] | None = None,
    scheduler: str | None = None,
    schedules: Sequence[Schedule] | None = None,
    steps_per_epoch: int | None = None,
    step_in_epoch: int = 0,
    step: int | None = None,
    start_missing: bool = False,
    rng: Any = 0,
    ema: str | None = None,
    wrapper: str | None = None,
    optimizer_at: str | None = None,
    scheduler_at: str | None = None,
    dialect: str | None = None,
    dtype: Any = None,
    **kwargs: Any,
) -> Run:
    """Take over a PyTorch training: weights, statistics, the state of the optimizer, and the learning rate schedule.

    ``run.state`` and ``run.transformation`` go on where PyTorch stopped::

        run = from_torch_checkpoint("checkpoint.pth", module, x, steps_per_epoch=500)
        step = train_step(module, loss, run.transformation)
        state, metrics = step(run.state, batch)
        to_torch_checkpoint("back.pth", run, state)

    Args:
        path: the file, with a state dict of a model and one of an optimizer, under any keys.
        example_inputs, kwargs, dialect, dtype: as for ``from_torch``.
        optimizer: the class in ``torch.optim``, where the file does not tell: "AdamW". See ``optimizer_from_torch``.
        groups: the parameters of each group, where the file does not tell. See ``optimizer_from_torch``.
        scheduler: the class in ``torch.optim.lr_scheduler``, where the file does not tell.
        schedules: a schedule for each group, from the number of steps taken to the learning rate. It is used in place
            of the scheduler in the file. A LambdaLR needs it, because its function is not in the file.
        steps_per_epoch: how many optimizer steps PyTorch takes for each scheduler step. It is needed if the file has a
            scheduler other than ReduceLROnPlateau.
        step_in_epoch: how many optimizer steps PyTorch took after the last scheduler step.
        step, start_missing: as for ``optimizer_from_torch``.
        rng: a seed or a key, for dropout and other noise.
        ema: the keys, joined by dots, of averaged weights in the file; they become the average of the state.
        wrapper: the keys, joined by dots, of the state dict of the model, where it is not under a usual name.
        optimizer_at, scheduler_at: the same of the states of optimizer and scheduler, where there are several.

    Raises:
        CheckpointError: if the file cannot be read.
        MismatchError: if the weights or the state of the optimizer do not fit the module.
        ValueError: if there is no state of an optimizer, or if what it means cannot be known.
    """
    require_module("from_torch_checkpoint", module)
    checkpoint = read(path, wrapper)
    mapping = plan(module, *example_inputs, **kwargs)
    variables = mapping.from_torch(checkpoint.arrays, dialect, dtype)
    layout, optimizer_state, scheduler_state = layout_of(path, checkpoint, optimizer_at, scheduler_at)
    names = names_in(mapping, checkpoint.arrays, dialect)
    made, stored = optimizer_of(
        names, optimizer_state, kind=optimizer, groups=groups, step=step, start_missing=start_missing
    )
    found = None
    if schedules is not None:
        made = replace(made, schedules=schedules_of(schedules, made))
    elif scheduler_state is not None:
        found = scheduler_of(scheduler_state, scheduler, steps_per_epoch, step_in_epoch, groups=made.groups)
        made = found.attached(made)
    average, layout = averaged(path, ema, mapping, dialect=dialect, dtype=dtype, layout=layout)
    state = state_of(variables, made, made.from_torch(stored, variables["params"]), rng=rng, ema=average)
    return Run(module, mapping, state, optimizer=made, scheduler=found, layout=layout)


def to_torch_checkpoint(
    path: str | os.PathLike,
    run: Run,
    state: TrainState | None = None,
    plateau: PlateauState | None = None,
    **beside: Any,
) -> None:
    """Write a training checkpoint from which a PyTorch script goes on, in the layout of the one that was taken over.

    ``torch.load(path, weights_only=True)`` reads it. The states of optimizer and scheduler are those after the steps
    that were taken here. If anything fails, an older file at ``path`` stays as it was.

    Args:
        run: what ``from_torch_checkpoint`` or ``start_run`` gave.
        state: the present training state; that of ``run`` when None.
        plateau: the present state of a ReduceLROnPlateau.
        beside: other entries of the file, such as ``epoch=12``. Those that are not given stay what they were. Objects
            that PyTorch would have to import are left out, with a warning.

    Raises:
        CheckpointError: if the file cannot be written.
    """
    state = run.state if state is None else state
    left: list[str] = []
    tree = writable({**run.layout.beside, **beside}, left)
    if left:
        warnings.warn(f"{path}: left out, because it is no plain data: {', '.join(left)}", stacklevel=2)
    steps = int(state.step) - run.optimizer.step
    optimizer = run.optimizer.to_torch(state.opt_state)
    if run.scheduler:
        options = [group.options for group in run.optimizer.groups]
        scheduler, moved = run.scheduler.after(steps, options, plateau)
        optimizer["param_groups"] = [a | b for a, b in zip(optimizer["param_groups"], moved, strict=True)]
        tree = put(tree, run.layout.scheduler or ("lr_scheduler",), scheduler)
    tree = put(tree, run.layout.optimizer, optimizer)
    if run.layout.ema and state.ema is not None:
        average = model_state(run, state.ema_variables, steps, run.layout.ema_prefix)
        count = {COUNT: np.asarray(state.ema[COUNT], np.int64)} if COUNT in state.ema else {}
        tree = put(tree, run.layout.ema, OrderedDict(count | average))
    save_torch(path, put(tree, run.layout.model, model_state(run, state.variables, steps, run.layout.prefix)))


def start_run(
    module: nn.Module,
    variables: Mapping[str, Any],
    optimizer: TorchOptimizer,
    *example_inputs: Any,
    rng: Any = 0,
    ema: bool = False,
    **kwargs: Any,
) -> Run:
    """A training that begins here and may go on in PyTorch: ``to_torch_checkpoint`` writes it.

    Args:
        variables: what ``module.init`` or ``from_torch`` gives.
        optimizer: what ``torch_optimizer`` gives.
        example_inputs, kwargs: as for ``from_torch``.
        rng: a seed or a key, for dropout and other noise.
        ema: whether the state has an average of the weights.
    """
    require_module("start_run", module)
    with owners_recorded() as owners:
        mapping = plan(module, *example_inputs, **kwargs)
    counters = dict.fromkeys(batch_counters(mapping, owners), 0)
    keys = [key for known in mapping.keyed for key in (known, known.replace("running_var", COUNTER))]
    kept = tuple(dict.fromkeys(key for key in keys if key in mapping.keyed or key in counters))
    layout = Layout(keys=kept, counters=counters, ema=("model_ema",) if ema else None)
    state = TrainState.create(variables, optimizer.transformation, rng=rng, ema=ema)
    return Run(module, mapping, state, optimizer=optimizer, layout=layout)


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


def averaged(
    path: str | os.PathLike, ema: str | None, mapping: Plan, *, dialect: str | None, dtype: Any, layout: Layout
) -> tuple[Any, Layout]:
    """The average of the weights in a file, as ``TrainState.create`` takes it, and the layout that says where it is."""
    if ema is None:
        return False, layout
    arrays = dict(read(path, ema).arrays)
    count = arrays.pop(COUNT, None)
    bare, prefix = cleaned(arrays)
    variables = mapping.from_torch({bare[key]: value for key, value in arrays.items()}, dialect, dtype)
    average = new_ema(variables, copy_first=False) | ({} if count is None else {COUNT: jnp.int32(as_numpy(count))})
    trail = tuple(ema.split("."))
    return average, replace(layout, ema=trail, ema_prefix=prefix, beside=without(layout.beside, trail))


def state_of(variables: Mapping[str, Any], optimizer: TorchOptimizer, opt_state: Any, rng: Any, ema: Any) -> TrainState:
    """The training state at the step of ``optimizer``."""
    state = TrainState.create(variables, optax.identity(), rng=rng, ema=ema)
    return state.replace(step=jnp.int32(optimizer.step), opt_state=jax.tree.map(jnp.array, opt_state))


def model_state(run: Run, variables: Mapping[str, Any], steps: int, prefix: str) -> OrderedDict[str, Any]:
    """A state dict of the model, with the keys in PyTorch's order below ``prefix``, and the batch counters moved on."""
    dialect = run.optimizer.names.dialect
    arrays: dict[str, Any] = dict(run.plan.to_torch(variables, dialect.name if dialect else None))
    arrays |= {key: np.asarray(count + steps, np.int64) for key, count in run.layout.counters.items()}
    keys = dict.fromkeys([*(key for key in run.layout.keys if key in arrays), *arrays])
    return OrderedDict((prefix + key, arrays[key]) for key in keys)
