"""The memory of attention in blocks against all at one time: ``python -m examples.attention_memory [WORD]``.

Compiles each case of ``CASES``, and its gradient, and calls it. "all" is the form with ``query_block=0`` or
``line_block=0``, where the weights of all pixels are in memory at one time; "blocks" is the default. The columns are:

- weights: GB of the attention weights of all pixels.
- GB: how far one call raises the memory of the process, with the results.
- s: seconds of the fastest of some calls.

Where the gradient would need more than half of the memory, it is not called, and the GB are those that the compiler
counts for its temporaries. With WORD, only the cases whose name contains WORD.
"""

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table

from examples.benchmark.case import with_word
from examples.benchmark.timing import keep_freed_memory, peak_bytes, seconds_of
from flax_attn import CrissCrossAttention, NONLocalBlock2D, PAM_Module
from flax_attn.layers import Module

MODES, FORMS = ("forward", "gradient"), {"all": 0, "blocks": None}


class Case(NamedTuple):
    """A block for square images of ``side`` pixels; ``argument`` says how much of it is computed at one time."""

    make: Callable[..., Module]
    channels: int
    side: int
    argument: str

    @property
    def name(self) -> str:
        return self.make.__name__

    @property
    def shape(self) -> tuple[int, ...]:
        return (1, self.side, self.side, self.channels)

    @property
    def weights(self) -> int:
        """The bytes of all attention weights in float32."""
        met = 2 * self.side if self.make is CrissCrossAttention else self.side**2
        return 4 * self.side**2 * met


CASES = [
    Case(PAM_Module, 512, 97, argument="query_block"),
    Case(PAM_Module, 64, 256, argument="query_block"),
    Case(NONLocalBlock2D, 256, 97, argument="query_block"),
    Case(CrissCrossAttention, 512, 97, argument="line_block"),
    Case(CrissCrossAttention, 64, 1024, argument="line_block"),
]


def measure(case: Case, form: str, mode: str) -> dict[str, float]:
    """GB and seconds of one program."""
    module = case.make(case.channels, **{case.argument: FORMS[form]})
    x = jnp.ones(case.shape)
    variables = jax.jit(module.init)(jax.random.key(0), x)

    def forward(variables: Any, x: jax.Array) -> Any:
        return module.apply(variables, x)

    def gradient(variables: Any, x: jax.Array) -> Any:
        return jax.grad(lambda *both: jnp.square(forward(*both)).mean(), (0, 1))(variables, x)

    program = jax.jit(gradient if mode == "gradient" else forward).lower(variables, x).compile()
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if form == "all" and 3 * case.weights > memory / 2:
        return {"GB counted": program.memory_analysis().temp_size_in_bytes / 1e9}

    def call() -> Any:
        return jax.block_until_ready(program(variables, x))

    call()
    peak = peak_bytes(call)
    return {"GB": float("nan") if peak is None else peak / 1e9, "s": min(seconds_of(call) for _ in range(5))}


def words(figures: dict[str, float]) -> str:
    """The figures of one program in one cell."""
    return ", ".join(f"{value:.3g} {name}" for name, value in figures.items())


def main() -> None:
    """Measure the cases, and print the table."""
    options = argparse.ArgumentParser(
        "python -m examples.attention_memory", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("word", nargs="?", default="", help="only cases whose name contains it")
    options.add_argument("--out", type=Path, metavar="FILE", help="write the figures there, as JSON")
    given = options.parse_args()
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
    keep_freed_memory()
    rows = []
    table = Table("block", "size", "weights", "form", *MODES, title=f"on {jax.devices()[0].device_kind}")
    for case in with_word(CASES, given.word):
        for form in FORMS:
            size, weights = "x".join(map(str, case.shape)), case.weights / 1e9
            figures = {mode: measure(case, form, mode) for mode in MODES}
            rows.append({"block": case.name, "size": size, "weights": weights, "form": form, **figures})
            table.add_row(case.name, size, f"{weights:.3g} GB", form, *map(words, figures.values()))
    Console(width=120).print(table)
    if given.out:
        given.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
