"""The scheduler in a PyTorch training checkpoint, as the schedules of an optimizer here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from convert.optimizers.groups import Group
from convert.optimizers.torch_optimizer import TorchOptimizer
from convert.schedulers.schedules import momentum_of, moves_momentum, plateau_after, plateau_of, schedule_of
from convert.schedulers.steps import prepared, stepped
from flax_attn.optim import PlateauState, ReduceLROnPlateau

PLATEAU = "ReduceLROnPlateau"

UNKNOWN = "unknown"
"""The kind of a scheduler whose learning rates the user gives as schedules. Its state is only counted on."""


@dataclass(frozen=True)
class Scheduler:
    """A scheduler of PyTorch.

    Args:
        kind: the class in ``torch.optim.lr_scheduler``, or ``UNKNOWN``.
        state: its state dict.
        steps_per_epoch: PyTorch steps the scheduler once after so many steps of the optimizer; None: not known.
        step_in_epoch: so many steps of the optimizer were taken after the last step of the scheduler.
        plateau: for a ReduceLROnPlateau, what steps it, and its state; else None.
    """

    kind: str
    state: Mapping[str, Any]
    steps_per_epoch: int | None = None
    step_in_epoch: int = 0
    plateau: tuple[ReduceLROnPlateau, PlateauState] | None = None

    def attached(self, optimizer: TorchOptimizer) -> TorchOptimizer:
        """``optimizer`` with the learning rates of this scheduler. ValueError if nobody has said how often it steps."""
        if self.plateau:
            return replace(optimizer, adjustable=True)
        self.require_known()
        about: dict[str, Any] = dict(
            kind=self.kind,
            steps_per_epoch=self.steps_per_epoch,
            count=optimizer.step,
            step_in_epoch=self.step_in_epoch,
            groups=[group.options for group in optimizer.groups],
        )
        momentums = momentum_of(self.state, **about) if moves_momentum(self.kind, self.state) else None
        return replace(optimizer, schedules=schedule_of(self.state, **about, lr_only=True), momentums=momentums)

    def require_known(self) -> None:
        """ValueError if the learning rates cannot be known: nobody has said how often PyTorch steps this scheduler."""
        if self.kind == UNKNOWN:
            raise ValueError(
                "the file does not tell the learning rates of its scheduler; pass schedules, for each group a function "
                "from the number of steps to the learning rate"
            )
        if self.steps_per_epoch is None and not self.plateau:
            raise ValueError(
                f"the file has the scheduler {self.kind}, and does not say how often PyTorch steps it; pass "
                "steps_per_epoch, the number of optimizer steps for each scheduler step: 1 if the scheduler is stepped "
                "after each batch, the number of batches if it is stepped after each epoch"
            )

    def after(
        self, steps: int, groups: Sequence[Mapping[str, Any]], plateau: PlateauState | None
    ) -> tuple["Scheduler", list[dict[str, Any]]]:
        """The scheduler, and the options of each group, ``steps`` steps of the optimizer later."""
        if self.plateau:
            present = plateau or self.plateau[1]
            lrs = [float(lr) for lr in np.atleast_1d(present.lr)] if plateau else [group["lr"] for group in groups]
            state = plateau_after(self.state, present)
            after = replace(self, state=state, plateau=(self.plateau[0], present))
            return after, [{**group, "lr": lr} for group, lr in zip(groups, lrs, strict=True)]
        taken, period = steps + self.step_in_epoch, self.steps_per_epoch
        if not steps or period is None:
            return self, [dict(group) for group in groups]
        if self.kind == UNKNOWN:
            counters = [name for name in ("last_epoch", "_step_count") if name in self.state]
            counts = {name: self.state[name] + taken // period for name in counters}
            state = {**self.state, **counts, "_last_lr": [group["lr"] for group in groups]}
            return replace(self, state=state, step_in_epoch=taken % period), [dict(group) for group in groups]
        state, moved = stepped(self.state, groups, taken // period, self.kind)
        return replace(self, state=state, step_in_epoch=taken % period), moved


def scheduler_of(
    state: Mapping[str, Any], kind: str | None, steps_per_epoch: int | None, step_in_epoch: int, groups: Sequence[Group]
) -> Scheduler:
    """The scheduler with this state dict.

    Raises:
        ValueError: if it is of a class that is unknown, or that depends on more than the step.
    """
    name, state = prepared(state, kind)
    if name == PLATEAU:
        plateau = plateau_of(state, [group.options for group in groups])
        return Scheduler(name, state, plateau=plateau)
    return Scheduler(name, state, steps_per_epoch, step_in_epoch=step_in_epoch)
