"""What a comparison can say beside its rows: what nothing depends on, and why results cannot be compared."""

import dataclasses
from collections.abc import Mapping, Sequence
from importlib import import_module

import numpy as np

from convert.comparing.case import Case, Step
from convert.comparing.dropouts import factor
from convert.comparing.layerwise import first_difference
from convert.comparing.movement import Moved, movements, unmoved
from convert.comparing.pairing import Pair, fits, is_float
from convert.comparing.report import Row, compared
from convert.comparing.sides import TorchSide

NUDGE = 1e-9
"""How far parameters move when it is asked whether gradients jump."""


def findings(pair: Pair, case: Case, rows: Sequence[Row], theirs: Sequence[Step], moves: Moved) -> list[str]:
    """What makes a comparison fail beside its rows."""
    problems = one_sided(pair, case, theirs[0]) + without_numbers(theirs[0])
    return problems + unmoved(moves) + random_numbers(pair, case, rows)


def remarks(pair: Pair, case: Case, rows: Sequence[Row], theirs: Sequence[Step]) -> list[str]:
    """What is worth knowing beside the rows."""
    wrong = any(row.name.startswith("eval: output") and not row.ok for row in rows)
    first = first_difference(pair, case) if wrong else []
    return [*first, *without_gradient(case, theirs), *ambiguous(pair, case, rows), *jumps(pair, case, rows, theirs[0])]


def one_sided(pair: Pair, case: Case, theirs: Step) -> list[str]:
    """What is a parameter on one side and a statistic, or nothing, on the other side."""
    expected = {f"gradient of {key}" for key in case.parameters} | {*case.statistics}
    found = {name for name in theirs if not name.startswith(("output", "gradient of input"))}
    lost = sorted(name.removeprefix("gradient of ") for name in expected - found)
    if not lost:
        return []
    who = f"{pair.names[0]} trains what {pair.names[1]} has as a buffer, or the other way round"
    return [f"{who}: {', '.join(lost)}"]


def moved(pair: Pair, case: Case) -> Moved:
    """How far the outputs of the torch module move with all inputs, and with all parameters, in eval mode."""
    foreign, twins = import_module("torch_ref.foreign"), import_module("torch_ref.twins")
    copy = foreign.copied(pair.torch_module)

    def run(state: Mapping[str, np.ndarray], arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        twins.fill(copy, state, "float64")
        return list(foreign.called(copy, case.arguments, case.to_torch(arrays)).values())

    return movements(run, case.plan, state=case.state, arrays=case.batches[0], seed=pair.seed + 1)


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
        f"PyTorch's own gradients change by {largest:.0e} when the parameters move by {NUDGE:.0e}: the numbers lie on "
        "an edge, such as a ReLU at 0 or grid_sample at the centre of a pixel. Take other numbers."
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
