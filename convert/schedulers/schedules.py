"""The state dict of a PyTorch scheduler -> an optax schedule that goes on where it stopped, for each group."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from convert.schedulers.kinds import BY_HAND, Group, State, from_group, groups_of, parts_of, require
from convert.schedulers.steps import Groups, prepared, restarted
from flax_attn.optim.lr_scheduler.cosine import annealed, cosine_annealing_warm_restarts
from flax_attn.optim.lr_scheduler.cycles import Phase, annealed_phases, wave
from flax_attn.optim.lr_scheduler.plateau import PlateauState, ReduceLROnPlateau
from flax_attn.optim.lr_scheduler.ratios import (
    Ratio,
    Schedule,
    constant_ratio,
    exponential_ratio,
    from_start,
    linear_ratio,
    multi_step_ratio,
    polynomial_ratio,
    real,
    step_ratio,
)

RATIOS: dict[str, Callable[[State], Ratio]] = {
    "StepLR": lambda state: step_ratio(state["step_size"], state["gamma"]),
    "MultiStepLR": lambda state: multi_step_ratio(sorted(state["milestones"].elements()), state["gamma"]),
    "ConstantLR": lambda state: constant_ratio(state["factor"], state["total_iters"]),
    "LinearLR": lambda state: linear_ratio(state["start_factor"], state["end_factor"], state["total_iters"]),
    "ExponentialLR": lambda state: exponential_ratio(state["gamma"]),
    "PolynomialLR": lambda state: polynomial_ratio(state["total_iters"], state["power"]),
}
"""The schedulers that multiply the present learning rate."""


def _warm_restarts(state: State, index: int, group: Group) -> Schedule:
    arguments = (int(state["T_i"]), int(state["T_mult"]), state["eta_min"])
    curve = cosine_annealing_warm_restarts(float(state["base_lrs"][index]), *arguments)
    return lambda epoch: curve(epoch - state["last_epoch"] + int(state["T_cur"]))


def _one_cycle(what: str) -> Callable[[State, int, Group], Schedule]:
    def curve(state: State, index: int, group: Group) -> Schedule:
        phases = []
        for phase in state["_schedule_phases"]:
            first, last = (from_group("OneCycleLR", group, phase[f"{end}_{what}"]) for end in ("start", "end"))
            phases.append(Phase(phase["end_step"], first, last))
        return annealed_phases(phases, state["_anneal_func_type"], state["total_steps"])

    return curve


def _cyclic(first: str, last: str) -> Callable[[State, int, Group], Schedule]:
    def curve(state: State, index: int, group: Group) -> Schedule:
        bounds, total = (float(state[first][index]), float(state[last][index])), state["total_size"]
        return wave(bounds, state["step_ratio"] * total, total, state["mode"], state["gamma"])

    return curve


CLOSED: dict[str, Callable[[State, int, Group], Schedule]] = {
    "CosineAnnealingWarmRestarts": _warm_restarts,
    "OneCycleLR": _one_cycle("lr"),
    "CyclicLR": _cyclic("base_lrs", "max_lrs"),
}
"""The schedulers that compute the learning rate from the epoch alone."""

MOMENTUM: dict[str, Callable[[State, int, Group], Schedule]] = {
    "OneCycleLR": _one_cycle("momentum"),
    "CyclicLR": _cyclic("max_momentums", "base_momentums"),
}
"""The schedulers that compute the momentum too."""


def _going_on(closed: Schedule, start: int, present: float | None) -> Schedule:
    """``closed`` from the epoch ``start`` on; before the first scheduler step, the ``present`` value if it is given."""

    def schedule(count: ArrayLike) -> Array:
        value = closed(start + jnp.asarray(count))
        return value if present is None else jnp.where(jnp.asarray(count) == 0, present, value)

    return schedule


def _sequence(state: State, index: int, groups: Groups) -> Schedule:
    epoch, milestones, parts = state["last_epoch"], state["_milestones"], parts_of("SequentialLR", state)
    present = bisect_right(milestones, epoch)
    curves = [_curve(*parts[present], index=index, groups=groups)]
    for kind, part in parts[present + 1 :]:
        later = [dict(group) for group in groups]
        fresh = restarted(kind, part, later)
        curves.append(_curve(kind, fresh, index=index, groups=later))
    return optax.join_schedules(curves, [milestone - epoch for milestone in milestones[present:]])


def _product(parts: Sequence[tuple[str, State]]) -> Ratio:
    """The ratio between two counts that several schedulers give together."""
    ratios = [(RATIOS[kind](state), state["last_epoch"]) for kind, state in parts]

    def ratio(start: ArrayLike, count: ArrayLike) -> Array:
        result = jnp.ones_like(real(count))
        for each, epoch in ratios:
            result = result * each(epoch + jnp.asarray(start), epoch + jnp.asarray(count))
        return result

    return ratio


def _chain(state: State, index: int, groups: Groups) -> Schedule:
    lr, parts = groups[index]["lr"], parts_of("ChainedScheduler", state)
    places = [place for place, (kind, _) in enumerate(parts) if kind not in RATIOS]
    if not places:
        return from_start(lr, _product(parts))
    kind, part = parts[places[0]]
    names = [name for name, _ in parts]
    require(
        len(places) == 1 and kind == "CosineAnnealingLR" and part["eta_min"] == 0,
        f"ChainedScheduler: expected schedulers that multiply the learning rate ({', '.join(RATIOS)}, and one "
        f"CosineAnnealingLR with eta_min 0), got {', '.join(names)}; {BY_HAND}",
    )
    is_low = (part["last_epoch"] - part["T_max"]) % (2 * part["T_max"]) == 0
    zero = not is_low or abs(lr) <= 1e-12 * part["base_lrs"][index]
    require(zero, f"ChainedScheduler: expected the learning rate 0 at the end of the cosine, got {lr}; {BY_HAND}")
    curve = annealed(lr, float(part["base_lrs"][index]), part["T_max"], start=part["last_epoch"])
    return _with_cosine(curve, parts, places[0])


def _with_cosine(curve: Schedule, parts: list[tuple[str, State]], place: int) -> Schedule:
    """``curve``, of the cosine at ``place``, times what the other schedulers do after the cosine's last low point."""
    others, after = _product(parts[:place] + parts[place + 1 :]), _product(parts[place + 1 :])
    start, period = parts[place][1]["last_epoch"], parts[place][1]["T_max"]

    def schedule(count: ArrayLike) -> Array:
        low = period + 2 * period * ((start + jnp.asarray(count) - period - 1) // (2 * period)) - start
        anew = after(jnp.maximum(low, 0), jnp.maximum(low + 1, 0)) * others(jnp.maximum(low + 1, 0), count)
        return curve(count) * jnp.where(low < 0, others(0, count), anew)

    return schedule


def _curve(kind: str, state: State, *, index: int, groups: Groups) -> Schedule:
    """The learning rate of a group by the number of scheduler steps from now."""
    if kind == "SequentialLR":
        return _sequence(state, index, groups)
    if kind == "ChainedScheduler":
        return _chain(state, index, groups)
    lr, start = groups[index]["lr"], state["last_epoch"]
    if kind in RATIOS:
        return from_start(lr, RATIOS[kind](state), start)
    if kind == "CosineAnnealingLR":
        return annealed(lr, float(state["base_lrs"][index]), state["T_max"], state["eta_min"], start=start)
    return _going_on(CLOSED[kind](state, index, groups[index]), start, lr)


def _placed(curve: Schedule, steps_per_epoch: int, count: int, step_in_epoch: int) -> Schedule:
    require(steps_per_epoch >= 1, f"scheduler: expected steps_per_epoch to be 1 or more, got {steps_per_epoch}")
    inside = 0 <= step_in_epoch <= steps_per_epoch
    require(inside, f"scheduler: expected step_in_epoch to be 0 to {steps_per_epoch}, got {step_in_epoch}")

    def schedule(now: ArrayLike) -> Array:
        taken = jnp.maximum(jnp.asarray(now) - count, 0) + step_in_epoch
        return curve(taken // steps_per_epoch)

    return schedule


def moves_momentum(kind: str, state: State) -> bool:
    """Whether a scheduler moves the momentum as well as the learning rate."""
    inside = parts_of(kind, state) if "_schedulers" in state else []
    return bool(state.get("cycle_momentum")) or any(moves_momentum(*part) for part in inside)


def schedule_of(
    state: State,
    kind: str | None = None,
    steps_per_epoch: int = 1,
    count: int = 0,
    *,
    step_in_epoch: int = 0,
    groups: Sequence[Group] | None = None,
    lr_only: bool = False,
) -> list[Schedule]:
    """The learning rate schedule of each parameter group, from the state dict of a PyTorch scheduler.

    ``schedule(count + i)`` is the learning rate that PyTorch uses for its i-th next optimizer step, from i = 0. It
    starts from the learning rate that the optimizer has, also where that was changed by hand.

    Args:
        state: ``scheduler.state_dict()``, as ``convert.read(path).extras`` or JSON gives it.
        kind: the class of the scheduler, such as ``"StepLR"``. Without it the keys tell the class.
        steps_per_epoch: PyTorch steps the scheduler once after so many optimizer steps.
        count: the number of optimizer steps at which the schedule begins: the ``count`` of the optax state.
        step_in_epoch: so many optimizer steps were taken after the last scheduler step. If the checkpoint was written
            at the end of an epoch, before the scheduler step, it is ``steps_per_epoch``.
        groups: the ``param_groups`` of the optimizer's state dict. Their learning rates win over the scheduler's
            notes. A OneCycleLR keeps its bounds there, so it needs them.
        lr_only: leave out that the scheduler moves the momentum too (``cycle_momentum``); see ``momentum_of``.

    Shapes: the count and the learning rate are scalars, or arrays of one shape.

    Raises:
        RefusedError: the class is unknown or ambiguous, or has a function that is not in the file (LambdaLR); a
            ReduceLROnPlateau, see ``plateau_of``; a scheduler that moves the momentum, without ``lr_only``.

    Source: ``torch.optim.lr_scheduler``.
    """
    kind, state = prepared(state, kind)
    plateau = kind == "ReduceLROnPlateau"
    require(not plateau, f"{kind}: expected a scheduler that depends on the step alone; call plateau_of(state)")
    require(
        lr_only or not moves_momentum(kind, state),
        f"{kind}: expected a scheduler of the learning rate alone, got cycle_momentum=True, which moves the momentum "
        "too; pass lr_only=True, and give the optimizer the schedules of momentum_of(state)",
    )
    present = groups_of(kind, state, groups)
    curves = [_curve(kind, state, index=index, groups=present) for index in range(len(present))]
    return [_placed(curve, steps_per_epoch, count, step_in_epoch) for curve in curves]


def momentum_of(
    state: State,
    kind: str | None = None,
    steps_per_epoch: int = 1,
    count: int = 0,
    *,
    step_in_epoch: int = 0,
    groups: Sequence[Group] | None = None,
) -> list[Schedule]:
    """The momentum schedule of each parameter group: of a OneCycleLR or CyclicLR with ``cycle_momentum=True``.

    For Adam it is the first of ``betas``. Give it to an optimizer with ``optax.inject_hyperparams``.
    Arguments and shapes: as for ``schedule_of``.

    Raises:
        RefusedError: as for ``schedule_of``; a scheduler that does not move the momentum.
    """
    kind, state = prepared(state, kind)
    moves = kind in MOMENTUM and state["cycle_momentum"]
    require(moves, f"{kind}: expected a OneCycleLR or CyclicLR with cycle_momentum=True; the momentum does not change")
    closed = [MOMENTUM[kind](state, index, group) for index, group in enumerate(groups_of(kind, state, groups))]
    curves = [_going_on(each, state["last_epoch"], None) for each in closed]
    return [_placed(curve, steps_per_epoch, count, step_in_epoch) for curve in curves]


def plateau_of(state: State, groups: Sequence[Group] | None = None) -> tuple[ReduceLROnPlateau, PlateauState]:
    """The state dict of PyTorch's ``ReduceLROnPlateau`` -> ours, and its state with the learning rates (groups,).

    Raises:
        RefusedError: the state dict is of another class, or does not fit the groups.
    """
    kind, state = prepared(state, "ReduceLROnPlateau")
    names = ("mode", "factor", "patience", "threshold", "threshold_mode", "cooldown", "eps")
    plateau = ReduceLROnPlateau(**{name: state[name] for name in names}, min_lr=tuple(map(float, state["min_lrs"])))
    lrs = [group["lr"] for group in groups_of(kind, state, groups)]
    counts = {name: jnp.int32(state[name]) for name in ("num_bad_epochs", "cooldown_counter", "last_epoch")}
    return plateau, PlateauState(real(jnp.asarray(lrs)), best=real(state["best"]), **counts)


def plateau_after(state: State, plateau_state: PlateauState) -> dict[str, Any]:
    """The state dict of PyTorch's ``ReduceLROnPlateau`` that has come to ``plateau_state``, for ``load_state_dict``.

    Args:
        state: the state dict from which ``plateau_of`` started.

    Raises:
        RefusedError: the state dict is of another class.
    """
    counts = {name: int(getattr(plateau_state, name)) for name in ("num_bad_epochs", "cooldown_counter", "last_epoch")}
    lrs = [float(lr) for lr in jnp.atleast_1d(plateau_state.lr)]
    return {**prepared(state, "ReduceLROnPlateau")[1], **counts, "best": float(plateau_state.best), "_last_lr": lrs}
