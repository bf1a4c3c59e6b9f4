"""The PyTorch state dict of the Flax variables in a file that ``save`` wrote."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from convert.mismatch import refuse, shape_differences
from convert.planning import Path, owners_recorded
from convert.recognition import entry_plan
from convert.renaming import Dialect
from convert.rules import COUNTER
from convert.state_dict import Plan, in_torch_layout, plan
from flax_attn.catalog import CATALOG, PUBLISHED, Entry
from flax_attn.layers import BatchNorm, InstanceNorm, Module

COUNTED = (BatchNorm, InstanceNorm)
"""Layers that have a batch counter in PyTorch if they have running statistics."""

STATISTIC = "running_mean"


@dataclass(frozen=True)
class Export:
    """The plan of a module, and the keys of PyTorch's batch counters that have no leaf here."""

    plan: Plan
    counters: tuple[str, ...]

    def differences(self, arrays: Mapping[str, Any]) -> list[str]:
        """A line for each difference between the plan and ``arrays``, which have keys such as "params/fc/0/kernel"."""
        expected = {"/".join(row.path): row.shape for row in self.plan.rows}
        found = {key: tuple(array.shape) for key, array in arrays.items()}
        return shape_differences(expected, found, {key: key for key in expected | found})

    def state_dict(self, arrays: Mapping[str, Any], dialect: Dialect | None = None) -> dict[str, Any]:
        """The state dict of variables, and a batch counter of 0 for each normalization that has one in PyTorch.

        Each array is read when its ``make`` is called.

        Args:
            arrays: the variables by keys such as "params/fc/0/kernel".

        Raises:
            MismatchError: if the variables do not fit the plan.
            ValueError: if the dialect cannot express an array.
        """
        refuse(self.differences(arrays), f"the variables do not fit {self.plan.module}")
        state = {row.key: in_torch_layout(arrays["/".join(row.path)], row) for row in self.plan.rows}
        state |= {key: state[row.key] for key, row in self.plan.aliases.items()}
        names: dict[str, tuple[str, ...]] = {key: (key,) for key in state}
        written: dict[str, Any] = dict(state)
        if dialect:
            names = dialect.write_names(state)
            written = dialect.write(state)
        for key in self.counters:
            (statistic,) = names[key.removesuffix(COUNTER) + STATISTIC]
            written[statistic.removesuffix(STATISTIC) + COUNTER] = np.zeros((), np.int64)
        return dict(sorted(written.items()))


def export_of(
    module: nn.Module, arrays: Mapping[str, Any], inputs: Sequence[tuple[tuple[int, ...], int]] = ()
) -> Export:
    """How ``module`` is exported: its plan for the given inputs, or for those in the catalog that fit it best.

    Args:
        arrays: the variables by keys such as "params/fc/0/kernel". Inputs that give these shapes fit best.
        inputs: the shape of each input, and for integers a number above 0.

    Raises:
        ValueError: if no inputs are given and the catalog has none, or if the module takes none of them.
    """
    who = type(module).__name__
    if inputs:
        structs = [jax.ShapeDtypeStruct(shape, np.int32 if below else np.float32) for shape, below in inputs]
        with owners_recorded() as owners:
            found = plan(module, *structs)
        return Export(found, batch_counters(found, owners))
    first: Export | None = None
    for entry in CATALOG + PUBLISHED:
        export = entry_export(entry, module) if entry.makes is type(module) else None
        if export and not export.differences(arrays):
            return export
        first = first or export
    if first is None:
        raise ValueError(f"{who}: no example in the catalog fits it; say what it is called with: --input 2,33,29,3")
    return first


def entry_export(entry: Entry, module: nn.Module) -> Export | None:
    """How ``module`` is exported if it takes the example inputs of ``entry``; None if it does not."""
    if not isinstance(module, Module):
        return None
    try:
        with owners_recorded() as owners:
            found = entry_plan(entry, module)
    except (ValueError, TypeError):
        return None
    return Export(found, batch_counters(found, owners))


def batch_counters(mapping: Plan, owners: Mapping[Path, type]) -> tuple[str, ...]:
    """The keys of the batch counters that PyTorch's normalizations have beside their running statistics."""
    rows = {row.key: row for row in mapping.rows} | dict(mapping.aliases)
    statistics = [key for key in rows if key.rpartition(".")[2] == STATISTIC]
    counted = [key for key in statistics if issubclass(owners[rows[key].path[1:-1]], COUNTED)]
    return tuple(sorted({key.removesuffix(STATISTIC) + COUNTER for key in counted} - rows.keys()))
