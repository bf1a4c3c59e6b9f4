"""What ``convert --with-optimizer`` does. It imports optax, and so is imported only where the option is given."""

import argparse
from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from convert.checkpoint import Checkpoint
from convert.optimizers.kinds import ADAM, ADAMW, DECOUPLED
from convert.schedulers.scheduler import PLATEAU, UNKNOWN
from convert.state_dict import Plan
from convert.training.reading import Said, run_of
from convert.training.run import Run
from convert.training.run_file import save_run
from flax_attn.catalog import Entry, Published
from flax_attn.recipes import RECIPES


def write_training(
    options: argparse.Namespace, entry: Entry, *, module: nn.Module, mapping: Plan, checkpoint: Checkpoint
) -> dict[str, Any]:
    """Write variables and the state of the optimizer to a file, and return what was found, as plain values."""
    said = Said(
        optimizer=options.optimizer,
        groups=options.group or None,
        recipe=name if isinstance(entry, Published) and (name := entry.cls.__name__) in RECIPES else None,
        steps_per_epoch=options.steps_per_epoch,
        dialect=options.dialect,
        dtype=options.dtype,
        attach=False,
    )
    run = run_of(options.file, checkpoint, module, mapping=mapping, said=said)
    save_run(options.out, run)
    return {
        "optimizer": run.optimizer.kind.name,
        "groups": [len(group.keys) for group in run.optimizer.groups],
        "step": run.optimizer.step,
        "assumed": assumed(options, run),
        "frozen": [key for key, label in run.optimizer.labels.items() if label is None],
        "scheduler": run.scheduler.kind if run.scheduler else None,
        "steps_per_epoch": options.steps_per_epoch,
    }


def assumed(options: argparse.Namespace, run: Run) -> str:
    """What the published training was believed for; empty if the file or the options tell everything."""
    groups = [group.options for group in run.optimizer.groups]
    decays = any(group.get("weight_decay") for group in groups) and not all(DECOUPLED in group for group in groups)
    if options.optimizer or run.optimizer.kind not in (ADAM, ADAMW) or not decays:
        return ""
    return f"{run.optimizer.kind.name}, as in the published training, because Adam and AdamW look the same in this file"


def said_of(training: Mapping[str, Any]) -> list[str]:
    """What was found of a training, as lines of text."""
    groups, frozen = training["groups"], len(training["frozen"])
    sizes = " and ".join(map(str, groups))
    lines = [
        f"optimizer {training['optimizer']}: {len(groups)} group{'s' * (len(groups) > 1)} of {sizes} parameters, "
        f"{frozen} frozen, after {training['step']} steps"
    ]
    if training["assumed"]:
        lines.append(f"assumed: {training['assumed']}; name the other with --optimizer")
    if kind := training["scheduler"]:
        lines.append(f"scheduler {kind}: {next_to_do(kind, training['steps_per_epoch'])}")
    return lines


def next_to_do(scheduler: str, steps_per_epoch: int | None) -> str:
    """What a user has to know of a scheduler in order to go on."""
    if scheduler == UNKNOWN:
        return "its learning rates are not in the file; pass schedules to restore_run"
    if scheduler == PLATEAU:
        return "run.scheduler.plateau steps it"
    return f"stepped every {steps_per_epoch} steps" if steps_per_epoch else "pass steps_per_epoch to restore_run"
