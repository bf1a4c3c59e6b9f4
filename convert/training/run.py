"""A training that came from a PyTorch checkpoint, and how that checkpoint is laid out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import flax.linen as nn
import optax

from convert.optimizers.torch_optimizer import TorchOptimizer
from convert.schedulers.scheduler import UNKNOWN, Scheduler
from convert.state_dict import Plan
from convert.training.places import Trail
from flax_attn.optim import PlateauState
from flax_attn.training import TrainState


@dataclass(frozen=True)
class Layout:
    """How a PyTorch training checkpoint is laid out, so that it can be written again.

    Args:
        model: where the state dict of the model is.
        prefix: what its keys begin with.
        keys: its keys without the prefix, in order.
        counters: its batch counters, which have no leaf here, and their numbers.
        optimizer: where the state of the optimizer is.
        scheduler: where the state of the scheduler is; None if there is none.
        ema: where the averaged weights are; None if there are none, or if they were not asked for.
        ema_prefix: what the keys of the averaged weights begin with.
        others: what else is in the state dict of the model, outside ``prefix``.
        beside: everything else in the file, as plain values.
    """

    model: Trail = ("model",)
    prefix: str = ""
    keys: tuple[str, ...] = ()
    counters: Mapping[str, int] = field(default_factory=dict)
    optimizer: Trail = ("optimizer",)
    scheduler: Trail | None = None
    ema: Trail | None = None
    ema_prefix: str = ""
    others: Mapping[str, Any] = field(default_factory=dict)
    beside: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Run:
    """A training that came from PyTorch, or may go there.

    Args:
        state: the training state, for ``flax_attn.training.train_step`` or a loop of your own.
        optimizer: the PyTorch optimizer; its optax transformation is ``run.transformation``.
        scheduler: the PyTorch scheduler; None if there is none. Its learning rates are in the transformation.
        layout: how the PyTorch checkpoint is laid out.
    """

    module: nn.Module
    plan: Plan = field(repr=False)
    state: TrainState = field(repr=False)
    optimizer: TorchOptimizer
    scheduler: Scheduler | None = None
    layout: Layout = field(default_factory=Layout, repr=False)

    @property
    def transformation(self) -> optax.GradientTransformation:
        """The optax transformation that does the arithmetic of the PyTorch optimizer and scheduler."""
        return self.optimizer.transformation

    @property
    def beside(self) -> Mapping[str, Any]:
        """What the file has beside the model, the optimizer and the scheduler, such as "epoch" and "args"."""
        return self.layout.beside

    @property
    def dialect(self) -> str | None:
        """The name of the dialect of the keys in PyTorch; None if they are those here."""
        return self.optimizer.names.dialect and self.optimizer.names.dialect.name

    def steps(self, state: TrainState) -> int:
        """How many steps were taken here."""
        return int(state.step) - self.optimizer.step

    def counters(self, state: TrainState) -> dict[str, int]:
        """PyTorch's batch counters after the steps that were taken here."""
        return {key: count + self.steps(state) for key, count in self.layout.counters.items()}

    def torch_states(
        self, state: TrainState, plateau: PlateauState | None = None
    ) -> tuple[dict[str, Any], Scheduler | None]:
        """The state dict of the PyTorch optimizer, and the scheduler, after the steps that were taken here."""
        optimizer = self.optimizer.to_torch(state.opt_state)
        if self.scheduler is None:
            return optimizer, None
        options = [group.options for group in self.optimizer.groups]
        if self.scheduler.plateau or self.scheduler.kind == UNKNOWN:
            options = [{**own, "lr": now["lr"]} for own, now in zip(options, optimizer["param_groups"], strict=True)]
        scheduler, moved = self.scheduler.after(self.steps(state), options, plateau)
        groups = [a | b for a, b in zip(optimizer["param_groups"], moved, strict=True)]
        return {**optimizer, "param_groups": groups}, scheduler
