"""PyTorch training checkpoints <-> training states of ``flax_attn.training``."""

import os
import warnings
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import numpy as np

from convert.arguments import require_module
from convert.checkpoint import read
from convert.exported import batch_counters
from convert.files.torch_writer import save_torch
from convert.optimizers.selection import Selector
from convert.optimizers.torch_optimizer import Schedule, TorchOptimizer
from convert.planning import owners_recorded
from convert.rules import COUNTER
from convert.state_dict import plan
from convert.training.places import put, writable
from convert.training.reading import Said, run_of
from convert.training.run import Layout, Run
from flax_attn.optim import PlateauState
from flax_attn.training import TrainState
from flax_attn.training.ema import COUNT


def from_torch_checkpoint(
    path: str | os.PathLike,
    module: nn.Module,
    *example_inputs: Any,
    optimizer: str | None = None,
    groups: Sequence[Selector] | None = None,
    recipe: str | None = None,
    scheduler: str | None = None,
    schedules: Sequence[Schedule] | None = None,
    steps_per_epoch: int | None = None,
    step_in_epoch: int = 0,
    step: int | None = None,
    start_missing: bool = False,
    rng: Any = 0,
    ema: str | None = None,
    wrapper: str | None = None,
    prefix: str | None = None,
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
        recipe: the name of a published network, such as "detr_resnet50", whose published optimizer and groups it has
            where neither the file nor an argument tells.
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
        prefix: take only the keys of the model that begin with this text, and remove it from them. The other keys are
            kept for ``to_torch_checkpoint``.
        optimizer_at, scheduler_at: where the states of optimizer and scheduler are, where there are several.

    Raises:
        CheckpointError: if the file cannot be read.
        MismatchError: if the weights or the state of the optimizer do not fit the module.
        ValueError: if there is no state of an optimizer, or if what it means cannot be known.
    """
    require_module("from_torch_checkpoint", module)
    if "replace" in kwargs:
        raise ValueError(
            "from_torch_checkpoint: expected no replace, because the optimizer in the file has no state for a new "
            "leaf, got one; pass it to from_torch(module, read(path), ...), and make a new optimizer"
        )
    said = Said(
        optimizer=optimizer,
        groups=groups,
        recipe=recipe,
        scheduler=scheduler,
        schedules=schedules,
        steps_per_epoch=steps_per_epoch,
        step_in_epoch=step_in_epoch,
        step=step,
        start_missing=start_missing,
        rng=rng,
        ema=ema,
        wrapper=wrapper,
        prefix=prefix,
        optimizer_at=optimizer_at,
        scheduler_at=scheduler_at,
        dialect=dialect,
        dtype=dtype,
    )
    return run_of(path, read(path, wrapper, prefix), module, mapping=plan(module, *example_inputs, **kwargs), said=said)


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
    optimizer, scheduler = run.torch_states(state, plateau)
    tree = put(tree, run.layout.optimizer, optimizer)
    if scheduler:
        tree = put(tree, run.layout.scheduler or ("lr_scheduler",), scheduler.state)
    if run.layout.ema and state.ema is not None:
        average = model_state(run, state, state.ema_variables, run.layout.ema_prefix)
        count = {COUNT: np.asarray(state.ema[COUNT], np.int64)} if COUNT in state.ema else {}
        tree = put(tree, run.layout.ema, OrderedDict(count | average))
    model = model_state(run, state, state.variables, run.layout.prefix)
    save_torch(path, put(tree, run.layout.model, OrderedDict({**model, **run.layout.others})))


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


def model_state(run: Run, state: TrainState, variables: Mapping[str, Any], prefix: str) -> OrderedDict[str, Any]:
    """A state dict of the model, with the keys in PyTorch's order below ``prefix``, and the batch counters moved on."""
    arrays: dict[str, Any] = dict(run.plan.to_torch(variables, run.dialect))
    arrays |= {key: np.asarray(count, np.int64) for key, count in run.counters(state).items()}
    keys = dict.fromkeys([*(key for key in run.layout.keys if key in arrays), *arrays])
    return OrderedDict((prefix + key, arrays[key]) for key in keys)
