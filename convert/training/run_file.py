"""A training that came from PyTorch, in one safetensors file of ours.

The arrays are the variables under keys such as "params/fc/kernel", those of the average below "ema/", and what the
PyTorch optimizer would store, in its layout, under keys such as "optimizer/exp_avg/fc.weight". The rest is JSON in the
metadata.
"""

import json
import operator
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util

from convert.checkpoint import read
from convert.dialects import find_dialect
from convert.errors import RefusedError, damage, name_file
from convert.exported import export_of
from convert.optimizer import optimizer_of
from convert.optimizers.groups import Stored
from convert.optimizers.names import names_of
from convert.optimizers.torch_optimizer import Schedule, TorchOptimizer
from convert.planning import COLLECTIONS
from convert.schedulers.scheduler import UNKNOWN, Scheduler, scheduler_of
from convert.state_dict import Plan, plan
from convert.training.reading import schedules_of, state_of
from convert.training.run import Layout, Run
from convert.variables_file import about, module_in
from convert.writing.leaves import flat
from convert.writing.safetensors_writer import DTYPES, write_safetensors
from flax_attn.optim import PlateauState
from flax_attn.training import TrainState

KEY = "run"
"""The entry of the metadata that holds the JSON."""

BROKEN = (LookupError, TypeError, AttributeError, ArithmeticError, RecursionError, MemoryError, ValueError)
"""What the values in a damaged file may cause."""

Tree = dict[str, Any]


def save_run(
    path: str | os.PathLike, run: Run, state: TrainState | None = None, plateau: PlateauState | None = None
) -> None:
    """Write a training to one safetensors file, from which ``restore_run`` goes on.

    What PyTorch's checkpoint had beside the model, the optimizer and the scheduler is kept where JSON can hold it. So
    is the module; where JSON cannot hold its arguments, ``restore_run`` must be given the module. If anything fails, an
    older file at ``path`` stays as it was.

    Args:
        run: what ``from_torch_checkpoint`` or ``start_run`` gave.
        state: the present training state; that of ``run`` when None.
        plateau: the present state of a ReduceLROnPlateau.

    Raises:
        CheckpointError: if the file cannot be written.
    """
    state = run.state if state is None else state
    optimizer, scheduler = run.torch_states(state, plateau)
    arrays = {"optimizer": _by_slot(optimizer["state"], [key for group in run.optimizer.groups for key in group.keys])}
    arrays |= {"others": dict(run.layout.others)} if run.layout.others else {}
    arrays |= {"rng": jax.random.key_data(state.rng)} | ({} if state.ema is None else {"ema": state.ema})
    facts = {
        "kind": run.optimizer.kind.name,
        "groups": optimizer["param_groups"],
        "keys": [group.keys for group in run.optimizer.groups],
        "frozen": [key for key, label in run.optimizer.labels.items() if label is None],
        "step": int(state.step),
        "shapes": list(run.optimizer.names.shapes.items()),
        "dialect": run.dialect,
        "rng": str(jax.random.key_impl(state.rng)),
        "scheduler": scheduler and {**vars(scheduler), "plateau": None},
        "layout": {**vars(run.layout), "others": {}, "counters": run.counters(state)},
    }
    with name_file(path, "could not be written"):
        leaves, metadata = flat({**state.variables, **arrays}, DTYPES, "safetensors"), about(None)
        with suppress(RefusedError):
            metadata = about(run.module)
        write_safetensors(path, leaves, {**metadata, KEY: json.dumps(_json(facts))})


def restore_run(
    path: str | os.PathLike,
    *example_inputs: Any,
    steps_per_epoch: int | None = None,
    schedules: Sequence[Schedule] | None = None,
    module: nn.Module | None = None,
    cls: type | Sequence[type] = (),
    **kwargs: Any,
) -> Run:
    """The training in a file that ``save_run`` or ``flax-attn-convert convert --with-optimizer`` wrote.

    Args:
        example_inputs, kwargs: as for ``from_torch``; not needed for a module of this package.
        steps_per_epoch: how many optimizer steps PyTorch takes for each scheduler step, where the file does not say.
        schedules: as for ``from_torch_checkpoint``.
        module: the module; None: it is built from what the file says of it.
        cls: the class of the module, or several classes, if they are not of this package.

    Raises:
        CheckpointError: if the file is damaged, or is another file.
        MismatchError: if the variables in the file do not fit the module.
        ValueError: if the file has a scheduler, and it is not said how often PyTorch steps it.
    """
    checkpoint = read(path)
    with name_file(path, "could not be read"):
        if KEY not in checkpoint.metadata:
            raise RefusedError("expected a training that save_run or convert --with-optimizer wrote, got another file")
        with damage(*BROKEN):
            facts, tree = json.loads(checkpoint.metadata[KEY]), _tree(checkpoint.arrays)
            variables: Tree = {name: tree[name] for name in COLLECTIONS if name in tree}
            layout = replace(_layout(facts["layout"]), others=tree.get("others", {}))
        module = module_in(checkpoint.metadata, cls) if module is None else module
    own = {key: array for key, array in checkpoint.arrays.items() if key.partition("/")[0] in variables}
    mapping = plan(module, *example_inputs, **kwargs) if example_inputs else export_of(module, own).plan
    mapping.to_torch(variables)
    with name_file(path, "could not be read"):
        with damage(*BROKEN):
            optimizer, stored = _optimizer(facts, tree.get("optimizer", {}), mapping)
            scheduler = _scheduler(facts["scheduler"], steps_per_epoch, optimizer, schedules is not None)
            rng, ema = jax.random.wrap_key_data(jnp.array(tree["rng"]), impl=str(facts["rng"])), _ema(tree, mapping)
        if schedules is not None:
            optimizer = replace(optimizer, schedules=schedules_of(schedules, optimizer))
        elif scheduler:
            scheduler.require_known()
            with damage(*BROKEN):
                optimizer = scheduler.attached(optimizer)
        with damage(*BROKEN):
            opt_state = optimizer.from_torch(stored, variables["params"])
    state = state_of(variables, optimizer, opt_state, rng=rng, ema=ema)
    return Run(module, mapping, state, optimizer=optimizer, scheduler=scheduler, layout=layout)


