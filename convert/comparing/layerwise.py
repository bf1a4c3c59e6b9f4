"""Finds the first layer whose output differs, by the paths that layers have on both sides."""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from convert.comparing.case import Case
from convert.comparing.pairing import Pair, fits, precision
from convert.comparing.tolerances import TOLERANCE, difference
from convert.precision import KEEP
from convert.state_dict import Variables
from flax_attn.catalog import channels_last

Calls = dict[str, list[list[Any]]]
"""Of each layer, by path, the outputs of each of its calls."""


def first_difference(pair: Pair, case: Case) -> list[str]:
    """A sentence on the first layer whose output differs in eval mode; nothing if no layer can be compared."""
    foreign, twins = import_module("torch_ref.foreign"), import_module("torch_ref.twins")
    copy, counts, last = foreign.copied(pair.torch_module), dict[str, int](), ""
    twins.fill(copy, case.state, "float64")
    try:
        ours = flax_layers(case)
    except jax.errors.UnexpectedTracerError:
        return []
    for path, theirs in foreign.layer_outputs(copy, case.arguments, case.to_torch(case.batches[0])):
        number = counts[path] = counts.get(path, -1) + 1
        mine = ours.get(path, [])
        if not path or number >= len(mine) or len(mine[number]) != len(theirs):
            continue
        if any(apart(a, b) for a, b in zip(mine[number], theirs, strict=True)):
            before = f"between {last} and it" if last else "before it"
            text = f"Layer by layer, the output of {path} is the first that differs: look at it"
            return [f"{text}, and at what is computed {before}."]
        last = path
    return [f"All layers of the same path agree: look at what {pair.names[0]} computes after {last}."] if last else []


def flax_layers(case: Case) -> Calls:
    """The outputs of every call of a layer of the Flax module in eval mode."""

    def run(variables: Variables, arrays: Sequence[Any]) -> Calls:
        found: Calls = {}

        def record(call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
            out = call(*args, **kwargs)
            if context.method_name == "__call__":
                found.setdefault(".".join(context.module.path), []).append(jax.tree.leaves(out))
            return out

        with nn.intercept_methods(record):
            case.apply(variables, arrays, train=False, mutable=())
        return found

    with precision("float64"):
        return jax.tree.map(np.asarray, jax.jit(run)(case.plan.from_torch(case.state, dtype=KEEP), case.batches[0]))


def apart(ours: np.ndarray, theirs: np.ndarray) -> bool:
    """Whether two outputs differ in every layout that fits their shapes; not if none fits."""
    differences = [difference(ours, channels_last(theirs, layout)) for layout in fits(ours.shape, theirs.shape)]
    return bool(differences) and min(differences) > TOLERANCE["float64"]
