"""Compares a Flax module with a torch module, both written by a user. Needs torch when it runs.

torch is imported by ``torch_ref`` only, when ``compare`` is called.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import flax.linen as nn
import numpy as np

from convert.case import Case, Step, random_state
from convert.dropouts import factor, scale_dropout
from convert.pairing import Layouts, Pair, fits, is_float, precision, shared_parameters
from convert.report import Report, Row, compared, roundings
from convert.sides import FlaxSide, TorchSide
from convert.state_dict import plan
from convert.tolerances import TOLERANCE, difference

ROUNDINGS = 10
"""How many times PyTorch's own rounding error is allowed in float32."""

NUDGE = 1e-9
"""How far parameters move when it is asked whether gradients jump."""

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
    allowed where that is more than the table in ``convert.tolerances``.

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
    return report(pair, mapping.to_torch(mapping.from_torch(given)), dtypes)


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
    rows, problems = [], one_sided(pair, exact, reference[0])
    for dtype in dtypes:
        case = exact if dtype == "float64" else pair.case(dtype, state)
        theirs = reference if dtype == "float64" else torch_steps(pair, case, dtype)
        allowed = {} if dtype == "float64" else rounding_allowed(theirs, reference)
        phases = ["eval", *(f"step {i + 1}" for i in range(pair.steps))]
        for phase, ours, expected in zip(phases, flax_steps(pair, case, dtype), theirs, strict=True):
            rows += compared(ours, expected, dtype, phase, allowed)
    by_input, by_parameters = movements(pair, exact)
    problems += unmoved(by_input, by_parameters) + random_numbers(pair, exact, rows) + without_numbers(reference[0])
    return Report(
        title=f"{pair.names[0]} (Flax) and {pair.names[1]} (torch)",
        rows=rows,
        problems=problems,
        notes=without_gradient(exact, reference)
        + ambiguous(pair, exact, rows)
        + jumps(pair, exact, rows, reference[0]),
        moves_with_input=by_input,
        moves_with_parameters=by_parameters,
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


def one_sided(pair: Pair, case: Case, theirs: Step) -> list[str]:
    """What is a parameter on one side and a statistic, or nothing, on the other side."""
    expected = {f"gradient of {key}" for key in case.parameters} | {*case.statistics}
    found = {name for name in theirs if not name.startswith(("output", "gradient of input"))}
    lost = sorted(name.removeprefix("gradient of ") for name in expected - found)
    if not lost:
        return []
    who = f"{pair.names[0]} trains what {pair.names[1]} has as a buffer, or the other way round"
    return [f"{who}: {', '.join(lost)}"]


def movements(pair: Pair, case: Case) -> tuple[float, float | None]:
    """How far the outputs of the torch module move with all inputs, and with all parameters, in eval mode."""
    foreign, twins = import_module("torch_ref.foreign"), import_module("torch_ref.twins")
    copy, rng = foreign.copied(pair.torch_module), np.random.default_rng(pair.seed + 1)

    def run(state: Mapping[str, np.ndarray], arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        twins.fill(copy, state, "float64")
        return list(foreign.called(copy, case.arguments, case.to_torch(arrays)).values())

    arrays, trained = case.batches[0], {*case.parameters}
    before = run(case.state, arrays)
    nearby = {
        key: value * (1 + 0.1 * rng.normal(size=value.shape)) if key in trained else value
        for key, value in case.state.items()
    }
    nearby |= {key: nearby[row.key] for key, row in case.plan.aliases.items()}
    by_input = distance(run(case.state, [changed(x, rng) for x in arrays]), before)
    return by_input, distance(run(nearby, arrays), before) if trained else None


def changed(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Another input of the same kind: the numbers of ``x`` in another order; floats that are all equal get noise."""
    moved = rng.permutation(x.reshape(-1)).reshape(x.shape)
    return x + rng.normal(size=x.shape) if is_float(x) and np.array_equal(moved, x) else moved


def distance(after: Sequence[np.ndarray], before: Sequence[np.ndarray]) -> float:
    """The largest ``difference`` of two runs; infinite where a run has other shapes."""
    if [x.shape for x in after] != [x.shape for x in before]:
        return float("inf")
    return max((difference(a, b) for a, b in zip(after, before, strict=True)), default=0.0)


def unmoved(by_input: float, by_parameters: float | None) -> list[str]:
    """What the output does not depend on: nothing can be said about it then."""
    smallest, problems = TOLERANCE["float64"], []
    if by_input <= smallest:
        problems.append(
            "The output does not depend on its input, so the comparison shows nothing. Give an input that matters, "
            "and numbers that let it through."
        )
    if by_parameters is not None and by_parameters <= smallest:
        problems.append(
            "The output does not depend on the parameters at the numbers that were given, so the comparison shows "
            "nothing. Leave out variables and state_dict: the numbers are random then."
        )
    return problems


def random_numbers(pair: Pair, case: Case, rows: Sequence[Row]) -> list[str]:
    """Whether the torch module draws random numbers in training mode, where results of training differ."""
    if all(row.ok for row in rows if row.name.startswith("step")):
        return []
    foreign = import_module("torch_ref.foreign")
    copy = foreign.copied(pair.torch_module).double()
    with foreign.scaled_dropout(copy, factor):
        drawn = foreign.draws_numbers(copy, case.arguments, case.to_torch(case.batches[0]))
    text = (
        f"{pair.names[1]} draws random numbers in training mode that are not replaced. Use the dropouts of torch.nn, "
        "or train_steps=0."
    )
    return [text] if drawn else []


def without_numbers(step: Step) -> list[str]:
    """The results that are NaN or infinite everywhere."""
    names = [name for name, x in step.items() if x.size and not np.isfinite(x).any()]
    return [f"These results are NaN or infinite, so they were not compared: {', '.join(names[:5])}."] if names else []


def without_gradient(case: Case, theirs: Sequence[Step]) -> list[str]:
    """The parameters whose gradient is exactly zero in every step: their arithmetic was not compared."""
    names = [key for key in case.parameters if not any(np.any(step.get(f"gradient of {key}", 1)) for step in theirs)]
    if not names:
        return []
    shown = ", ".join(names[:5]) + f" and {len(names) - 5} more" * (len(names) > 5)
    return [f"Nothing depends on these parameters at these numbers, so they were not compared: {shown}."]


def jumps(pair: Pair, case: Case, rows: Sequence[Row], theirs: Step) -> list[str]:
    """Whether PyTorch's own gradients jump when the parameters move by almost nothing, where gradients differ."""
    wrong = {row.kind for row in rows if not row.ok and row.name.startswith("eval")}
    if wrong != {"gradients"}:
        return []
    rng = np.random.default_rng(pair.seed)
    moved = {k: v + NUDGE * rng.normal(size=v.shape) if is_float(v) else v for k, v in case.state.items()}
    moved |= {key: moved[row.key] for key, row in case.plan.aliases.items()}
    copy = import_module("torch_ref.foreign").copied(pair.torch_module)
    (nearby,) = TorchSide(dataclasses.replace(case, state=moved), copy, "float64").steps(train=False)
    largest = max(row.relative for row in compared(nearby, theirs, "float64", "") if row.kind == "gradients")
    text = (
        f"PyTorch's own gradients change by {largest:.0e} when the parameters move by {NUDGE:.0e}: the numbers lie on an "
        "edge, such as a ReLU at 0 or grid_sample at the centre of a pixel. Take other numbers."
    )
    return [text] if largest > NUDGE * 1e4 else []


def ambiguous(pair: Pair, case: Case, rows: Sequence[Row]) -> list[str]:
    """The outputs that differ, and that both layouts fit."""
    wrong = {row.name.partition(": ")[2] for row in rows if not row.ok}
    if pair.output_layouts is not None:
        return []
    triples = zip(case.names, case.cotangents, case.outputs, strict=True)
    return [
        f"{name} {x.shape} was read as {layout}, though both layouts fit its shape: output_layouts says which it is."
        for name, x, layout in triples
        if name in wrong and len(fits(x.shape, x.shape)) > 1
    ]
