"""What the figures say: the ratio of PyTorch's time and ours, and means of it."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

MODES = ("forward", "training")
TORCH_FORMS = ("eager", "channels_last", "compile")
FORMS = ("ours", "plain", *TORCH_FORMS)

Row = dict[str, Any]


def best_torch(forms: Row) -> str:
    """The form in which PyTorch is the fastest."""
    return min((name for name in TORCH_FORMS if "median" in forms[name]), key=lambda name: forms[name]["median"])


def ratio(forms: Row) -> float:
    """The time of PyTorch in its fastest form over ours: above 1 we are faster."""
    return forms[best_torch(forms)]["median"] / forms["ours"]["median"]


def ratios(rows: Iterable[Row], mode: str) -> dict[str, float]:
    """The ratio of each row that was measured in ``mode``, by the name of its entry."""
    return {row["name"]: ratio(row[mode]) for row in rows if mode in row}


def geometric_mean(values: Iterable[float]) -> float:
    """The geometric mean; NaN of nothing."""
    logarithms = [math.log(value) for value in values]
    return math.exp(sum(logarithms) / len(logarithms)) if logarithms else math.nan


def cells(row: Row, mode: str) -> list[str]:
    """Size, median times of each form in ms, ratio, megabytes of ours and of PyTorch's fastest form, seconds to
    compile ours."""
    forms = row[mode]
    shown = [milliseconds(forms[form]) for form in FORMS]
    return [row["sizes"][0], *shown, f"{ratio(forms):.2f}", memory(forms), f"{forms['ours']['first']:.1f}"]


HEAD = ("size", "ours ms", "plain", "eager", "channels last", "compile", "ratio", "memory MB", "first s")
"""The names of the ``cells``."""


def milliseconds(figures: Row) -> str:
    """Three digits, or all of a whole number; a dash where the form was not measured."""
    if "median" not in figures:
        return "-"
    value = figures["median"] * 1e3
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def memory(forms: Row) -> str:
    found = [forms[name].get("peak") for name in ("ours", best_torch(forms))]
    return " / ".join("-" if peak is None else f"{peak / 2**20:.0f}" for peak in found)


def summary(rows: Sequence[Row]) -> list[str]:
    """A line for each mode: the geometric mean, the worst, and how many are faster than PyTorch."""
    lines = []
    for mode in MODES:
        if found := ratios(rows, mode):
            worst, wins = min(found, key=lambda name: found[name]), sum(value >= 1 for value in found.values())
            mean = geometric_mean(found.values())
            lines.append(
                f"{mode}: geometric mean {mean:.2f}, {wins} of {len(found)} faster than PyTorch, "
                f"slowest {worst} {found[worst]:.2f}"
            )
    return lines


def without(rows: Iterable[Row], form: str) -> dict[str, list[str]]:
    """The entries that were not measured in ``form``, by the reason."""
    found: dict[str, list[str]] = {}
    for row in rows:
        reasons = {mode: row[mode][form].get("missing") for mode in MODES if mode in row}
        for reason in dict.fromkeys(reason for reason in reasons.values() if reason):
            modes = [mode for mode in reasons if reasons[mode] == reason]
            name = row["name"] if len(modes) == len(reasons) else f"{row['name']} ({modes[0]})"
            found.setdefault(reason, []).append(name)
    return found
