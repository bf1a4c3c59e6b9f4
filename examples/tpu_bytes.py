"""Count the bytes that a TPU moves for the entries of ``flax_attn/catalog/bench.py``: ``python -m examples.tpu_bytes``.

``python -m examples.tpu_bytes WORD`` takes only the entries whose name contains WORD. Install the compiler with
``pip install "jax[tpu]==0.10.2"``; it compiles for one chip of the kind v5e, which needs no TPU. Blocks compute in
bfloat16, with float32 parameters. The columns are:

- GB moved: what the compiled program reads and writes, by the compiler's own estimate. Every operation counts its
  operands and its result, also those in the memory on the chip. A copy from the large memory to that on the chip counts
  four or five times: an input that is copied there and read once counts as much as one that is read six times.
- off chip: of that, the operands and results in the large memory, padded as they lie there.
- least: the inputs and parameters once and the outputs once. In training the inputs and parameters count twice, since
  the gradient starts when the forward pass is over; and for each convolution or matrix product of the forward pass,
  its result or its operands, whichever is smaller, counts twice, since it is written for the gradient and read by it.
- ratios: GB moved over the least, and off chip over the least. The second is below 1 where the gradient finds what it
  needs on the chip.
- temporaries: the GB of memory that the program needs beside its arguments and results.

Both counts have the body of a loop once; a star marks a program with a loop, which moves more.

An entry that does not fit into the memory of the chip, or does not compile, is a row with the error. The figures are
written to FOLDER/figures.json. What is there for the same commit is not compiled again.
"""

import argparse
import importlib.metadata
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.experimental.topologies
import jax.numpy as jnp
from jax.extend.core import jaxprs_in_params
from rich.console import Console
from rich.table import Table

from examples.benchmark.case import with_word
from examples.benchmark.figures import Figures, Row
from examples.benchmark.flax_side import forward, training
from examples.benchmark.measure import release
from examples.benchmark.ratios import MODES
from examples.bfloat16 import ENVIRONMENT
from flax_attn.catalog import Entry
from flax_attn.catalog.bench import BENCH
from flax_attn.layers import Module

ARRAY = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\]\{([\d,]*)(?::T\(([\d,]*)\))?([^}]*)\}")
INSTRUCTION = re.compile(r"^ *(?:ROOT )?(%[\w.-]+) = (.*?) ([a-z][a-z0-9-]*)\((.*)$", re.MULTILINE)
ALIASES = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast")
COLUMNS = ("moved", "off chip", "least", "temporaries")
PRODUCTS = ("dot_general", "conv_general_dilated", "flax_attn_convolution")


