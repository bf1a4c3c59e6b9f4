"""Which scheduler of PyTorch a state dict is of. It does not say so: the class is known by the keys."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from convert.errors import RefusedError, shown

State = Mapping[str, Any]
Group = Mapping[str, Any]

SHARED = {"base_lrs", "last_epoch", "_step_count", "_last_lr", "_get_lr_called_within_step", "_is_initial", "verbose"}
"""What nearly every scheduler has."""


class Keys(NamedTuple):
    """The keys that the state dict of a scheduler must have and may have, beside those that all share."""

    needed: frozenset[str]
    optional: frozenset[str] = frozenset()


def _keys(needed: str, optional: str = "") -> Keys:
    return Keys(frozenset(needed.split()), frozenset(optional.split()))


KINDS = {
    "StepLR": _keys("step_size gamma base_lrs last_epoch"),
    "MultiStepLR": _keys("milestones gamma base_lrs last_epoch"),
    "ConstantLR": _keys("factor total_iters base_lrs last_epoch"),
    "LinearLR": _keys("start_factor end_factor total_iters base_lrs last_epoch"),
    "ExponentialLR": _keys("gamma base_lrs last_epoch"),
    "PolynomialLR": _keys("total_iters power base_lrs last_epoch"),
    "CosineAnnealingLR": _keys("T_max eta_min base_lrs last_epoch"),
    "CosineAnnealingWarmRestarts": _keys("T_0 T_i T_mult eta_min T_cur base_lrs last_epoch"),
    "OneCycleLR": _keys(
        "total_steps _schedule_phases _anneal_func_type cycle_momentum base_lrs last_epoch", "use_beta1"
    ),
    "CyclicLR": _keys(
        "max_lrs total_size step_ratio mode gamma scale_mode cycle_momentum base_lrs last_epoch",
        "use_beta1 base_momentums max_momentums _scale_fn_custom",
    ),
    "SequentialLR": _keys("_schedulers _milestones last_epoch"),
    "ChainedScheduler": _keys("_schedulers"),
    "ReduceLROnPlateau": _keys(
        "factor min_lrs patience cooldown eps mode threshold threshold_mode best cooldown_counter num_bad_epochs "
        "last_epoch",
        "default_min_lr mode_worse",
    ),
}

BY_HAND = "write the schedule as a Python function from the step to the learning rate, and pass that function"

FOREIGN = {
    "lr_lambdas": "a LambdaLR or MultiplicativeLR (the schedules of transformers are LambdaLR too), whose function is "
    "not in the file",
    "param_group_field": "a scheduler of timm",
    "base_values": "a parameter scheduler of mmengine",
    "anneal_epochs": "an SWALR, which needs the averaged weights of torch.optim.swa_utils",
}
"""A key that tells a scheduler that is refused, and what a message calls it."""


def require(condition: bool, message: str) -> None:
    """Raise ``RefusedError(message)`` unless ``condition`` holds."""
    if not condition:
        raise RefusedError(message)


def listed(names: Any) -> str:
    """Names as a message gives them."""
    return ", ".join(shown(str(name)) for name in sorted(names, key=str)) or "none"


def kind_of(state: State, kind: str | None = None) -> str:
    """The class of the scheduler that has the state dict ``state``.

    Args:
        kind: the class, if the caller knows it. Keys that this class does not have are then left out.

    Raises:
        RefusedError: no class or more than one fits, keys are missing, or the class is one that cannot be taken over.
    """
    require(isinstance(state, Mapping), f"scheduler: expected its state dict, got a {type(state).__name__}")
    for key, name in FOREIGN.items():
        require(key not in state, f"scheduler: expected one of {', '.join(KINDS)}, got {name}; {BY_HAND}")
    if kind is not None:
        require(kind in KINDS, f"scheduler: expected kind to be one of {', '.join(KINDS)}, got {kind!r}; {BY_HAND}")
        missing = KINDS[kind].needed - state.keys()
        require(not missing, f"scheduler: expected the state dict of a {kind}, got one without {listed(missing)}")
        return kind
    own = state.keys() - SHARED
    fits = [name for name, keys in KINDS.items() if keys.needed <= state.keys() and own <= keys.needed | keys.optional]
    if len(fits) == 1:
        return fits[0]
    near = fits or [name for name, keys in KINDS.items() if keys.needed <= state.keys()]
    advice = f"if it is one of {', '.join(near)}, pass kind" if near else BY_HAND
    expected = f"expected the state dict of one of {', '.join(KINDS)}"
    raise RefusedError(f"scheduler: {expected}, got one with the keys {listed(own)}; {advice}")


def parts_of(kind: str, state: State) -> list[tuple[str, State]]:
    """The schedulers inside a SequentialLR or ChainedScheduler, with their classes."""
    parts = [(kind_of(part), part) for part in state["_schedulers"]]
    inner = {name for name, _ in parts} & {"SequentialLR", "ChainedScheduler", "ReduceLROnPlateau"}
    require(not inner, f"{kind}: expected schedulers without others inside, got a {listed(inner)}; {BY_HAND}")
    return parts


def groups_of(kind: str, state: State, groups: Sequence[Group] | None) -> list[dict[str, Any]]:
    """A copy of the parameter groups of the optimizer, or what the scheduler itself knows of them.

    The learning rate of a group is the one that the optimizer uses now. The scheduler noted it at its last step.
    """
    if groups is None:
        require("_last_lr" in state, f"{kind}: expected the key _last_lr, got none; pass the groups of the optimizer")
        groups = [{"lr": lr} for lr in state["_last_lr"]]
    bases = {"base_lrs": state.get("base_lrs", groups), "min_lrs": state.get("min_lrs", groups)}
    for name, values in bases.items():
        fits = len(values) == len(groups)
        require(fits, f"{kind}: expected {name} with a number for each of {len(groups)} groups, got {len(values)}")
    return [{**group, "lr": float(group["lr"])} for group in groups]


def from_group(kind: str, group: Group, name: str) -> float:
    """A number that a scheduler keeps in a parameter group of the optimizer."""
    known = name in group
    require(known, f"{kind}: expected {name} in each group of the optimizer, got none; pass the param_groups as groups")
    return float(group[name])


def milestones_of(state: State) -> Counter[int]:
    """The milestones of a MultiStepLR: how often each is given. JSON makes its keys strings."""
    return Counter({int(epoch): int(times) for epoch, times in state["milestones"].items()})
