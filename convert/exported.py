"""The PyTorch state dict of the Flax variables in a file that ``save`` wrote."""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from convert.recognition import entry_plan
from convert.renaming import Dialect
from convert.rules import COUNTER, RUNNING
from convert.state_dict import Plan, Row, plan, refuse, shape_differences
from convert.tensors import Lazy, as_numpy
from flax_attn.catalog import find_entries
from flax_attn.catalog.spelling import class_path
from flax_attn.layers import Module


def own_plan(module: nn.Module, arrays: Mapping[str, Any], inputs: Sequence[tuple[tuple[int, ...], int]] = ()) -> Plan:
    """The plan of ``module`` for the given inputs, or for those in the catalog with which the variables fit it.

    Raises:
        ValueError: if no inputs are given and the catalog has none, or if the module takes none of them.
    """
    name = type(module).__name__
    if inputs:
        structs = [jax.ShapeDtypeStruct(shape, np.int32 if below else np.float32) for shape, below in inputs]
        return plan(module, *structs)
    if not isinstance(module, Module) or not class_path(type(module)).startswith("flax_attn."):
        raise ValueError(f"{name}: say what it is called with, such as --input 2,33,29,3")
    plans, refusals = [], []
    for entry in find_entries(name):
        try:
            plans.append(entry_plan(entry, module))
        except ValueError as refusal:
            refusals.append(refusal)
            continue
        if not variable_differences(plans[-1], arrays):
            return plans[-1]
    if not plans:
        raise ValueError(str(refusals[0]).partition("\n")[0])
    return plans[0]


def variable_differences(mapping: Plan, arrays: Mapping[str, Any]) -> list[str]:
    """A line for each difference between the leaves of a plan and the arrays of a file."""
    expected = {"/".join(row.path): row.shape for row in mapping.rows}
    return shape_differences(expected, {key: tuple(array.shape) for key, array in arrays.items()})


def torch_state(mapping: Plan, arrays: Mapping[str, Any], dialect: Dialect | None = None) -> dict[str, Any]:
    """The state dict of variables, with the batch counters that PyTorch's normalizations have, each 0.

    Without a dialect, each array is read when it is written. Dialects join and split arrays, so that all are read here.

    Args:
        arrays: the variables by keys such as "params/fc/0/kernel".

    Raises:
        MismatchError: if the variables do not fit the plan.
        ValueError: if the dialect cannot express an array.
    """
    refuse(variable_differences(mapping, arrays), f"the variables do not fit {mapping.module}")
    state: dict[str, Any] = {}
    for row in mapping.rows:
        state[row.key] = in_torch_layout(arrays["/".join(row.path)], row)
    state |= {key: state[row.key] for key, row in mapping.aliases.items()}
    counters = {key: np.zeros((), np.int64) for key in mapping.counters}
    if dialect is None:
        return dict(sorted((state | counters).items()))
    names = dialect.write_names(state)
    spoken = {key: names[key.removesuffix(COUNTER) + RUNNING][0].removesuffix(RUNNING) + COUNTER for key in counters}
    return dialect.write({key: as_numpy(leaf) for key, leaf in state.items()}) | {
        spoken[k]: counters[k] for k in spoken
    }


def in_torch_layout(leaf: Any, row: Row) -> Lazy:
    """``leaf`` with its axes in PyTorch's order."""
    return Lazy(row.torch_shape, leaf.dtype, lambda: as_numpy(leaf).transpose(np.argsort(row.axes)))
