"""Compares a Flax module with a torch module, both written by a user. Needs torch when it runs.

torch is imported by ``torch_ref`` only, when ``compare`` is called.
"""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import flax.linen as nn
import numpy as np

from convert.comparing.case import Case, Step, random_state
from convert.comparing.diagnosis import findings, movements, remarks
from convert.comparing.dropouts import factor, scale_dropout
from convert.comparing.pairing import Layouts, Pair, precision, shared_parameters
from convert.comparing.report import Report, Row, compared, roundings
from convert.comparing.sides import FlaxSide, TorchSide
from convert.precision import KEEP
from convert.state_dict import plan

ROUNDINGS = 10
"""How many times PyTorch's own rounding error is allowed in float32."""

DTYPES = ("float64", "float32")


def compare(
    flax_module: nn.Module,
    torch_module: Any,
    *inputs: Any,
    train_steps: int = 2,
    seed: int = 0,
    variables: Mapping[str, Any] | None = None,
    state_dict: Mapping[str, Any] | None = None,
    layouts: Layouts | None = None,
    output_layouts: Layouts | None = None,
    call: Mapping[str, Any] | None = None,
    dtypes: Sequence[str] = DTYPES,
) -> Report:
    """Run both modules on the same numbers, and compare what they compute.

    Compared are, in float64 and in float32: all outputs, the gradients of every floating point input and of every
    parameter, and the running statistics; first in eval mode, then in ``train_steps`` steps of gradient descent in
    training mode. Outputs that are no floats must be equal. In float32, ten times PyTorch's own rounding error is
    allowed where that is more than the table in ``convert.comparing.tolerances``.

    All parameters and statistics are random unless ``variables`` or ``state_dict`` gives them: many blocks do nothing
    with their own initialization. In training mode, every dropout multiplies with a constant on both sides.

    Args:
        flax_module: a Flax module of the layers of ``flax_attn.layers``.
        torch_module: the ``torch.nn.Module`` with the same keys. A copy runs; the module itself stays as it is.
        inputs: the arrays that both are called with, once, with the channels on the last axis.
        train_steps: how many steps are compared in training mode.
        seed: the seed of the random numbers.
        variables: the numbers of both sides, as Flax variables.
        state_dict: the numbers of both sides, as a PyTorch state dict.
        layouts: of each input, "image" or "plain"; one word stands for all inputs. An "image" (n, ..., c) is given to
            PyTorch as (n, c, ...). A "plain" array is given as it is. By default a floating point array of rank 3 or
            more is an image, everything else is plain: say "plain" for tokens (n, length, features).
        output_layouts: the same for each output. By default the shapes tell. Where both layouts fit, an output of rank
            4 or more is an image, everything else is plain.
        call: more keyword arguments of the call, the same on both sides; no arrays.
        dtypes: the precisions to compare in.

    Returns:
        a ``Report``: ``report.ok`` says whether everything agrees, ``str(report)`` what does not,
        ``report.check()`` raises an error with that text.

    Raises:
        MismatchError: if the keys or shapes of the two modules differ.
        ValueError: if an argument does not fit, if the torch module refuses the inputs, or if the outputs have other
            shapes or names.
        ImportError: where torch is not installed.
    """
    require_modules(flax_module, torch_module, inputs, (variables, state_dict))
    arrays, more = [np.asarray(x) for x in inputs], dict(call or {})
    mapping = plan(flax_module, *arrays, **more)
    mapping.leaves(torch_module.state_dict())
    pair = Pair(
        module=flax_module,
        torch_module=torch_module,
        plan=mapping,
        arrays=arrays,
        call=more,
        steps=train_steps,
        seed=seed,
        layouts=layouts,
        output_layouts=output_layouts,
    )
    given = mapping.to_torch(variables) if variables is not None else state_dict
    if given is None:
        return report(pair, random_state(mapping, np.random.default_rng(seed)), dtypes)
    return report(pair, mapping.to_torch(mapping.from_torch(given, dtype=KEEP)), dtypes)


def require_modules(flax_module: Any, torch_module: Any, inputs: Sequence[Any], numbers: Sequence[Any]) -> None:
    """Refuse what is no module, a call without inputs, and numbers that are given twice."""
    if not isinstance(flax_module, nn.Module):
        raise ValueError(f"compare: expected a Flax module as the first argument, got {described(flax_module)}")
    if isinstance(torch_module, type) or not import_module("torch_ref.foreign").is_module(torch_module):
        raise ValueError(f"compare: expected a torch.nn.Module as the second argument, got {described(torch_module)}")
    if not inputs:
        raise ValueError("compare: expected at least one input after the two modules, got none")
    if all(given is not None for given in numbers):
        raise ValueError("compare: expected variables or state_dict, got both")


def described(value: Any) -> str:
    """What a message calls ``value``."""
    return f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"


def report(pair: Pair, state: Mapping[str, np.ndarray], dtypes: Sequence[str]) -> Report:
    """The comparison in each of ``dtypes``. PyTorch always runs in float64 too, which tells its rounding errors."""
    shared_parameters(pair.torch_module, state, pair.names[0])
    exact = pair.case("float64", state)
    reference = torch_steps(pair, exact, "float64")
    rows: list[Row] = []
    for dtype in dtypes:
        case = exact if dtype == "float64" else pair.case(dtype, state)
        theirs = reference if dtype == "float64" else torch_steps(pair, case, dtype)
        allowed = {} if dtype == "float64" else rounding_allowed(theirs, reference)
        phases = ["eval", *(f"step {i + 1}" for i in range(pair.steps))]
        for phase, ours, expected in zip(phases, flax_steps(pair, case, dtype), theirs, strict=True):
            rows += compared(ours, expected, dtype, phase, allowed)
    moved = movements(pair, exact)
    return Report(
        title=f"{pair.names[0]} (Flax) and {pair.names[1]} (torch)",
        rows=rows,
        problems=findings(pair, exact, rows, reference, moved),
        notes=remarks(pair, exact, rows, reference),
        moves_with_input=moved[0],
        moves_with_parameters=moved[1],
    )


def modes(pair: Pair) -> list[tuple[bool, int]]:
    """Whether in training mode, and how many steps."""
    return [(False, 1), (True, pair.steps)] if pair.steps else [(False, 1)]


def flax_steps(pair: Pair, case: Case, dtype: str) -> list[Step]:
    """The step in eval mode, then those in training mode."""
    with precision(dtype):
        side = FlaxSide(case, scale_dropout)
        return [step for train, count in modes(pair) for step in side.steps(train, count)]


def torch_steps(pair: Pair, case: Case, dtype: str) -> list[Step]:
    """The same steps of the torch module; each mode has a copy of its own."""
    foreign, steps = import_module("torch_ref.foreign"), []
    for train, count in modes(pair):
        copy = foreign.copied(pair.torch_module)
        with foreign.scaled_dropout(copy, factor):
            steps += TorchSide(case, copy, dtype).steps(train, count)
    return steps


def rounding_allowed(rough: Sequence[Step], exact: Sequence[Step]) -> dict[str, float]:
    """By kind of result, how far float32 may be off: ten times PyTorch's own rounding error."""
    return {kind: ROUNDINGS * off for kind, off in roundings(rough, exact).items()}
