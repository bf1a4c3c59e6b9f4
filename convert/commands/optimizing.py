"""The options of the command ``convert`` that keep the state of the optimizer beside the variables."""

import argparse

from convert.writing.formats import Format


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
