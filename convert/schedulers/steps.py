"""Steps the state dict of a PyTorch scheduler as PyTorch does, with the same rounding.

A scheduler sets the learning rate, and sometimes the momentum, of the optimizer's parameter groups. Most schedulers
read the present learning rate there. So what is stepped is the state dict and the groups.

Follows: torch/optim/lr_scheduler.py of PyTorch 2.13.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from convert.schedulers.kinds import (
    BY_HAND,
    Group,
    State,
    from_group,
    groups_of,
    kind_of,
    milestones_of,
    parts_of,
    require,
)

Groups = list[dict[str, Any]]


def _step_lr(state: State, lr: float, base: float) -> float:
    return lr if state["last_epoch"] % state["step_size"] else lr * state["gamma"]


def _multi_step_lr(state: State, lr: float, base: float) -> float:
    times = milestones_of(state).get(state["last_epoch"], 0)
    return lr * state["gamma"] ** times if times else lr


def _constant_lr(state: State, lr: float, base: float) -> float:
    return lr * (1.0 / state["factor"]) if state["last_epoch"] == state["total_iters"] else lr


def _linear_lr(state: State, lr: float, base: float) -> float:
    if state["last_epoch"] > state["total_iters"]:
        return lr
    slope = state["end_factor"] - state["start_factor"]
    before = state["total_iters"] * state["start_factor"] + (state["last_epoch"] - 1) * slope
    return lr * (1.0 + slope / before)


def _exponential_lr(state: State, lr: float, base: float) -> float:
    return lr * state["gamma"]


def _polynomial_lr(state: State, lr: float, base: float) -> float:
    epoch, total = state["last_epoch"], state["total_iters"]
    if epoch > total:
        return lr
    return lr * ((1.0 - epoch / total) / (1.0 - (epoch - 1) / total)) ** state["power"]


def _cosine_annealing_lr(state: State, lr: float, base: float) -> float:
    epoch, period, low = state["last_epoch"], state["T_max"], state["eta_min"]
    if (epoch - 1 - period) % (2 * period) == 0:
        return lr + (base - low) * (1 - math.cos(math.pi / period)) / 2
    now, before = (1 + math.cos(math.pi * n / period) for n in (epoch, epoch - 1))
    return now / before * (lr - low) + low


def _warm_restarts(state: State, lr: float, base: float) -> float:
    low = state["eta_min"]
    return low + (base - low) * (1 + math.cos(math.pi * state["T_cur"] / state["T_i"])) / 2


RECURSIVE: dict[str, Callable[[State, float, float], float]] = {
    "StepLR": _step_lr,
    "MultiStepLR": _multi_step_lr,
    "ConstantLR": _constant_lr,
    "LinearLR": _linear_lr,
    "ExponentialLR": _exponential_lr,
    "PolynomialLR": _polynomial_lr,
    "CosineAnnealingLR": _cosine_annealing_lr,
    "CosineAnnealingWarmRestarts": _warm_restarts,
}
"""The learning rate of a group after a step, from that before it and the one of the group at the epoch 0."""

AT_START: dict[str, Callable[[State], float]] = {
    "MultiStepLR": lambda state: state["gamma"] ** sum(n for at, n in milestones_of(state).items() if at <= 0),
    "ConstantLR": lambda state: state["factor"] + (state["total_iters"] <= 0) * (1 - state["factor"]),
    "LinearLR": lambda state: state["start_factor"],
}
"""What the learning rate at the epoch 0 is multiplied by when a SequentialLR comes to a scheduler; 1 if not here."""


def set_momentum(state: State, group: dict[str, Any], value: float) -> None:
    """Set the momentum of a group: for Adam, the first of its betas."""
    if state.get("use_beta1"):
        group["betas"] = (value, *group.get("betas", (value, 0.999))[1:])
    else:
        group["momentum"] = value


def _one_cycle_value(state: State, group: Group, what: str) -> float:
    start, phases, step = 0.0, state["_schedule_phases"], state["last_epoch"]
    for phase in phases:
        if step <= phase["end_step"] or phase is phases[-1]:
            break
        start = phase["end_step"]
    share = (step - start) / (phase["end_step"] - start)
    first, last = (from_group("OneCycleLR", group, phase[f"{end}_{what}"]) for end in ("start", "end"))
    if state["_anneal_func_type"] == "linear":
        return (last - first) * share + first
    return last + (first - last) / 2.0 * (math.cos(math.pi * share) + 1)


def _one_cycle(state: State, groups: Groups) -> list[float]:
    total, epoch = state["total_steps"], state["last_epoch"]
    require(epoch <= total, f"OneCycleLR: expected at most total_steps, {total}, scheduler steps, got {epoch}")
    lrs = [_one_cycle_value(state, group, "lr") for group in groups]
    for group in groups if state["cycle_momentum"] else ():
        set_momentum(state, group, _one_cycle_value(state, group, "momentum"))
    return lrs


def _cyclic(state: State, groups: Groups) -> list[float]:
    epoch, ratio = state["last_epoch"], state["step_ratio"]
    cycle = math.floor(1 + epoch / state["total_size"])
    x = 1.0 + epoch / state["total_size"] - cycle
    scale = x / ratio if x <= ratio else (x - 1) / (ratio - 1)
    height = {"triangular2": 1 / (2.0 ** (cycle - 1)), "exp_range": state["gamma"] ** epoch}.get(state["mode"], 1.0)
    if state["cycle_momentum"]:
        bounds = zip(groups, state["base_momentums"], state["max_momentums"], strict=True)
        for group, low, high in bounds:
            set_momentum(state, group, high - (high - low) * scale * height)
    return [low + (high - low) * scale * height for low, high in zip(state["base_lrs"], state["max_lrs"], strict=True)]


def _values(kind: str, state: State, groups: Groups) -> list[float]:
    if kind == "OneCycleLR":
        return _one_cycle(state, groups)
    if kind == "CyclicLR":
        return _cyclic(state, groups)
    bases = map(float, state["base_lrs"])
    return [RECURSIVE[kind](state, group["lr"], base) for group, base in zip(groups, bases, strict=True)]


def _set(state: State, groups: Groups, lrs: Iterable[float]) -> dict[str, Any]:
    for group, lr in zip(groups, lrs, strict=True):
        group["lr"] = lr
    return {**state, "_last_lr": [group["lr"] for group in groups]}


def restarted(kind: str, state: State, groups: Groups) -> dict[str, Any]:
    """The state at the epoch 0, to which a SequentialLR brings a scheduler at its milestone. It changes ``groups``."""
    state = {**state, "last_epoch": 0}
    if kind == "CosineAnnealingWarmRestarts":
        state |= {"T_cur": 0, "T_i": state["T_0"]}
    if kind in ("OneCycleLR", "CyclicLR", "CosineAnnealingWarmRestarts"):
        return _set(state, groups, _values(kind, state, groups))
    factor = AT_START.get(kind, lambda state: 1.0)(state)
    return _set(state, groups, [float(base) * factor for base in state["base_lrs"]])


def _once(kind: str, state: State, groups: Groups) -> dict[str, Any]:
    if kind == "SequentialLR":
        return _sequence_once(state, groups)
    if kind == "ChainedScheduler":
        parts = [_once(name, part, groups) for name, part in parts_of(kind, state)]
        return {**_set(state, groups, [group["lr"] for group in groups]), "_schedulers": parts}
    state = {**state, "last_epoch": state["last_epoch"] + 1}
    if kind == "CosineAnnealingWarmRestarts":
        ends = state["T_cur"] + 1 >= state["T_i"]
        state["T_cur"] = (state["T_cur"] + 1) % state["T_i"]
        state["T_i"] *= state["T_mult"] if ends else 1
    else:
        state["_step_count"] = state.get("_step_count", state["last_epoch"]) + 1
    return _set(state, groups, _values(kind, state, groups))


def _sequence_once(state: State, groups: Groups) -> dict[str, Any]:
    epoch, milestones, parts = state["last_epoch"] + 1, state["_milestones"], list(state["_schedulers"])
    index = bisect_right(milestones, epoch)
    starts = index > 0 and milestones[index - 1] == epoch
    advance = restarted if starts else _once
    parts[index] = advance(parts_of("SequentialLR", state)[index][0], parts[index], groups)
    return {**state, "last_epoch": epoch, "_last_lr": parts[index]["_last_lr"], "_schedulers": parts}


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copy(each) for key, each in value.items()}
    return [_copy(each) for each in value] if isinstance(value, list | tuple) else value


def _check_cyclic(state: State) -> None:
    usual = state["scale_mode"] == ("iterations" if state["mode"] == "exp_range" else "cycle")
    own_function = state.get("_scale_fn_custom") is not None or not usual
    if not own_function and state["last_epoch"] >= 0 and "_last_lr" in state:
        expected = _cyclic({**state, "cycle_momentum": False}, [])
        pairs = zip(expected, map(float, state["_last_lr"]), strict=True)
        own_function = not all(math.isclose(value, noted, rel_tol=1e-9) for value, noted in pairs)
    require(
        not own_function,
        f"CyclicLR: expected the learning rates of mode {state['mode']!r}, got others, as with a scale_fn, which is "
        f"not in the file; {BY_HAND}",
    )


def prepared(state: State, kind: str | None = None) -> tuple[str, dict[str, Any]]:
    """The class of a scheduler and a copy of its state dict, after a check that it can be taken over.

    The milestones of a MultiStepLR become a ``Counter``, as PyTorch needs them.

    Raises:
        RefusedError: as for ``kind_of``; warm restarts stepped with fractions of an epoch; a CyclicLR with a function.
    """
    kind = kind_of(state, kind)
    result: dict[str, Any] = _copy(state)
    if kind in ("SequentialLR", "ChainedScheduler"):
        result["_schedulers"] = [prepared(part, name)[1] for name, part in parts_of(kind, result)]
    elif kind == "MultiStepLR":
        result["milestones"] = milestones_of(result)
    elif kind == "CosineAnnealingWarmRestarts":
        require(
            float(result["T_cur"]).is_integer(),
            f"{kind}: expected T_cur to be a whole number, got {result['T_cur']}: it was stepped with fractions of an "
            "epoch; pass the schedule lambda count: cosine_annealing_warm_restarts(...)(count / steps_per_epoch)",
        )
    elif kind == "CyclicLR":
        _check_cyclic(result)
    return kind, result


def stepped(
    state: State, groups: Sequence[Group] | None, steps: int, kind: str | None = None
) -> tuple[dict[str, Any], Groups]:
    """The state dict of a scheduler and the parameter groups of its optimizer, ``steps`` scheduler steps later.

    Args:
        groups: the ``param_groups`` of the optimizer's state dict. Without them the scheduler's own notes are used,
            and the result has only what they say. A OneCycleLR needs them.

    Raises:
        RefusedError: as for ``kind_of``; a ReduceLROnPlateau, which needs a metric for each step; a OneCycleLR beyond
            its end.
    """
    kind, result = prepared(state, kind)
    require(
        kind != "ReduceLROnPlateau",
        "ReduceLROnPlateau: expected a scheduler that depends on the step alone, got one that needs a metric for each "
        "step; step it with flax_attn.optim.ReduceLROnPlateau, and call plateau_after",
    )
    require(steps >= 0, f"{kind}: expected 0 or more steps, got {steps}")
    present: Groups = groups_of(kind, state, groups)
    for _ in range(steps):
        result = _once(kind, result, present)
    return result, present


def state_after(
    state: State, steps: int, kind: str | None = None, groups: Sequence[Group] | None = None
) -> dict[str, Any]:
    """The state dict that PyTorch's scheduler has ``steps`` scheduler steps later: for ``load_state_dict``.

    The optimizer's groups need the new learning rates too: they are ``_last_lr``. Arguments, errors: as for
    ``stepped``, which also gives the groups.
    """
    return stepped(state, groups, steps, kind)[0]