def size(tree: Any) -> int:
    """The bytes of all arrays in ``tree``."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def kept(jaxpr: Any) -> int:
    """The bytes that the gradient needs from a program: see "least" above. Of several forms, the smallest counts.

    A ``jax.checkpoint`` and a loop keep nothing.
    """
    total = 0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        inner = [kept(part) for part in jaxprs_in_params(equation.params)]
        if name in PRODUCTS:
            total += min(size([v.aval for v in equation.outvars]), size([v.aval for v in equation.invars]))
        elif name not in ("checkpoint", "scan", "while"):
            total += min(inner, default=0) if name == "cond" else sum(inner)
    return total


def least(function: Any, arguments: Any, outputs: Any, mode: str) -> int:
    """The bytes that a program must move at least; ``function`` is the forward pass, ``outputs`` those of ``mode``."""
    *used, _ = arguments
    if mode == "forward":
        return size(used) + size(outputs)
    return 2 * size(used) + 2 * kept(jax.make_jaxpr(function)(*arguments).jaxpr) + size(outputs)


def padded(dtype: str, shape: str, order: str, tile: str) -> int:
    """The bytes of one array of a compiled program, from the words of its type."""
    sizes, places, steps = ([int(n) for n in words.split(",") if n] for words in (shape, order, tile))
    lengths = [sizes[place] for place in places] or [1]
    for place, step in enumerate(reversed(steps[-len(lengths) :])):
        lengths[place] = -(-lengths[place] // step) * step
    bits = int("".join(re.findall(r"^[a-z]+(\d+)", dtype)) or 8)
    return math.prod(lengths) * bits // 8


def off_chip(text: str) -> int:
    """The bytes of the operands and results of a compiled program that lie in the large memory."""
    sizes: dict[str, int] = {}
    total = 0
    for name, kind, operation, rest in INSTRUCTION.findall(text[text.index("\nENTRY ") :]):
        arrays = [(padded(*words), "S(" not in where) for *words, where in ARRAY.findall(kind)]
        if operation == "slice-start":  # its operand, of which it reads as much as the result has, and its result
            arrays = [(arrays[1][0], outside) for _, outside in arrays[:2]]
        sizes[name] = sum(size for size, outside in arrays if outside)
        if operation in ALIASES or operation.endswith("-done"):
            continue
        total += sizes[name]
        if not operation.endswith("-start"):  # the result of a start has the operand in it
            total += sum(sizes.get(operand, 0) for operand in re.findall(r"%[\w.-]+", rest.partition(")")[0]))
    return total


def arguments_of(entry: Entry, module: Module) -> Any:
    """The shapes of variables, inputs and a key, on one chip."""
    topology = jax.experimental.topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2")
    chip = jax.sharding.SingleDeviceSharding(topology.devices[0])
    inputs = entry.structs(module, jnp.bfloat16)
    key = jax.eval_shape(lambda: jax.random.key(0))

    def init(key: Any, inputs: Sequence[Any]) -> Any:
        positional, named = entry.arguments(inputs)
        return module.init(key, *positional, **named)

    variables = jax.eval_shape(init, key, inputs)
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=chip), (variables, inputs, key))


def measure(entry: Entry, mode: str) -> Row:
    """The bytes of an entry in one mode, or the error of its compilation."""
    module = entry.module(dtype=jnp.bfloat16)
    arguments = arguments_of(entry, module)
    run = forward(entry.apply, module)
    lowered = jax.jit(run if mode == "forward" else training(entry.apply, module)).lower(*arguments)
    needed = least(run, arguments, lowered.out_info, mode)
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        return {"least": needed, "error": str(error).strip().partition("\n")[0][:200]}
    moved = int(compiled.cost_analysis()["bytes accessed"])
    temporaries = int(compiled.memory_analysis().temp_size_in_bytes)
    text = compiled.as_text()
    figures = {"moved": moved, "off chip": off_chip(text), "least": needed, "temporaries": temporaries}
    return figures | {"loop": " while(" in text}


def rich_table(rows: Sequence[Row]) -> Table:
    """A line for each entry and mode; red where more than four times the least goes off the chip."""
    table = Table("entry", "mode", "GB moved", "off chip", "least", "ratios", "", "temporaries", box=None)
    for row in rows:
        for mode in (mode for mode in MODES if mode in row):
            found = row[mode]
            if "error" in found:
                table.add_row(row["name"], mode, found["error"], style="red")
                continue
            *amounts, temporaries = (f"{found[name] / 1e9:.3f}" for name in COLUMNS)
            amounts[0] += "*" if found["loop"] else ""
            ratios = [found[name] / found["least"] for name in COLUMNS[:2]]
            cells = (*amounts, *(f"{ratio:.1f}" for ratio in ratios), temporaries)
            table.add_row(row["name"], mode, *cells, style="red" if ratios[1] > 4 else "")
    return table


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    options = argparse.ArgumentParser(
        "python -m examples.tpu_bytes", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("word", nargs="?", default="", help="only entries whose name contains it")
    options.add_argument("--only", choices=MODES, help="only the forward pass, or only the training step")
    options.add_argument("--out", type=Path, default=Path("build/tpu_bytes"), metavar="FOLDER", help="for the figures")
    options.add_argument("--again", action="store_true", help="compile what the folder has too")
    return options


def main() -> None:
    """Compile the chosen entries, and print the table."""
    given = parser().parse_args()
    os.environ.update(ENVIRONMENT)
    modes = (given.only,) if given.only else MODES
    try:
        figures = Figures(given.out)
    except (OSError, ValueError) as error:
        raise SystemExit(str(error)) from error
    chosen = with_word(BENCH, given.word)
    compiler = importlib.metadata.version("libtpu")
    for entry in chosen:
        if figures.has(entry.name, "bfloat16", modes) and not given.again:
            continue
        Console(stderr=True).print(entry.name, highlight=False)
        figures.add(entry.name, "bfloat16", {"libtpu": compiler} | {mode: measure(entry, mode) for mode in modes})
        release()
    rows = {row["name"]: row for row in figures.rows}
    Console(width=120).print(rich_table([rows[entry.name] for entry in chosen]))


if __name__ == "__main__":
    main()
