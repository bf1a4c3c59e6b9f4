"""Measure the entries of ``flax_attn/catalog/bench.py`` against PyTorch: ``python -m examples.benchmark [WORD]``.

With WORD, only the entries whose name contains WORD. Both sides get the same random weights and inputs, and their
outputs are compared first. Ours is compiled by jax.jit. PyTorch runs eager, with channels last, and under
torch.compile. All forms are called in turn in one process. The mode "training" is a training step: the forward pass,
new batch statistics, and the gradients of the parameters and the inputs. The ratio is the time of PyTorch's fastest
form over ours: above 1 we are faster.

The figures, with quartiles, the time of the first call, memory, commit and machine, are written to
FOLDER/figures.json, and a bar chart to FOLDER/float32.png. What is there for the same commit is not measured again.
``--out docs/performance`` and then ``python -m docs.tables`` write the page docs/performance.md.

With --parity, nothing is timed: the table is of the differences between Flax and PyTorch, by catalog entry.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from examples.benchmark.case import with_word
from examples.benchmark.chart import draw_chart
from examples.benchmark.figures import Figures
from examples.benchmark.measure import Options, measure, release
from examples.benchmark.parity import show_parity
from examples.benchmark.ratios import MODES, summary
from examples.benchmark.report import rich_table
from examples.benchmark.timing import keep_freed_memory
from flax_attn.catalog import Entry
from flax_attn.catalog.bench import BENCH

DTYPES = ("float32", "bfloat16")


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    options = argparse.ArgumentParser(
        "python -m examples.benchmark", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("word", nargs="?", default="", help="only entries whose name contains it")
    options.add_argument("--parity", action="store_true", help="differences from the PyTorch twins, no times")
    options.add_argument("--dtype", choices=DTYPES, default="float32", help="what both sides compute in")
    options.add_argument("--only", choices=MODES, help="only the forward pass, or only the training step")
    options.add_argument("--rounds", type=positive, help="the number of rounds, whatever they take")
    options.add_argument("--seconds", type=seconds, default=2.0, help="for the rounds of an entry in one mode")
    options.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    options.add_argument("--compile-limit", type=positive, default=120, help="seconds for one torch.compile")
    options.add_argument("--out", type=Path, default=Path("build/benchmark"), metavar="FOLDER", help="for all files")
    options.add_argument("--again", action="store_true", help="measure what the folder has too")
    return options


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text}")
    return int(text)


def seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number of seconds above 0, got {text}")
    return value


def main() -> None:
    """Measure, print the table, and write the files."""
    given = parser().parse_args()
    if given.parity:
        show_parity(given.word)
        return
    keep_freed_memory()
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high")
    modes = (given.only,) if given.only else MODES
    options = Options(
        modes,
        given.seconds,
        given.rounds,
        compile=not given.no_compile,
        compile_limit=given.compile_limit,
    )
    chosen = with_word(BENCH, given.word)
    try:
        figures = Figures(given.out)
    except (OSError, ValueError) as error:
        raise SystemExit(str(error)) from error
    run(figures, chosen, given.dtype, options, again=given.again)
    report(figures, chosen, given.dtype, given.out)


def run(figures: Figures, chosen: Sequence[Entry], dtype: str, options: Options, again: bool) -> None:
    """Measure the entries that ``figures`` does not have. One that fails is a row with its error."""
    left = [entry for entry in chosen if again or not figures.has(entry.name, dtype, tuple(options.modes))]
    console = Console(stderr=True)
    for place, entry in enumerate(left, 1):
        console.print(f"{place}/{len(left)} {entry.name}", highlight=False)
        try:
            result: dict[str, Any] = measure(entry, dtype, options)
        except Exception as error:
            result = {"error": f"{type(error).__name__}: {error}"[:300]}
        figures.add(entry.name, dtype, result)
        release()


def report(figures: Figures, chosen: Sequence[Entry], dtype: str, folder: Path) -> None:
    """Print the table of the chosen entries, and draw the chart of all that the folder has."""
    order = {entry.name: place for place, entry in enumerate(BENCH)}
    mine = [row for row in figures.rows if row["dtype"] == dtype and row["name"] in order]
    mine.sort(key=lambda row: order[row["name"]])
    names = {entry.name for entry in chosen}
    rows = [row for row in mine if row["name"] in names]
    console = Console(width=160)
    console.print(rich_table(rows))
    for line in summary(rows):
        console.print(line, highlight=False)
    machine = figures.content["machine"]
    title = f"flax_attn against PyTorch, {dtype}, {machine['jax device']} against {machine['torch device']}"
    draw_chart(mine, title, folder / f"{dtype}.png")


if __name__ == "__main__":
    main()
