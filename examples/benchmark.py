"""Walk the catalog and print one table: ``python -m examples.benchmark --parity [WORD]``.

For every entry, or those whose name contains WORD: the number of parameters, and the largest difference between Flax
and PyTorch, relative to max(1, the largest magnitude), on random parameters, statistics and inputs, in training mode:
the float64 outputs, the float64 gradient that is furthest off (inputs and every parameter), and the float32 outputs.
"""

import argparse
import os

os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")  # compiling is most of the time

import jax
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from flax_attn.catalog import CATALOG, Entry
from tests.helpers.parity import Parity
from tests.helpers.tolerances import difference


def differences(entry: Entry, dtype: str) -> tuple[float, float]:
    """The largest difference of an output and of a gradient."""
    parity = Parity(entry, dtype)
    out, grads, _ = parity.flax_step(parity.variables, parity.inputs, True)
    torch_out, torch_grads = parity.torch_step(parity.inputs, True)
    scale = max((float(np.abs(g).max(initial=0)) for g in torch_grads.values()), default=0.0)
    worst = max((difference(grads[key], torch_grads[key], scale) for key in grads), default=0.0)
    return max(difference(a, b) for a, b in zip(out, torch_out, strict=True)), worst


def parameters(entry: Entry) -> int:
    """How many numbers the twin trains."""
    return sum(p.numel() for p in Parity(entry, "float32").twin.parameters())


def main() -> None:
    """Print the table, and the worst of each column below it."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--parity", action="store_true", required=True, help="differences from the PyTorch twins")
    options.add_argument("word", nargs="?", default="", help="only entries whose name contains it")
    chosen = [entry for entry in CATALOG if options.parse_args().word in entry.name]
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_default_matmul_precision", "highest")
    table = Table("entry", "parameters", "float64 output", "float64 gradient", "float32 output", box=None)
    rows = []
    for entry in track(chosen, "comparing", console=Console(stderr=True), transient=True):
        rows.append((*differences(entry, "float64"), differences(entry, "float32")[0]))
        table.add_row(entry.name, f"{parameters(entry):,}", *(f"{value:.1e}" for value in rows[-1]))
    table.add_row("worst", "", *(f"{max(column):.1e}" for column in zip(*rows, strict=True)))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
