"""How far the outputs of a module move with its inputs and with its parameters. What does not move proves nothing."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from convert.comparing.pairing import is_float
from convert.comparing.tolerances import TOLERANCE, difference
from convert.state_dict import Plan

Moved = tuple[float, float | None]
"""How far the outputs move with all inputs and, where there are any, with all parameters."""

Arrays = Sequence[np.ndarray]
Run = Callable[[Mapping[str, np.ndarray], Arrays], Arrays]
"""The outputs for a state dict and the inputs."""

SMALLEST = TOLERANCE["float64"]
"""An output that moves by no more does not move."""


def movements(
    run: Run, plan: Plan, state: Mapping[str, np.ndarray], arrays: Arrays, seed: int, every: bool = False
) -> Moved:
    """How far the outputs of ``run`` move with all inputs, and with all parameters of ``plan``.

    Args:
        state: the numbers at which both are asked. Each parameter is multiplied by a number near 1.
        every: whether every output must move with the inputs: the first number is then that of the floating point
            output that moves least. By default it is that of the output that moves most.
    """
    rng = np.random.default_rng(seed)
    trained = {row.key for row in plan.rows if row.path[0] == "params"}
    before = run(state, arrays)
    nearby = {
        key: value * (1 + 0.1 * rng.normal(size=value.shape)) if key in trained else value
        for key, value in state.items()
    }
    nearby |= {key: nearby[row.key] for key, row in plan.aliases.items()}
    by_input = distance(run(state, [changed(x, rng) for x in arrays]), before, every)
    return by_input, distance(run(nearby, arrays), before) if trained else None


def changed(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Another input of the same kind: the numbers of ``x`` in another order; floats that are all equal get noise."""
    moved = rng.permutation(x.reshape(-1)).reshape(x.shape)
    return x + rng.normal(size=x.shape) if is_float(x) and np.array_equal(moved, x) else moved


def distance(after: Arrays, before: Arrays, every: bool = False) -> float:
    """The largest ``difference`` of two runs, or with ``every`` the smallest one of an output of floats; infinite where
    a run has other shapes.
    """
    if [x.shape for x in after] != [x.shape for x in before]:
        return float("inf")
    pairs = list(zip(after, before, strict=True))
    floats = [difference(a, b) for a, b in pairs if b.size and is_float(b)]
    return min(floats) if every and floats else max((difference(a, b) for a, b in pairs), default=0.0)


def unmoved(
    moved: Moved,
    for_input: str = "Give an input that matters, and numbers that let it through.",
    for_parameters: str = "Leave out variables and state_dict: the numbers are random then.",
) -> list[str]:
    """What the output does not depend on: nothing can be said about it then.

    Args:
        for_input, for_parameters: what to do about it.
    """
    by_input, by_parameters = moved
    problems = []
    if by_input <= SMALLEST:
        text = "The output does not depend on its input, so the comparison shows nothing."
        problems.append(f"{text} {for_input}")
    if by_parameters is not None and by_parameters <= SMALLEST:
        text = "The output does not depend on the parameters at the numbers that were given, so the comparison shows"
        problems.append(f"{text} nothing. {for_parameters}")
    return problems