def _optimizer(facts: Tree, slots: Mapping[str, Tree], mapping: Plan) -> tuple[TorchOptimizer, Stored]:
    """The optimizer, and what it stores for each parameter."""
    shapes, dialect = {key: tuple(shape) for key, shape in facts["shapes"]}, facts["dialect"]
    names = names_of(mapping, shapes, dialect and find_dialect(dialect))
    if dialect is None and (odd := [key for key in names.order if shapes[key] != mapping.shapes[key]]):
        raise ValueError(f"other shapes of {', '.join(odd)}")
    keys = [list(own) for own in facts["keys"]]
    optimizer, stored = optimizer_of(
        names,
        _optimizer_state(facts, slots),
        kind=str(facts["kind"]),
        groups=keys,
        step=operator.index(facts["step"]),
        start_missing=True,
    )
    return replace(optimizer, labels={**optimizer.labels, **dict.fromkeys(facts["frozen"])}), stored


def _scheduler(
    facts: Tree | None, steps_per_epoch: int | None, optimizer: TorchOptimizer, is_replaced: bool
) -> Scheduler | None:
    if facts is None:
        return None
    period = facts["steps_per_epoch"] if steps_per_epoch is None else steps_per_epoch
    if is_replaced or facts["kind"] == UNKNOWN:
        return Scheduler(UNKNOWN, {**facts["state"]}, period, step_in_epoch=facts["step_in_epoch"])
    return scheduler_of(facts["state"], facts["kind"], period, facts["step_in_epoch"], groups=optimizer.groups)


def _ema(tree: Tree, mapping: Plan) -> Tree | bool:
    """The average in a file, which has the leaves of the variables; False if there is none."""
    if "ema" not in tree:
        return False
    mapping.to_torch({name: tree["ema"][name] for name in COLLECTIONS if name in tree})
    return {"batch_stats": {}, **tree["ema"]}


def _by_slot(states: Mapping[int, Tree], keys: Sequence[str]) -> Tree:
    """What the optimizer stores, by its name and the key of the parameter."""
    slots: Tree = {}
    for i, stored in states.items():
        for slot, value in stored.items():
            slots.setdefault(slot, {})[keys[i]] = value
    return slots


def _optimizer_state(facts: Tree, slots: Mapping[str, Tree]) -> Tree:
    """The inverse of ``_by_slot``: the state dict of the optimizer."""
    numbers = {key: i for i, key in enumerate(key for keys in facts["keys"] for key in keys)}
    states: dict[int, Tree] = {}
    for slot, values in slots.items():
        for key, value in values.items():
            states.setdefault(numbers[key], {})[slot] = value
    return {"state": states, "param_groups": facts["groups"]}


def _tree(arrays: Mapping[str, Any]) -> Tree:
    """The arrays as nested dicts. The keys below "optimizer" are names of PyTorch."""
    return traverse_util.unflatten_dict({tuple(key.split("/")): array for key, array in arrays.items()})


def _layout(facts: Tree) -> Layout:
    """The layout in the JSON, whose lists were tuples. TypeError for other values than those of a layout."""
    for name, kind in {"prefix": str, "ema_prefix": str, "counters": dict, "beside": dict}.items():
        if not isinstance(facts[name], kind):
            raise TypeError(f"{name}: {facts[name]!r:.40}")
    trails = {
        name: facts[name] for name in ("model", "optimizer", "scheduler", "ema", "keys") if facts[name] is not None
    }
    if not all(isinstance(key, str | int) for trail in trails.values() for key in trail):
        raise TypeError("a key that is no text and no number")
    counters = {key: int(count) for key, count in facts["counters"].items()}
    return Layout(**{**facts, "counters": counters, **{name: tuple(trail) for name, trail in trails.items()}})


def _json(value: Any) -> Any:
    """``value`` as JSON has it, without arrays and inert objects in what lies beside the model."""
    if isinstance(value, Mapping):
        return {str(key): _json(item) for key, item in value.items() if _is_plain(item)}
    if isinstance(value, list | tuple):
        return [_json(item) for item in value if _is_plain(item)]
    return value


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | Mapping | list | tuple)
