"""The result of a comparison: a row for each pair of arrays, and the text that says what differs and where to look."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from convert.comparing.case import Step, gradients, largest_gradient, outputs
from convert.comparing.tolerances import TOLERANCE, absolute_difference, difference, largest

LINES = 12
"""How many rows ``str(report)`` shows at most."""

KINDS = ("outputs", "gradients", "statistics")


@dataclass(frozen=True)
class Row:
    """How far one array of the Flax side is from that of the torch side.

    Args:
        dtype: the dtype that both sides computed in.
        name: what is compared: "eval: output", "step 1: gradient of fc.weight", "step 2: bn.running_mean".
        kind: "outputs", "gradients" or "statistics".
        absolute: the largest difference of two numbers; infinite where the shapes differ.
        relative: what ``allowed`` bounds; see ``convert.comparing.tolerances.difference``.
        magnitude: the largest finite number of the torch side.
    """

    dtype: str
    name: str
    kind: str
    absolute: float
    relative: float
    allowed: float
    magnitude: float = 0.0

    @property
    def ok(self) -> bool:
        return self.relative <= self.allowed

    @property
    def badness(self) -> float:
        """How many times the allowed difference was reached."""
        return self.relative / self.allowed if self.allowed else self.relative * 1e300

    def __str__(self) -> str:
        numbers = f"{self.absolute:.2e}  {self.relative:.2e}  {self.allowed:.0e}"
        return f"{self.dtype}  {numbers}  {'ok     ' if self.ok else 'OUTSIDE'}  {self.name}"


class ComparisonError(AssertionError):
    """The two modules of a comparison do not agree. The message is the report."""


@dataclass(frozen=True)
class Report:
    """The result of ``convert.compare``.

    Args:
        title: which modules were compared.
        rows: a row for each pair of arrays.
        problems: what makes the comparison fail beside the rows, in sentences.
        notes: what is worth knowing, in sentences.
        moves_with_input: how far the output of the torch module moves when its inputs are changed, relative to the
            largest output or to 1.
        moves_with_parameters: the same for a change of all parameters by about a tenth; None without parameters.
    """

    title: str
    rows: Sequence[Row]
    problems: Sequence[str] = ()
    notes: Sequence[str] = ()
    moves_with_input: float | None = None
    moves_with_parameters: float | None = None

    @property
    def ok(self) -> bool:
        return not self.problems and all(row.ok for row in self.rows)

    @property
    def wrong(self) -> list[Row]:
        """The rows that are not ok, the worst first."""
        return [row for row in self.worst if not row.ok]

    @property
    def worst(self) -> list[Row]:
        """All rows, the worst first."""
        return sorted(self.rows, key=lambda row: (row.ok, -row.badness))

    def check(self) -> None:
        """Raise a ComparisonError with the text of this report unless everything agrees."""
        if not self.ok:
            raise ComparisonError(str(self))

    def __str__(self) -> str:
        wrong, count = self.wrong, len(self.rows)
        found = f"{len(wrong)} of {count} results differ" if wrong else f"all {count} results agree"
        shown = wrong[:LINES] if wrong else self.worst[:3]
        head = "dtype    absolute  relative  allowed         result"
        rest = [f"... and {len(wrong) - LINES} more in report.rows"] if len(wrong) > LINES else []
        lines = [f"{self.title}: {found}", head, *map(str, shown), *rest]
        return "\n".join([*lines, *self.movement(), *self.problems[:6], *hints(self.rows), *self.notes[:4]])

    def movement(self) -> list[str]:
        """What the output depends on, in a sentence."""
        moved = {"its inputs": self.moves_with_input, "the parameters": self.moves_with_parameters}
        known = [f"by {amount:.1e} with {what}" for what, amount in moved.items() if amount is not None]
        return [f"The output moves {' and '.join(known)}."] if known else []


def kind_of(name: str, step: Step) -> str:
    """The kind of the result ``name`` of ``step``."""
    return KINDS[0] if name in outputs(step) else KINDS[1] if name in gradients(step) else KINDS[2]


def compared(
    ours: Step, theirs: Step, dtype: str, phase: str, rounding: Mapping[str, float] | None = None
) -> list[Row]:
    """A row for each result that both steps have.

    Args:
        phase: what the names begin with.
        rounding: by kind, the difference that is allowed where it is more than ``convert.comparing.tolerances`` allows.
    """
    scale = largest_gradient(theirs)
    rows = []
    for name in [name for name in theirs if name in ours]:
        kind, mine, expected = kind_of(name, theirs), ours[name], theirs[name]
        allowed = max(TOLERANCE[dtype], (rounding or {}).get(kind, 0.0)) if expected.dtype.kind in "fc" else 0.0
        absolute = relative = float("inf")
        if mine.shape == expected.shape:
            absolute = absolute_difference(mine, expected)
            relative = difference(mine, expected, scale if kind == KINDS[1] else 0.0)
        numbers = {"absolute": absolute, "relative": relative, "allowed": allowed, "magnitude": largest(expected)}
        rows.append(Row(dtype, f"{phase}: {name}", kind, **numbers))
    return rows


def roundings(rough: Sequence[Step], exact: Sequence[Step]) -> dict[str, float]:
    """By kind, the largest difference of two runs of the same side in two precisions."""
    found = dict.fromkeys(KINDS, 0.0)
    for low, high in zip(rough, exact, strict=True):
        for row in compared(low, high, "float64", ""):
            if np.isfinite(row.relative):
                found[row.kind] = max(found[row.kind], row.relative)
    return found


def hints(rows: Sequence[Row]) -> list[str]:
    """What to look at, from which kinds of results are wrong."""
    wrong = {(row.name.startswith("eval"), row.kind) for row in rows if not row.ok}
    exact = any(not row.ok for row in rows if row.dtype == "float64") or all(row.dtype != "float64" for row in rows)
    evaluation, training = ({kind for is_eval, kind in wrong if is_eval is mode} for mode in (True, False))
    if not wrong:
        return []
    if not exact:
        text = "float64 agrees, float32 does not: look for a sum or a softmax in lower precision, and for a cast."
    elif "outputs" in evaluation:
        text = (
            "The outputs differ in eval mode: look at eps, at a kernel that is not transposed, at the order of layers, "
            "at padding and align_corners, at a residual that is missing."
        )
    elif "gradients" in evaluation:
        text = (
            "The outputs agree in eval mode, the gradients do not: look for stop_gradient or detach on one side only, "
            "for max against amax, and for a custom gradient."
        )
    elif training == {"statistics"} or ("statistics" in training and not has_first_output(rows)):
        text = (
            "Only the running statistics differ at first: look at momentum (PyTorch's is the share of the new value) "
            "and at the variance, which is unbiased in PyTorch's statistic."
        )
    else:
        text = (
            "Eval mode agrees, training does not: look at whether train reaches every BatchNorm and dropout, at the "
            "rate of a dropout, and at random numbers of other kinds."
        )
    return [text]


def has_first_output(rows: Sequence[Row]) -> bool:
    """Whether an output of the first training step is wrong."""
    return any(row.name.startswith("step 1") and row.kind == "outputs" and not row.ok for row in rows)
