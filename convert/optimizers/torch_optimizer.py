"""An optimizer of PyTorch, and the optax transformation that does the same arithmetic."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util
from optax.transforms import MaskedNode

from convert.optimizers.groups import Group, Label, Stored, is_stored, require_fit
from convert.optimizers.kinds import Kind
from convert.optimizers.names import Names
from convert.optimizers.optax_state import fields_of, part_of, with_fields, with_part
from convert.planning import Row
from convert.state_dict import in_torch_layout
from convert.tensors import Lazy, as_numpy, owned
from convert.values import numpy_dtype
from flax_attn.training.freezing import unchanged

FROZEN = "frozen"
"""The part of the optax state of the parameters that the optimizer leaves as they are."""

Schedule = Callable[[Any], Any]


@dataclass(frozen=True)
class TorchOptimizer:
    """An optimizer of PyTorch, and the optax transformation that does the same arithmetic.

    Args:
        kind: the class in ``torch.optim``.
        groups: its parameter groups.
        names: the parameters on both sides.
        labels: which part of the optax state each parameter belongs to, by its key here; None where it is frozen.
        step: the number of steps that were taken.
        schedules: for each group the learning rate by the number of steps that were taken; None: constant.
        momentums: for each group the momentum, for Adam the first of the betas, in the same way; None: constant.
        adjustable: whether the learning rate is in the optax state, where ``set_lr`` changes it.
    """

    kind: Kind
    groups: tuple[Group, ...]
    names: Names = field(repr=False)
    labels: Mapping[str, Label | None] = field(repr=False)
    step: int = 0
    schedules: Sequence[Schedule] | None = None
    momentums: Sequence[Schedule] | None = None
    adjustable: bool = False

    @functools.cached_property
    def transformation(self) -> optax.GradientTransformation:
        """The optax transformation, for the parameters of the module."""
        made = {str(label): self._of_group(label) for label in self.parts}
        frozen = None in self.labels.values()
        if len(made) == 1 and not frozen:
            return next(iter(made.values()))
        words = {key: str(label) if label else FROZEN for key, label in self.labels.items()}
        return optax.partition(made | ({FROZEN: unchanged()} if frozen else {}), self._tree(words))

    @property
    def parts(self) -> list[Label]:
        """The labels, each once."""
        return list(dict.fromkeys(label for label in self.labels.values() if label))

    def from_torch(self, stored: Stored, params: Any) -> Any:
        """The optax state, from what the PyTorch optimizer stores for each parameter.

        Args:
            params: the parameters here, whose dtypes the arrays get, as in PyTorch.

        Raises:
            MismatchError: if an array is missing or has another shape; all are listed at once.
        """
        require_fit(self.kind, self.groups, self.names, stored)
        state = self.transformation.init(params)
        for label in self.parts:
            origins = [origin for key in self._rows(label) for origin in self.names.origins[key]]
            given = {key: stored[key] for key in origins if is_stored(stored.get(key))}
            known = given and label.behind < self.step
            fields = self._fields(label, given, params) if known else self._count(label)
            state = with_part(state, str(label), with_fields(part_of(state, str(label)), fields))
        return state

    def to_torch(self, state: Any) -> dict[str, Any]:
        """The state dict of the PyTorch optimizer: {"state": {0: {...}, ...}, "param_groups": [...]}.

        Args:
            state: the optax state, as ``from_torch`` or ``transformation.update`` gives it.
        """
        stored = self._first()
        for label in self.parts:
            fields = fields_of(part_of(state, str(label)))
            stored |= self._stored(label, fields) if fields.get("count", 1) else {}
        numbers = {key: i for i, key in enumerate(key for group in self.groups for key in group.keys)}
        groups = [
            {**group.options, "lr": self.lr(state, i), "params": [numbers[key] for key in group.keys]}
            for i, group in enumerate(self.groups)
        ]
        return {"state": {i: stored[key] for key, i in numbers.items() if key in stored}, "param_groups": groups}

    def lr(self, state: Any, number: int) -> float:
        """The learning rate of a group at the next step."""
        own = self.groups[number].options["lr"]
        part = next((label for label in self.parts if label.group == number), None)
        if part is None or (self.schedules is None and not self.adjustable):
            return own
        fields = fields_of(part_of(state, str(part)))
        if self.schedules is None:
            lr = fields["hyperparams"]["lr"]
            return own if jnp.asarray(own, lr.dtype) == lr else float(lr)
        return float(self.schedules[number](fields["count"] + part.behind))

    def set_lr(self, state: Any, lrs: Sequence[float]) -> Any:
        """The optax state with another learning rate for each group. The optimizer must be ``adjustable``."""
        for label in self.parts:
            part = part_of(state, str(label))
            lr = jnp.asarray(lrs[label.group], part.hyperparams["lr"].dtype)
            state = with_part(state, str(label), part._replace(hyperparams={**part.hyperparams, "lr": lr}))
        return state

    def _of_group(self, label: Label) -> optax.GradientTransformation:
        options = self.groups[label.group].options
        lr = options["lr"] if self.schedules is None else delayed(self.schedules[label.group], label.behind)
        if self.momentums is None and not self.adjustable:
            return self.kind.transformation(options, lr)
        moving = {"lr": lr}
        if self.momentums is not None:
            moving["momentum"] = delayed(self.momentums[label.group], label.behind)

        def make(lr: Any, momentum: Any = None) -> optax.GradientTransformation:
            return self.kind.transformation(options if momentum is None else with_momentum(options, momentum), lr)

        return optax.inject_hyperparams(make)(**moving)

    def _rows(self, label: Label) -> dict[str, Row]:
        """The parameters with this label, by their keys here."""
        return {key: row for key, row in self.names.rows.items() if self.labels[key] == label}

    def _tree(self, leaves: Mapping[str, Any]) -> dict[str, Any]:
        """A tree like the parameters, with the ``leaves`` by their keys here, and nothing in the other places."""
        rows = self.names.rows
        return traverse_util.unflatten_dict({row.path[1:]: leaves.get(key, MaskedNode()) for key, row in rows.items()})

    def _fields(self, label: Label, stored: Stored, params: Any) -> dict[str, Any]:
        """The fields of a part of the optax state, from what PyTorch stores for its parameters."""
        rows = self._rows(label)
        fields: dict[str, Any] = {}
        leaves = traverse_util.flatten_dict(params)
        for slot, name in self.kind.slots_of(self.groups[label.group].options).items():
            values = self.names.read({key: values[slot] for key, values in stored.items()})
            fields[name] = self._tree(
                owned({key: in_flax(values[key], row, leaves[row.path[1:]]) for key, row in rows.items()})
            )
        first = next(iter(stored.values()))
        for scalar, name in self.kind.scalars.items():
            fields[name] = as_numpy(first[scalar])
        return fields | self._count(label)

    def _count(self, label: Label) -> dict[str, Any]:
        return {"count": np.asarray(self.step - label.behind, np.int32)}

    def _first(self) -> dict[str, dict[str, Any]]:
        """What PyTorch stores for each parameter, by its PyTorch key, before the first step."""
        if self.kind.first is None:
            return {}
        slot, option = self.kind.first
        return {
            key: {
                "step": np.zeros((), np.float32),
                slot: np.full(self.names.shapes[key], group.options.get(option, 0.0)),
            }
            for group in self.groups
            for key in group.keys
        }

    def _stored(self, label: Label, fields: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """What PyTorch stores for the parameters of a part of the optax state, by their PyTorch keys."""
        rows = self._rows(label)
        stored: dict[str, dict[str, Any]] = {origin: {} for key in rows for origin in self.names.origins[key]}
        for scalar, name in self.kind.scalars.items():
            for values in stored.values():
                values[scalar] = np.array(fields[name], np.float32 if name == "count" else None)
        for slot, name in self.kind.slots_of(self.groups[label.group].options).items():
            flat = traverse_util.flatten_dict(fields[name])
            arrays = {key: in_torch_layout(flat[row.path[1:]], row) for key, row in rows.items()}
            for key, array in owned(self.names.write(arrays)).items():
                stored[key][slot] = array
        return stored if self.kind.slots_of(self.groups[label.group].options) else {}


def delayed(schedule: Schedule, steps: int) -> Schedule:
    """``schedule``, for a count that began ``steps`` later."""
    return (lambda count: schedule(count + steps)) if steps else schedule


def with_momentum(options: Mapping[str, Any], momentum: Any) -> dict[str, Any]:
    """The options of a group with another momentum: for Adam, the first of its betas."""
    if "betas" in options:
        return {**options, "betas": (momentum, *options["betas"][1:])}
    return {**options, "momentum": momentum}


def in_flax(value: Any, row: Row, leaf: Any) -> Lazy:
    """``value`` with its axes in Flax's order, in the dtype of the parameter ``leaf``."""
    dtype = numpy_dtype(leaf)
    return Lazy(row.shape, dtype, lambda: as_numpy(value).transpose(row.axes).astype(dtype))
