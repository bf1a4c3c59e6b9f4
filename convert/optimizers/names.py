"""The parameters of a PyTorch module, in the order in which it registers them, and the leaves that they become here."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from convert.planning import Row
from convert.renaming import Dialect
from convert.rules import dropped
from convert.state_dict import Plan
from convert.tensors import Lazy, as_numpy

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Names:
    """The parameters of a PyTorch module, and the leaves that hold their numbers here.

    Args:
        plan: the plan of the module here.
        shapes: the shape of each array of the state dict by its key in PyTorch.
        order: the keys of the parameters, in the order of ``module.parameters()``.
        origins: the keys in PyTorch of each parameter here, by the key that it has here: several where it joins them,
            and none where PyTorch has no such parameter.
        dialect: the dialect of the keys in PyTorch; None if they are those here.
        sorted: whether some program has sorted the keys of another module than ours, so that its order is not known.
    """

    plan: Plan
    shapes: Shapes
    order: tuple[str, ...]
    origins: Mapping[str, tuple[str, ...]]
    dialect: Dialect | None = None
    sorted: bool = False

    @property
    def rows(self) -> dict[str, Row]:
        """The parameters here, by the key that each has here."""
        return {row.key: row for row in self.plan.rows if not row.statistic}

    def read(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Arrays by the key here, from arrays ``values`` by the key in PyTorch.

        Only those with all their origins in ``values`` are in the result.
        """
        ready = [key for key, origins in self.origins.items() if origins and set(origins) <= values.keys()]
        if self.dialect is None:
            return {key: values[key] for key in ready}
        entries = self.dialect.read(filled(self.shapes, 0) | dict(values)).entries
        return {key: entries[key].value for key in ready}

    def write(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The inverse of ``read``: arrays by the key in PyTorch, from arrays by the key here."""
        if self.dialect is None:
            return dict(values)
        others = filled({row.key: row.torch_shape for row in self.plan.rows}, 0)
        written = self.dialect.write(others | dict(values))
        return {origin: written[origin] for key in values for origin in self.origins[key]}


def names_of(plan: Plan, shapes: Shapes | None = None, dialect: Dialect | None = None) -> Names:
    """The names of the parameters in a state dict.

    The keys of a state dict that PyTorch wrote are in the order of registration. If they are in alphabetical order,
    some program may have sorted them; then the order is that of the published module, and not known with a dialect.

    Args:
        shapes: the shape of each array by its key, in the order of the file; None: those of the module here.
        dialect: the dialect of the keys; None if they are those here.

    Raises:
        ValueError: if the dialect computes parameters, so that the state of an optimizer does not carry over.
    """
    given = plan.shapes if shapes is None else {key: shape for key, shape in shapes.items() if not dropped(key)}
    written = dialect.write_names([row.key for row in plan.rows]) if dialect else {}
    origins = {key: written.get(key, (key,)) for key in plan.parameters}
    parameters = [origin for names in origins.values() for origin in names]
    first = {second: row.key for second, row in plan.aliases.items()} if dialect is None else {}
    is_sorted, own = list(given) == sorted(given), _kept([first.get(key, key) for key in given], parameters)
    order = _kept(parameters, parameters) if is_sorted and dialect is None else own
    lost = is_sorted and order != _kept(parameters, parameters)
    names = Names(plan, given, order=order, origins=origins, dialect=dialect, sorted=lost)
    if dialect:
        _require_moved(names, dialect)
    return names


def _kept(keys: Iterable[str], parameters: Iterable[str]) -> tuple[str, ...]:
    """Those of ``keys`` that are ``parameters``, each once."""
    wanted = set(parameters)
    return tuple(dict.fromkeys(key for key in keys if key in wanted))


def filled(shapes: Shapes, number: float) -> dict[str, Any]:
    """For each key a ``Lazy`` array of its shape that is ``number`` everywhere."""

    def lazy(shape: tuple[int, ...]) -> Lazy:
        return Lazy(shape, np.dtype(np.float64), lambda: np.full(shape, number, np.float64))

    return {key: lazy(shape) for key, shape in shapes.items()}


def _require_moved(names: Names, dialect: Dialect) -> None:
    """Refuse a dialect that does more than move the numbers of parameters: ones must stay ones."""
    given = filled(names.shapes, 1)
    entries = dialect.read(given).entries
    for key, origins in names.origins.items():
        value = entries[key].value
        moved = not origins or value is given[origins[0]] or np.all(as_numpy(value) == 1)
        if not moved:
            raise ValueError(
                f"the dialect {dialect.name} computes the numbers of {key} from those of {', '.join(origins)}, so that "
                "the state of the optimizer does not carry over; convert the weights without the optimizer"
            )
