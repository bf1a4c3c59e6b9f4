"""The option ``--with-optimizer`` of the command ``convert``: the state of the optimizer beside the variables."""

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
from convert.writing.formats import Format
from flax_attn.catalog import Entry, Published
from flax_attn.recipes import RECIPES


def add_optimizer(command: argparse.ArgumentParser) -> None:
    """Add the options that say what to do with the state of the optimizer."""
    command.add_argument(
        "--with-optimizer",
        action="store_true",
        help="write also the states of the optimizer and the scheduler in the file; convert.restore_run reads them",
    )
    command.add_argument(
        "--optimizer", metavar="NAME", help="the class in torch.optim, where the file does not tell, such as AdamW"
    )
    command.add_argument(
        "--group",
        action="append",
        default=[],
        metavar="REGEX",
        help="where the file does not tell: a regular expression that is found in the keys of the parameters of a "
        "group, such as ^backbone; given once for each group, in their order",
    )
    command.add_argument(
        "--steps-per-epoch",
        type=int,
        metavar="N",
        help="how many steps of the optimizer PyTorch takes for each step of the scheduler",
    )


def check_options(options: argparse.Namespace, form: Format) -> None:
    """ValueError for options that do not go together."""
    if not options.with_optimizer:
        if options.optimizer or options.group or options.steps_per_epoch is not None:
            raise ValueError("--optimizer, --group and --steps-per-epoch need --with-optimizer")
        return
    if options.steps_per_epoch is not None and options.steps_per_epoch < 1:
        raise ValueError(f"--steps-per-epoch: expected 1 or more, got {options.steps_per_epoch}")
    if form.name != "safetensors":
        raise ValueError(f"--with-optimizer writes safetensors, got the format {form.name}; name the file .safetensors")
    if options.replace:
        raise ValueError("--with-optimizer and --replace do not go together: a new leaf has no state of an optimizer")


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
    """What was found of a training, as lines of text; none if nothing was asked for."""
    if not training:
        return []
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
