"""The table of the figures for a terminal."""

from collections.abc import Sequence

from rich.table import Table

from examples.benchmark.ratios import HEAD, MODES, Row, cells, ratio


def rich_table(rows: Sequence[Row]) -> Table:
    """A line for each entry and mode; a loss is red."""
    table = Table("entry", "mode", *HEAD, box=None)
    for row in rows:
        for mode in (mode for mode in MODES if mode in row):
            table.add_row(row["name"], mode, *cells(row, mode), style="red" if ratio(row[mode]) < 1 else "")
        if "error" in row:
            table.add_row(row["name"], "failed", row["error"], style="red")
    return table
