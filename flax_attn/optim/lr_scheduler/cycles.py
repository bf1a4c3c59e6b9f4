"""PyTorch's schedulers that also move the momentum: OneCycleLR and CyclicLR.

Where ``cycle_momentum`` is true in PyTorch, and it is by default, the momentum has a schedule of its own. Here that is
a function of its own. An optimizer takes both through optax::

    optax.inject_hyperparams(sgd)(lr=one_cycle_lr(0.1, 300), momentum=one_cycle_momentum(300))
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from flax_attn.layers.module import require
from flax_attn.optim.lr_scheduler.cosine import one_plus_cos
from flax_attn.optim.lr_scheduler.ratios import Number, Schedule, real, require_count

Anneal = Literal["cos", "linear"]
Mode = Literal["triangular", "triangular2", "exp_range"]


class Phase(NamedTuple):
    """A value goes from ``first`` to ``last`` until the step ``end``."""

    end: Number
    first: Number
    last: Number

    def at(self, step: Array, start: Number, anneal_strategy: str) -> Array:
        """The value at ``step``, for a phase that begins at the step ``start``."""
        length = self.end - start
        if anneal_strategy == "cos":
            return self.last + (self.first - self.last) / 2.0 * one_plus_cos(step - start, length)
        value = (self.first * real(self.end - step) + self.last * real(step - start)) / length
        return jnp.where(step == self.end, self.last - self.first + self.first, value)


def annealed_phases(phases: Sequence[Phase], anneal_strategy: str, total_steps: int) -> Schedule:
    """One phase after the other. From the step ``total_steps`` on, the value stays."""
    known = anneal_strategy in ("cos", "linear")
    require(known, f"one_cycle_lr: expected anneal_strategy 'cos' or 'linear', got {anneal_strategy!r}")
    starts = [0.0, *[phase.end for phase in phases[:-1]]]
    pairs = list(zip(phases, starts, strict=True))
    empty = [phase for phase, start in pairs if phase.end == start]
    require(not empty, f"one_cycle_lr: expected phases of one step or more, got {empty}; change pct_start")

    def schedule(count: ArrayLike) -> Array:
        step = jnp.minimum(count, total_steps)
        value = phases[-1].at(step, starts[-1], anneal_strategy)
        for phase, start in reversed(pairs[:-1]):
            value = jnp.where(step <= phase.end, phase.at(step, start, anneal_strategy), value)
        return value

    return schedule


def cycle_length(who: str, total_steps: int | None, epochs: int | None, steps_per_epoch: int | None) -> int:
    """The number of steps of a OneCycleLR: ``total_steps``, or the product of the other two."""
    if total_steps is None:
        given = epochs is not None and steps_per_epoch is not None
        require(given, f"{who}: expected total_steps, or epochs and steps_per_epoch, got neither")
        total_steps = (epochs or 0) * (steps_per_epoch or 0)
    require_count(who, "the number of steps", total_steps)
    return total_steps


def one_cycle(
    values: tuple[Number, Number, Number, Number], total_steps: int, pct_start: Number, *, three_phase: bool
) -> list[Phase]:
    """The phases of OneCycleLR. ``values`` are those at the start, at the peak, after it, and at the end."""
    require(0 <= pct_start <= 1, f"one_cycle_lr: expected pct_start to be 0 to 1, got {pct_start}")
    first, peak, middle, last = values
    up = Phase(pct_start * total_steps - 1, first, peak)
    if not three_phase:
        return [up, Phase(total_steps - 1, peak, last)]
    return [up, Phase(2 * pct_start * total_steps - 2, peak, middle), Phase(total_steps - 1, middle, last)]


def one_cycle_lr(
    max_lr: Number,
    total_steps: int | None = None,
    epochs: int | None = None,
    steps_per_epoch: int | None = None,
    pct_start: Number = 0.3,
    anneal_strategy: Anneal = "cos",
    *,
    div_factor: Number = 25.0,
    final_div_factor: Number = 1e4,
    three_phase: bool = False,
) -> Schedule:
    """PyTorch's ``OneCycleLR``: up from ``max_lr / div_factor`` to ``max_lr``, and down to almost nothing.

    The momentum that PyTorch's ``cycle_momentum=True`` moves is ``one_cycle_momentum``. After ``total_steps`` steps
    PyTorch raises an error; here the learning rate stays.

    Shapes: the count and the learning rate are scalars, or arrays of one shape.

    Raises:
        ValueError: the number of steps is not given or below 1, ``pct_start`` is not 0 to 1 or leaves a phase without
            a step, or ``anneal_strategy`` is unknown.

    Source: ``torch.optim.lr_scheduler.OneCycleLR``.
    """
    steps = cycle_length("one_cycle_lr", total_steps, epochs, steps_per_epoch)
    initial = max_lr / div_factor
    values = (initial, max_lr, initial, initial / final_div_factor)
    return annealed_phases(one_cycle(values, steps, pct_start, three_phase=three_phase), anneal_strategy, steps)


def one_cycle_momentum(
    total_steps: int | None = None,
    epochs: int | None = None,
    steps_per_epoch: int | None = None,
    pct_start: Number = 0.3,
    anneal_strategy: Anneal = "cos",
    *,
    base_momentum: Number = 0.85,
    max_momentum: Number = 0.95,
    three_phase: bool = False,
) -> Schedule:
    """The momentum of PyTorch's ``OneCycleLR``: lowest where the learning rate is highest.

    For Adam this is the first number of ``betas``. Shapes, errors and source: as for ``one_cycle_lr``.
    """
    steps = cycle_length("one_cycle_momentum", total_steps, epochs, steps_per_epoch)
    values = (max_momentum, base_momentum, max_momentum, max_momentum)
    return annealed_phases(one_cycle(values, steps, pct_start, three_phase=three_phase), anneal_strategy, steps)


def wave(
    bounds: tuple[Number, Number], up: Number, total: Number, mode: str = "triangular", gamma: Number = 1.0
) -> Schedule:
    """A triangle wave from ``bounds[0]`` to ``bounds[1]`` and back: ``up`` steps of the ``total`` ones rise."""
    known = mode in ("triangular", "triangular2", "exp_range")
    require(known, f"cyclic_lr: expected mode 'triangular', 'triangular2' or 'exp_range', got {mode!r}")
    require(0 < up < total, f"cyclic_lr: expected step_size_up and step_size_down above 0, got {up} and {total - up}")

    def schedule(count: ArrayLike) -> Array:
        count = jnp.asarray(count)
        done = real(count % total)
        scale = jnp.where(done <= up, done / up, (total - done) / (total - up))
        if mode == "triangular2":
            scale = scale * 0.5 ** real(count // total)
        elif mode == "exp_range":
            scale = scale * gamma ** real(count)
        return bounds[0] + (bounds[1] - bounds[0]) * scale

    return schedule


def cyclic_lr(
    base_lr: Number,
    max_lr: Number,
    step_size_up: int = 2000,
    step_size_down: int | None = None,
    mode: Mode = "triangular",
    gamma: Number = 1.0,
    scale_fn: Callable[[Array], Array] | None = None,
    scale_mode: Literal["cycle", "iterations"] = "cycle",
) -> Schedule:
    """PyTorch's ``CyclicLR``: the learning rate goes from ``base_lr`` to ``max_lr`` and back, again and again.

    The momentum that PyTorch's ``cycle_momentum=True`` moves is ``cyclic_momentum``.

    Args:
        scale_fn: the height of the cycle, in place of ``mode``: a function that JAX can trace. It is called with the
            number of the cycle, from 1, or with the count if ``scale_mode`` is ``"iterations"``.

    Shapes: the count and the learning rate are scalars, or arrays of one shape.

    Raises:
        ValueError: a half of the cycle has no steps, or ``mode`` is unknown.

    Source: ``torch.optim.lr_scheduler.CyclicLR``.
    """
    total = step_size_up + (step_size_up if step_size_down is None else step_size_down)
    if scale_fn is None:
        return wave((base_lr, max_lr), step_size_up, total, mode, gamma)
    height, scale = wave((0.0, max_lr - base_lr), step_size_up, total), scale_fn

    def schedule(count: ArrayLike) -> Array:
        cycle = 1 + jnp.asarray(count) // total
        return base_lr + height(count) * scale(cycle if scale_mode == "cycle" else jnp.asarray(count))

    return schedule


def cyclic_momentum(
    base_momentum: Number = 0.8,
    max_momentum: Number = 0.9,
    step_size_up: int = 2000,
    step_size_down: int | None = None,
    mode: Mode = "triangular",
    gamma: Number = 1.0,
) -> Schedule:
    """The momentum of PyTorch's ``CyclicLR``: lowest where the learning rate is highest.

    For Adam this is the first number of ``betas``. Shapes, errors and source: as for ``cyclic_lr``.
    """
    total = step_size_up + (step_size_up if step_size_down is None else step_size_down)
    return wave((max_momentum, base_momentum), step_size_up, total, mode, gamma)
