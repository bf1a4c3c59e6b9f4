"""The error that lists every difference between a module and the numbers that it is given."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

Name = TypeVar("Name")


class MismatchError(ValueError):
    """A state dict, or a tree of variables, does not fit a module. The message lists every difference.

    Args:
        summary: who does not fit what.
        problems: a line for each difference. "-" marks a name that is missing, "+" one that is left over, "~" another
            shape, "!" other numbers than expected, "*" a name that stands for several arrays.
        hint: the likely cause, and what to do; empty where none is known.
    """

    def __init__(self, summary: str, problems: Sequence[str] = (), hint: str = ""):
        super().__init__(summary, tuple(problems), hint)
        self.summary = summary
        self.problems = [_printable(line) for line in problems]
        self.hint = _printable(hint)

    def __str__(self) -> str:
        return self.text()

    def text(self, limit: int | None = None) -> str:
        """The message: the summary, the hint, and then the first ``limit`` differences. None: all of them."""
        count = len(self.problems)
        head = f"{self.summary}: {count} difference{'s' * (count > 1)}" if count else self.summary
        shown = self.problems if limit is None else self.problems[:limit]
        rest = [f"... and {count - len(shown)} more"] if len(shown) < count else []
        return "\n".join([head, *([f"hint: {self.hint}"] if self.hint else []), *shown, *rest])


def _printable(line: str) -> str:
    return line if line.isprintable() else ascii(line)[1:-1]


def refuse(problems: Sequence[str], summary: str, hint: str = "") -> None:
    """Raise a MismatchError, if there are any problems."""
    if problems:
        raise MismatchError(summary, problems, hint)


def shape_differences(
    expected: Mapping[Name, tuple], found: Mapping[Name, tuple], labels: Mapping[Name, str]
) -> list[str]:
    """A line for each name that is missing (-), left over (+) or of another shape (~), with the labels of the names."""
    missing = [f"- {labels[k]}: expected shape {expected[k]}, found nothing" for k in expected if k not in found]
    surplus = [f"+ {labels[k]}: found shape {found[k]}, expected nothing" for k in found if k not in expected]
    wrong = [
        f"~ {labels[k]}: expected shape {shape}, found {found[k]}"
        for k, shape in expected.items()
        if k in found and found[k] != shape
    ]
    return missing + surplus + wrong
