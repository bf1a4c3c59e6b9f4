"""The state of PyTorch's optimizers <-> the state of optax transformations that do the same arithmetic."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import flax.linen as nn

from convert.arguments import require_module, state_dict_of
from convert.checkpoint import Checkpoint
from convert.dialects import AUTO, choose
from convert.optimizers.groups import Group, labelled, options_of, taken_by
from convert.optimizers.kinds import find_kind, kind_of
from convert.optimizers.names import Names, names_of
from convert.optimizers.selection import Selector, grouped, selected
from convert.optimizers.state_dicts import groups_and_states
from convert.optimizers.torch_optimizer import Schedule, TorchOptimizer
from convert.rules import dropped
from convert.state_dict import Plan, plan
from flax_attn.catalog import PUBLISHED
from flax_attn.recipes import RECIPES
from flax_attn.recipes import recipe as find_recipe


def optimizer_of(
    names: Names,
    state_dict: Mapping[str, Any],
    *,
    kind: str | None = None,
    groups: Sequence[Selector] | None = None,
    recipe: str | None = None,
    step: int | None = None,
    start_missing: bool = False,
) -> tuple[TorchOptimizer, dict[str, Mapping[str, Any]]]:
    """The optimizer whose state dict this is, and what it stores for each parameter, by its PyTorch key.

    See ``optimizer_from_torch``.

    Args:
        recipe: the name of a published network, whose optimizer it is where the state dict does not tell.
    """
    given, states = groups_and_states(state_dict)
    found = kind_of(given, states, kind, published_optimizer(recipe))
    keys = grouped(names.order, given, groups, published=published_groups(names, recipe), is_sorted=names.sorted)
    numbers = [index for group in given for index in group["params"]]
    places = dict(zip(numbers, [key for group in keys for key in group], strict=True))
    stored = {places[index]: values for index, values in states.items()}
    made = tuple(Group(own, options_of(found, group)) for group, own in zip(given, keys, strict=True))
    for group in made:
        found.transformation(group.options, group.options["lr"])
    taken = taken_by(stored, step)
    labels = labelled(found, made, names, stored, step=taken, start_missing=start_missing)
    return TorchOptimizer(found, made, names, labels=labels, step=taken), stored


def optimizer_from_torch(
    module: nn.Module,
    optimizer_state: Mapping[str, Any],
    state_dict: Mapping[str, Any] | Checkpoint,
    *example_inputs: Any,
    optimizer: str | None = None,
    groups: Sequence[Selector] | None = None,
    step: int | None = None,
    start_missing: bool = False,
    dialect: str | None = None,
    dtype: Any = None,
    **kwargs: Any,
) -> tuple[TorchOptimizer, Any]:
    """The optimizer of a PyTorch training, and its optax state.

    ``made, state = optimizer_from_torch(...)``: ``made.transformation`` is the optax transformation, and
    ``made.to_torch(state)`` goes back.

    PyTorch stores the state by the number of each parameter. The names behind the numbers are known if the state dict
    has them (``param_names``), or if one group has all parameters of the module; else pass ``groups``.

    Args:
        optimizer_state: what ``torch.optim.Optimizer.state_dict`` gives, or that entry of ``read(path).extras``.
        state_dict: the state dict of the PyTorch module, in its own order.
        example_inputs, kwargs, dialect, dtype: as for ``from_torch``.
        optimizer: the class in ``torch.optim``: "AdamW". It is needed only where the state dict does not tell: before
            version 2.7, Adam and AdamW with a weight decay look the same.
        groups: an item for each parameter group: a regular expression that is searched for in the keys of its
            parameters, their keys, or a function of a key. Parameters in no group are frozen.
        step: the number of steps that were taken, where the optimizer does not store it, as SGD.
        start_missing: parameters for which nothing is stored begin at step 0. Without it they are frozen, as
            parameters without a gradient are in PyTorch.

    Raises:
        MismatchError: if the state does not fit the module; all differences are listed at once.
        ValueError: if the optimizer is of another class, or if the names of its parameters cannot be known.
    """
    require_module("optimizer_from_torch", module)
    arrays = state_dict_of(state_dict)
    mapping = plan(module, *example_inputs, **kwargs)
    params = mapping.from_torch(arrays, dialect, dtype)["params"]
    names = names_in(mapping, arrays, dialect)
    made, stored = optimizer_of(
        names, optimizer_state, kind=optimizer, groups=groups, step=step, start_missing=start_missing
    )
    return made, made.from_torch(stored, params)


def torch_optimizer(
    module: nn.Module,
    kind: str,
    *example_inputs: Any,
    groups: Sequence[Mapping[str, Any]] = ({"params": ""},),
    schedules: Sequence[Schedule] | None = None,
    **options: Any,
) -> TorchOptimizer:
    """An optimizer for a training that begins here and may go on in PyTorch.

    Args:
        kind: the class in ``torch.optim``: "AdamW".
        groups: the parameter groups, with "params", as ``groups`` of ``optimizer_from_torch``, and the options of the
            group. Parameters in no group are frozen. The default is one group with all parameters.
        schedules: for each group a function from the number of steps taken to the learning rate, such as those of
            ``flax_attn.optim``. None: the learning rates are constant.
        options: the options of all groups, by PyTorch's names: lr, betas and so on.

    Raises:
        ValueError: if there is no such optimizer, or if it has no such option.
    """
    require_module("torch_optimizer", module)
    found, names = find_kind(kind), names_of(plan(module, *example_inputs))
    keys = selected(names.order, [group["params"] for group in groups])
    own = [{name: value for name, value in group.items() if name != "params"} for group in groups]
    made = tuple(Group(k, found.defaults() | options | o) for k, o in zip(keys, own, strict=True))
    for group in made:
        found.transformation(group.options, group.options["lr"])
    labels = labelled(found, made, names, stored={}, step=0)
    return TorchOptimizer(found, made, names, labels=labels, schedules=schedules)


def published_optimizer(name: str | None) -> str | None:
    """The optimizer of the published training of a network; None without a name."""
    return None if name is None else find_recipe(name).optimizer


def published_groups(names: Names, name: str | None) -> Iterator[list[list[str]]]:
    """The groups of the published trainings of a network, or of all networks of the class of the module.

    Args:
        name: the name of the network; None: all networks of the class.
    """
    made = [entry.cls.__name__ for entry in PUBLISHED if entry.makes.__name__ == names.plan.module]
    for network in [name] if name else made:
        if network in RECIPES:
            with suppress(ValueError):
                yield RECIPES[network].groups_of(names.order)


def names_in(mapping: Plan, arrays: Mapping[str, Any], dialect: str | None) -> Names:
    """The names of the parameters in a state dict that is read in ``dialect``."""
    native = {key for key in mapping.shapes if not dropped(key)} == {key for key in arrays if not dropped(key)}
    chosen = None if dialect == AUTO and native else choose(dialect, arrays)
    return names_of(mapping, {key: tuple(value.shape) for key, value in arrays.items()}, chosen)
