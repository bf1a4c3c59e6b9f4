"""PyTorch's optimizers: what their state dicts hold, and the function in ``flax_attn.optim`` that is each of them.

A state dict of an optimizer does not name its class. The options of its parameter groups, and what it stores for a
parameter, tell the class.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, NamedTuple

import optax

from flax_attn import optim

Groups = Sequence[Mapping[str, Any]]
States = Mapping[Any, Mapping[str, Any]]


class Slot(NamedTuple):
    """An array that PyTorch stores for each parameter.

    Args:
        field: what the field of the optax state is called.
        option: the option of the group without which PyTorch does not store it; empty where it always does.
    """

    field: str
    option: str = ""


LATER = ("maximize",)
STEP = {"step": "count"}


@dataclass(frozen=True)
class Kind:
    """A class of ``torch.optim``.

    Args:
        options: the options of a group that change the arithmetic and are in the files of every version.
        later: those that some versions lack. The function in ``flax_attn.optim`` has their defaults.
        slots: what is stored for each parameter.
        scalars: the numbers that are stored for each parameter, and what the field of the optax state is called.
        first: the array that is stored before the first step too, and the option that fills it.
    """

    name: str
    options: tuple[str, ...]
    _: KW_ONLY
    later: tuple[str, ...] = LATER
    slots: Mapping[str, Slot]
    scalars: Mapping[str, str] = field(default_factory=lambda: STEP)
    first: tuple[str, str] | None = None

    def slots_of(self, group: Mapping[str, Any]) -> dict[str, str]:
        """What is stored for each parameter of ``group``: {name in PyTorch: field of the optax state}."""
        return {name: slot.field for name, slot in self.slots.items() if not slot.option or group.get(slot.option)}

    def defaults(self) -> dict[str, Any]:
        """The options of a group by default, as in PyTorch."""
        parameters = inspect.signature(getattr(optim, self.name.lower())).parameters.values()
        return {p.name: p.default for p in parameters}

    def transformation(self, group: Mapping[str, Any], lr: Any) -> optax.GradientTransformation:
        """The optax transformation that does what this class does with the options of ``group``.

        Args:
            lr: the learning rate in place of that of the group: a number, or a schedule.
        """
        given = {name: group[name] for name in (*self.options, *self.later) if name in group}
        return getattr(optim, self.name.lower())(**{**given, "lr": lr})


MOMENTS = {"exp_avg": Slot("mu"), "exp_avg_sq": Slot("nu")}
PLAIN = ("lr", "betas", "eps", "weight_decay")
DECOUPLED = "decoupled_weight_decay"

SGD = Kind(
    "SGD",
    ("lr", "momentum", "dampening", "weight_decay", "nesterov"),
    slots={"momentum_buffer": Slot("trace", "momentum")},
    scalars={},
)
ADAM = Kind(
    "Adam",
    PLAIN,
    later=("amsgrad", *LATER, DECOUPLED),
    slots={**MOMENTS, "max_exp_avg_sq": Slot("nu_max", "amsgrad")},
)
ADAMW = Kind("AdamW", PLAIN, later=("amsgrad", *LATER), slots=ADAM.slots)
KINDS = (
    SGD,
    ADAM,
    ADAMW,
    Kind("Adamax", PLAIN, slots={"exp_avg": Slot("mu"), "exp_inf": Slot("nu")}),
    Kind(
        "NAdam",
        (*PLAIN, "momentum_decay"),
        later=(*LATER, DECOUPLED),
        slots=MOMENTS,
        scalars={**STEP, "mu_product": "mu_product"},
    ),
    Kind("RAdam", PLAIN, later=(*LATER, DECOUPLED), slots=MOMENTS),
    Kind(
        "RMSprop",
        ("lr", "momentum", "alpha", "eps", "centered", "weight_decay"),
        slots={
            "square_avg": Slot("nu"),
            "grad_avg": Slot("mu", "centered"),
            "momentum_buffer": Slot("trace", "momentum"),
        },
    ),
    Kind(
        "Adagrad",
        ("lr", "lr_decay", "weight_decay"),
        later=("initial_accumulator_value", "eps", *LATER),
        slots={"sum": Slot("sum_of_squares")},
        first=("sum", "initial_accumulator_value"),
    ),
    Kind("Adadelta", ("lr", "rho", "eps", "weight_decay"), slots={"square_avg": Slot("e_g"), "acc_delta": Slot("e_x")}),
)

IGNORED = {
    "foreach": "how PyTorch loops over the parameters",
    "fused": "how PyTorch loops over the parameters",
    "capturable": "whether a CUDA graph may hold the step",
    "differentiable": "whether autograd passes through the step",
}
"""Options that change the speed and not the numbers, and what each says."""

BESIDE = {"params", "param_names", "initial_lr", "max_lr", "min_lr", "max_momentum", "base_momentum", "swa_lr"} | {
    "name",
    "lr_scale",
}
"""What else lies in a group: names, and what a scheduler keeps there. It is kept, and changes nothing."""

OTHERS: tuple[tuple[str, set[str], set[str]], ...] = (
    ("torch.optim.ASGD", {"lambd", "t0"}, set()),
    ("torch.optim.Rprop", {"etas", "step_sizes"}, set()),
    ("torch.optim.LBFGS", {"max_iter", "history_size"}, set()),
    ("torch.optim.Adafactor", {"beta2_decay"}, set()),
    ("torch.optim.Muon", {"ns_steps", "ns_coefficients"}, set()),
    ("Muon", {"ns_steps"}, set()),
    ("Muon", {"use_muon"}, set()),
    ("CAME", {"clip_threshold", "betas"}, set()),
    ("transformers.Adafactor", {"clip_threshold"}, set()),
    ("Adafactor", {"beta2_cap"}, set()),
    ("SOAP", {"shampoo_beta"}, set()),
    ("transformers.AdamW", {"correct_bias"}, set()),
    ("FusedAdam or DeepSpeedCPUAdam", {"bias_correction"}, {"grad_averaging"}),
    ("LARS", {"trust_coeff"}, set()),
    ("LARS", {"trust_coefficient"}, set()),
    ("LARS", {"lars_adaptation_filter"}, set()),
    ("LAMB", {"max_grad_norm", "grad_averaging"}, set()),
    ("LAMB", {"trust_clip"}, set()),
    ("LAMB", {"trust_ratio"}, set()),
    ("bitsandbytes, in 8 bit", {"state1"}, set()),
    ("Prodigy or D-Adaptation", {"d_coef"}, set()),
    ("D-Adaptation", {"d", "growth_rate"}, set()),
    ("AdaBelief", {"exp_avg_var"}, set()),
    ("AdaBelief", {"buffer", "amsgrad"}, set()),
    ("AdaBound", {"final_lr"}, set()),
    ("Ranger", {"N_sma_threshhold"}, set()),
    ("Lookahead", {"lookahead_alpha"}, set()),
    ("RAdam of its authors", {"buffer"}, set()),
    ("AdamP or SGDP", {"wd_ratio"}, set()),
    ("Adan", {"no_prox"}, set()),
    ("Sophia", {"betas", "rho"}, set()),
    ("AdaHessian", {"hessian_power"}, set()),
    ("SAM", {"rho", "adaptive"}, set()),
    ("Shampoo", {"epsilon", "update_freq"}, set()),
    ("Shampoo", {"max_preconditioner_dim"}, set()),
    ("MADGRAD", {"grad_sum_sq"}, set()),
    ("NovoGrad", {"grad_averaging"}, set()),
    ("Lion", {"betas", "weight_decay"}, {"eps", "epsilon"}),
    ("torch.optim.SparseAdam", {"betas", "eps"}, {"weight_decay"}),
)
"""Other optimizers: options and stored arrays that each has, and those that it has not."""


def find_kind(name: str) -> Kind:
    """The kind that is called ``name``. ValueError with the known names if there is none."""
    for kind in KINDS:
        if kind.name.lower() == str(name).lower():
            return kind
    raise ValueError(f"expected one of the optimizers {known()}, got {name!r}")


def known() -> str:
    """The names of all kinds."""
    return ", ".join(kind.name for kind in KINDS)


def kind_of(groups: Groups, states: States, name: str | None = None, published: str | None = None) -> Kind:
    """The kind that an optimizer state dict is of.

    Args:
        name: what the user says it is; None: the state dict must tell.
        published: the optimizer of the published training, which is believed where the state dict does not tell.

    Raises:
        ValueError: if it is of none, or of several, or not of the one called ``name``.
    """
    found = candidates(groups, states, named=name is not None)
    names = " or ".join(kind.name for kind in found)
    if name is not None:
        if find_kind(name) not in found:
            raise ValueError(f"expected the state of {find_kind(name).name}, got that of {names}")
        return find_kind(name)
    if len(found) == 1:
        return found[0]
    if published and find_kind(published) in found:
        return find_kind(published)
    raise ValueError(
        f"the optimizer may be {names}, which look the same in this file; say which, such as "
        f"optimizer={found[-1].name!r}"
    )


def candidates(groups: Groups, states: States, named: bool = False) -> list[Kind]:
    """The kinds that an optimizer state dict may be of; several only where its numbers do not tell.

    Args:
        named: whether those are in the list too that do the same as another one here.

    Raises:
        ValueError: if it is of none, with the name of the optimizer where that is known.
    """
    options = {name for group in groups for name in group} - BESIDE - IGNORED.keys()
    stored = {name for state in states.values() for name in state}
    fits = [kind for kind in KINDS if _fits(kind, options, stored) and not _excluded(kind, groups, named)]
    if not fits:
        raise ValueError(_no_kind(options, stored))
    needed = [name for name in fits[0].options if not all(name in group for group in groups)]
    if needed:
        raise ValueError(f"expected {', '.join(needed)} in each group of the optimizer, found groups without")
    return fits


def _fits(kind: Kind, options: set[str], stored: set[str]) -> bool:
    """Whether a file of ``kind`` may have these options and store these arrays."""
    optional = {*kind.later, DECOUPLED} if kind is ADAMW else {*kind.later}
    return {*kind.options} <= options <= {*kind.options} | optional and stored <= {*kind.slots, *kind.scalars, "step"}


def _excluded(kind: Kind, groups: Groups, named: bool) -> bool:
    """Whether the values of the options, or the version of PyTorch that they show, exclude a kind that fits.

    Adam and AdamW differ in the decay of the weights alone: where it does not tell them apart, the file is that of
    Adam, or of AdamW where it says so, unless the user has named the other. Before version 1.6 parameters were called
    by their place in memory; RAdam and the option ``foreach`` are younger, and Adam's option ``amsgrad`` is older than
    that.
    """
    names = {name for group in groups for name in group}
    decoupled = {bool(group.get(DECOUPLED)) for group in groups}
    if kind.name == "RAdam":
        return any(isinstance(index, int) and index >= 2**24 for group in groups for index in group["params"])
    if "amsgrad" not in names and "foreach" in names and kind in (ADAM, ADAMW):
        return True
    if kind is ADAM:
        return decoupled == {True} and not named
    decays = any(group.get("weight_decay") for group in groups)
    if DECOUPLED in names:
        return kind is ADAMW and False in decoupled and (decays or not named)
    return kind is ADAMW and not decays and not named


def _no_kind(options: set[str], stored: set[str]) -> str:
    """What to say of an optimizer that is of no kind."""
    there = options | stored
    for name, marks, without in OTHERS:
        if marks <= there and not without & there:
            return f"the optimizer is {name}, which has no counterpart here; there are {known()}"
    listed = ", ".join(sorted(map(str, options)))
    return f"the optimizer is none of {known()}: its groups have the options {listed}"
