"""Measure the published networks at full size: ``python -m examples.networks [WORD]``.

With WORD, only the networks whose name contains WORD. All numbers in a network are random. The columns are:

- the number of parameters
- the float64 difference between the outputs of Flax and PyTorch on a small image: the norm of the difference over the
  norm of the output, for the worst output
- the seconds that ``flax-attn-convert convert`` takes for a file of torch.save, as a whole process
- the size of that file
- the peak memory of that process, mapped files included, less that of a process that converts the demo's file
- the seconds to compile the forward pass

``--json FILE`` writes the figures, with commit and machine. ``python -m docs.tables`` reads those in
``examples/networks.json``.
"""

import argparse
import functools
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
from flax import traverse_util
from rich.console import Console
from rich.progress import track
from rich.table import Table

from convert import Plan, demo
from convert.comparing.case import random_state
from convert.comparing.parity import in_eval_mode
from convert.recognition import entry_plan
from flax_attn.catalog import PUBLISHED, Published
from torch_ref.twins import build_twin

MEASURE = (
    "import sys; from convert.__main__ import main; status = main(sys.argv[1:]);"
    "print(status, open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
)
"""A command in a process of its own, which prints its status and its peak memory in KiB."""


def command(*arguments: str) -> tuple[float, int]:
    """Seconds and peak bytes of ``flax-attn-convert`` with ``arguments``."""
    begin = time.perf_counter()
    process = [sys.executable, "-c", MEASURE, *arguments]
    done = subprocess.run(process, capture_output=True, text=True, check=True)
    status, peak = done.stdout.split()[-2:]
    if status != "0":
        raise RuntimeError(f"{' '.join(arguments)}: {done.stderr}")
    return time.perf_counter() - begin, int(peak) * 1024


def conversion(entry: Published, twin: torch.nn.Module, idle: int) -> dict[str, float]:
    """Seconds of the command, megabytes of the file, and of the process's memory over ``idle`` bytes."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "net.pth"
        torch.save(twin.float().state_dict(), file)
        arguments = [f"--arg={name}={value!r}" for name, value in entry.kwargs.items()]
        out = str(Path(folder) / "net.safetensors")
        seconds, peak = command("convert", str(file), "--model", entry.name, *arguments, "--out", out, "--quiet")
        return {"convert": seconds, "file": file.stat().st_size / 1e6, "memory": (peak - idle) / 1e6}


def parity(entry: Published, plan: Plan, twin: torch.nn.Module) -> float:
    """The largest float64 difference of an output in norm, over the norm of the output."""
    smallest, rng = np.finfo(np.float64).tiny, np.random.default_rng(0)
    pairs = in_eval_mode(entry, entry.module(), plan, twin, random_state(plan, rng), rng)
    return max(float(np.linalg.norm(a - b) / max(np.linalg.norm(b), smallest)) for a, b in pairs)


def compilation(entry: Published, plan: Plan) -> float:
    """Seconds to compile the float32 forward pass, without the time to trace it."""
    module = entry.module()
    flat = {row.path: jax.ShapeDtypeStruct(row.shape, np.float32) for row in plan.rows}
    variables = traverse_util.unflatten_dict(flat)
    lowered = jax.jit(functools.partial(entry.apply, module)).lower(variables, entry.structs(module))
    begin = time.perf_counter()
    lowered.compile()
    return time.perf_counter() - begin


def measure(entry: Published, idle: int) -> dict[str, Any]:
    """All figures of one network."""
    twin, plan = build_twin(entry.cls, entry.kwargs), entry_plan(entry, entry.module())
    figures = {"name": entry.name, "parameters": sum(p.numel() for p in twin.parameters())}
    figures["float64"] = parity(entry, plan, twin)
    return figures | {"compile": compilation(entry, plan)} | conversion(entry, twin, idle)


def show(rows: Sequence[dict[str, Any]]) -> None:
    """The table, and the worst of each column below it."""
    table = Table("network", "parameters", "float64", "convert s", "file MB", "memory MB", "compile s", box=None)
    columns = {"float64": ".1e", "convert": ".1f", "file": ".0f", "memory": ".0f", "compile": ".1f"}
    for row in rows:
        table.add_row(row["name"], f"{row['parameters']:,}", *(f"{row[key]:{form}}" for key, form in columns.items()))
    table.add_row("worst", "", *(f"{max(row[key] for row in rows):{form}}" for key, form in columns.items()))
    Console(width=120).print(table)


def main() -> None:
    """Measure, print, and write the figures with commit and machine."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("word", nargs="?", default="", help="only networks whose name contains it")
    options.add_argument("--json", type=Path, help="a file to write the figures to")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        smallest = str(demo.FOLDER / "digits.pth"), "--model", "DigitsNet", "--out", f"{folder}/net", "--quiet"
        _, idle = command("convert", *smallest)
    chosen = [entry for entry in PUBLISHED if given.word in entry.name]
    bar = Console(stderr=True)
    rows = [measure(entry, idle) for entry in track(chosen, "measuring", console=bar, transient=True)]
    show(rows)
    if given.json:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        machine = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
        given.json.write_text(json.dumps({"commit": commit, "machine": machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
