"""The table of the figures."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from rich.table import Table

from examples.benchmark.case import MODES
from examples.benchmark.measure import best_torch, ratio
from flax_attn.catalog.bench import CAUSES

Row = dict[str, Any]

COLUMNS = ("entry", "size", "mode", "ours ms", "plain", "eager", "channels last", "compile", "ratio", "memory")


def ratios(rows: Iterable[Row], mode: str) -> dict[str, float]:
    """The ratio of each row that was measured in ``mode``, by the name of its entry."""
    return {row["name"]: ratio(row[mode]) for row in rows if mode in row}


def geometric_mean(values: Iterable[float]) -> float:
    """The geometric mean; NaN of nothing."""
    logarithms = [math.log(value) for value in values]
    return math.exp(sum(logarithms) / len(logarithms)) if logarithms else math.nan


def cells(row: Row, mode: str) -> list[str]:
    """A row of the table for one mode. Times are medians in ms, and ``memory`` that of PyTorch over ours."""
    forms = row[mode]
    shown = [milliseconds(forms[form]) for form in ("ours", "plain", "eager", "channels_last", "compile")]
    size = row["sizes"][0]
    return [row["name"], size, mode, *shown, f"{ratio(forms):.2f}", memory(forms)]


def milliseconds(figures: Row) -> str:
    return f"{figures['median'] * 1e3:.3g}" if "median" in figures else "-"


def memory(forms: Row) -> str:
    """Megabytes that the call took at most beside what was there before: ours, and PyTorch's in its best form."""
    found = [forms[name].get("peak") for name in ("ours", best_torch(forms))]
    return " / ".join("-" if peak is None else f"{peak / 2**20:.0f}" for peak in found)


def summary(rows: Sequence[Row]) -> list[str]:
    """A line for each mode: the geometric mean, the worst, and how many are faster than PyTorch."""
    lines = []
    for mode in MODES:
        found = ratios(rows, mode)
        if found:
            worst, wins = min(found, key=lambda name: found[name]), sum(value >= 1 for value in found.values())
            mean = geometric_mean(found.values())
            lines.append(
                f"{mode}: geometric mean {mean:.2f}, {wins} of {len(found)} faster than PyTorch, "
                f"slowest {worst} {found[worst]:.2f}"
            )
    return lines


def rich_table(rows: Sequence[Row]) -> Table:
    """The table for a terminal; a loss is red."""
    table = Table(*COLUMNS, box=None)
    for row in rows:
        for mode in (mode for mode in MODES if mode in row):
            table.add_row(*cells(row, mode), style="red" if ratio(row[mode]) < 1 else "")
        if "error" in row:
            table.add_row(row["name"], row["error"], style="red")
    return table


def cause(row: Row) -> str:
    """Why an entry is slower than PyTorch; empty where it is not."""
    lost = any(ratio(row[mode]) < 1 for mode in MODES if mode in row)
    return CAUSES.get(row["name"], "") if lost else ""
