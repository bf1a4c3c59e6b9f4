"""PyTorch's ReduceLROnPlateau as a pure function.

Its learning rate depends on a metric, so no function of the count can be it. A training loop keeps a small state beside
the one of the optimizer, and sets the learning rate between two epochs::

    optimizer = optax.inject_hyperparams(sgd)(lr=0.1)
    plateau = ReduceLROnPlateau(patience=5)
    plateau_state = plateau.init(0.1)
    for epoch in range(epochs):
        ...  # an epoch of training with ``opt_state``, then ``loss`` on the validation data
        plateau_state = plateau.step(plateau_state, loss)
        opt_state = optax.tree_utils.tree_set(opt_state, lr=plateau_state.lr)
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from flax_attn.layers.module import require
from flax_attn.optim.lr_scheduler.ratios import Number, real


class PlateauState(NamedTuple):
    """What ReduceLROnPlateau remembers: the fields of PyTorch's class, as scalar arrays.

    ``lr`` is the present learning rate. It is an array (groups,) for an optimizer with several groups.
    """

    lr: Array
    best: Array
    num_bad_epochs: Array
    cooldown_counter: Array
    last_epoch: Array


@dataclasses.dataclass(frozen=True)
class ReduceLROnPlateau:
    """PyTorch's ``ReduceLROnPlateau``: multiplies the learning rate by ``factor`` when a metric gets no better.

    Args:
        mode: ``"min"`` if a smaller metric is better, else ``"max"``.
        patience: so many epochs in a row may be no better.
        threshold: so much better an epoch must be; a share of the best metric if ``threshold_mode`` is ``"rel"``.
        cooldown: so many epochs after a reduction do not count.
        min_lr: the learning rate goes no lower; a tuple has a number for each group.
        eps: a smaller reduction than this is left out.

    Shapes: a metric is a scalar; the learning rates are a scalar or (groups,).

    Raises:
        ValueError: ``factor`` is not below 1, ``mode`` or ``threshold_mode`` is unknown.

    Source: ``torch.optim.lr_scheduler.ReduceLROnPlateau``.
    """

    mode: Literal["min", "max"] = "min"
    factor: Number = 0.1
    patience: int = 10
    threshold: Number = 1e-4
    threshold_mode: Literal["rel", "abs"] = "rel"
    cooldown: int = 0
    min_lr: Number | tuple[Number, ...] = 0.0
    eps: Number = 1e-8

    def __post_init__(self) -> None:
        """Check the arguments."""
        who = type(self).__name__
        require(self.factor < 1, f"{who}: expected factor to be below 1, got {self.factor}")
        require(self.mode in ("min", "max"), f"{who}: expected mode 'min' or 'max', got {self.mode!r}")
        known = self.threshold_mode in ("rel", "abs")
        require(known, f"{who}: expected threshold_mode 'rel' or 'abs', got {self.threshold_mode!r}")

    def init(self, lr: ArrayLike | Sequence[Number]) -> PlateauState:
        """The state before the first epoch, for an optimizer with the learning rate ``lr``, or one for each group."""
        zero = jnp.zeros((), dtype=jnp.int32)
        worst = real(math.inf if self.mode == "min" else -math.inf)
        return PlateauState(real(jnp.asarray(lr)), worst, num_bad_epochs=zero, cooldown_counter=zero, last_epoch=zero)

    def better(self, metric: Array, best: Array) -> Array:
        """Whether ``metric`` is better than ``best`` by the threshold."""
        sign = 1 if self.mode == "max" else -1
        bound = best * (1.0 + sign * self.threshold) if self.threshold_mode == "rel" else best + sign * self.threshold
        return metric > bound if self.mode == "max" else metric < bound

    def step(self, state: PlateauState, metric: ArrayLike) -> PlateauState:
        """The state after an epoch that ended with ``metric``. It works inside ``jax.jit``."""
        metric = jnp.asarray(metric).astype(state.best.dtype)
        better, cooling = self.better(metric, state.best), state.cooldown_counter > 0
        bad = jnp.where(better | cooling, 0, state.num_bad_epochs + 1)
        reduces = bad > self.patience
        lower = jnp.maximum(state.lr * self.factor, jnp.asarray(self.min_lr))
        lr = jnp.where(reduces & (state.lr - lower > self.eps), lower, state.lr)
        return PlateauState(
            lr=lr,
            best=jnp.where(better, metric, state.best),
            num_bad_epochs=jnp.where(reduces, 0, bad),
            cooldown_counter=jnp.where(reduces, self.cooldown, state.cooldown_counter - cooling),
            last_epoch=state.last_epoch + 1,
        )
