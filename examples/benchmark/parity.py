"""How far Flax and PyTorch are apart, by catalog entry: ``python -m examples.benchmark --parity [WORD]``.

Both sides run one training step on the same random parameters, statistics and inputs. The columns are the number of
parameters and the largest differences: of the outputs in float64, of the gradients of inputs and parameters in float64,
and of the outputs in float32. A difference is relative to the largest magnitude, or to 1 where that is larger.
"""

import math
import os

import jax
from rich.console import Console
from rich.progress import track
from rich.table import Table

from convert import Plan
from convert.comparing.case import gradients, largest_gradient, outputs
from convert.comparing.parity import Parity
from convert.comparing.tolerances import difference
from convert.recognition import entry_plan
from examples.benchmark.case import with_word
from flax_attn.catalog import CATALOG, Entry


def differences(entry: Entry, plan: Plan, dtype: str) -> tuple[float, float]:
    """The largest difference of an output and of a gradient."""
    parity = Parity(entry, plan, dtype)
    (ours,), (theirs,) = parity.flax_steps(train=True), parity.torch_steps(train=True)
    scale = largest_gradient(theirs)
    worst = max((difference(ours[name], g, scale) for name, g in gradients(theirs).items()), default=0.0)
    return max(difference(ours[name], value) for name, value in outputs(theirs).items()), worst


def parameters(plan: Plan) -> int:
    """How many numbers are trained."""
    return sum(math.prod(row.shape) for row in plan.rows if row.path[0] == "params")


def show_parity(word: str) -> None:
    """Print the table of the entries whose name contains ``word``, and the worst of each column below it."""
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")  # compiling is most of the time
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_default_matmul_precision", "highest")
    chosen = with_word(CATALOG, word)
    table = Table("entry", "parameters", "float64 output", "float64 gradient", "float32 output", box=None)
    rows = []
    for entry in track(chosen, "comparing", console=Console(stderr=True), transient=True):
        plan = entry_plan(entry, entry.module())
        rows.append((*differences(entry, plan, "float64"), differences(entry, plan, "float32")[0]))
        table.add_row(entry.name, f"{parameters(plan):,}", *(f"{value:.1e}" for value in rows[-1]))
    table.add_row("worst", "", *(f"{max(column):.1e}" for column in zip(*rows, strict=True)))
    Console(width=120).print(table)
