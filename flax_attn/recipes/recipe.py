"""What a training recipe says: plain data, and which parameters are in which group of the optimizer."""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

from flax_attn.layers import require

Arguments = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Group:
    """A parameter group of a PyTorch optimizer.

    Args:
        name: a word for the group.
        match: a regular expression that is found in the PyTorch name of each of its parameters. None for the
            parameters that no other group takes.
        arguments: the arguments in which the group differs from the optimizer, such as ``{"lr": 1e-5}``.
    """

    name: str
    match: str | None = None
    arguments: Arguments = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How the learning rate changes.

    Args:
        name: a scheduler of ``torch.optim.lr_scheduler``, as ``flax_attn.optim`` spells it: "step_lr" for ``StepLR``.
        arguments: the arguments of the scheduler. Lengths in them are counted in ``unit``.
        unit: "epoch" or "iteration".
        every: when the rate changes: after each "epoch" or after each "iteration".
        warmup: {"length": in ``unit``, "lr": the rate at the start}, for a rate that first rises linearly; the
            scheduler begins after it. None for no warmup.
    """

    name: str
    arguments: Arguments
    unit: str = "epoch"
    every: str = "epoch"
    warmup: Arguments | None = None


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a published network was trained. What no source tells is None.

    Args:
        source: where this is from: repository, file and commit, or paper.
        optimizer: a function of ``flax_attn.optim``, such as "sgd".
        arguments: its arguments, which are those of PyTorch.
        loss: the name of a loss of ``flax_attn.losses``, or "SetCriterion".
        loss_arguments: the arguments in which the loss differs from its defaults.
        epochs, iterations: the length of the training; one of them.
        batch_size: the number of images of one step, of all devices together.
        schedule: None for a rate that stays as it is.
        groups: the parameter groups, in the order of the optimizer.
        frozen: a regular expression that is found in the PyTorch names of the parameters that are not trained. None
            when all are trained.
        augmentation: what is done to an image, in this order.
        start: the weights at the start.
        clip_norm: the largest norm of all gradients together; larger ones are scaled down to it. None for no clipping.
        ema: the decay of an average of the weights; None for no average.
        precision: "float32" or "mixed": float16 where autocast uses it.
        notes: what else one has to know.
    """

    source: str
    optimizer: str
    arguments: Arguments
    _: dataclasses.KW_ONLY
    loss: str
    loss_arguments: Arguments = dataclasses.field(default_factory=dict)
    epochs: int | None = None
    iterations: int | None = None
    batch_size: int | None = None
    schedule: Schedule | None = None
    groups: tuple[Group, ...] = (Group("all"),)
    frozen: str | None = None
    augmentation: tuple[str, ...] | None = None
    start: str | None = None
    clip_norm: float | None = None
    ema: float | None = None
    precision: str | None = None
    notes: str = ""

    def groups_of(self, names: Iterable[str]) -> list[list[str]]:
        """The names in each parameter group, in the order of ``names``. Frozen parameters are in no group.

        An optimizer of PyTorch numbers its parameters in this order: those of the first group first.

        Args:
            names: the PyTorch names of the parameters, in the order of ``model.named_parameters()``.

        Raises:
            ValueError: for a name that is in no group and not frozen, or in more than one group.
        """
        members: list[list[str]] = [[] for _ in self.groups]
        for name in names:
            if not (self.frozen and re.search(self.frozen, name)):
                members[self.group_of(name)].append(name)
        return members

    def group_of(self, name: str) -> int:
        """The index of the group that the parameter ``name`` is in, if it is not frozen.

        Raises:
            ValueError: for a name that is in no group, or in more than one.
        """
        found = [i for i, group in enumerate(self.groups) if group.match and re.search(group.match, name)]
        found = found or [i for i, group in enumerate(self.groups) if group.match is None]
        words = ", ".join(self.groups[i].name for i in found) or "none"
        require(len(found) == 1, f"groups_of: expected the parameter {name!r} in one group, got {words}")
        return found[0]
