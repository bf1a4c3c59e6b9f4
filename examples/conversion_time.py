"""Time conversions against PyTorch's own loading: ``python -m examples.conversion_time [--rounds N] [--out FILE]``.

Each measurement is a whole process that begins with nothing and reads a file of ``torch.save``:

- torch: PyTorch builds the network, and loads the file into it
- load: ``from_torch`` makes Flax variables of what ``load`` read
- scan: ``from_torch`` makes Flax variables of what ``scan`` found, and holds no second copy of the file
- command: ``flax-attn-convert convert`` writes the Flax variables to a file

The processes take turns, and the medians of all rounds are shown. All numbers in the networks are random.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

NETWORKS = {"detr_resnet50": "torch_ref.models.detr.network", "smt_large": "torch_ref.models.smt"}
"""The file of each network's twin."""

SAVE = "import sys, torch; from {twin} import {name} as make; torch.save(make().state_dict(), sys.argv[1])"

TORCH = """
import sys, torch
from {twin} import {name}
network = {name}()
network.load_state_dict(torch.load(sys.argv[1]))
"""

FLAX = """
import sys, jax
from convert import from_torch, {read}
from flax_attn import {name}
image = jax.ShapeDtypeStruct((1, 224, 224, 3), "float32")
variables = from_torch({name}(), {read}(sys.argv[1]), image)
"""

Figures = dict[str, float]
"""The seconds of a process, those of its processors, and its peak memory in MB."""


def processes(name: str, file: Path) -> dict[str, list[str]]:
    """The command line of each process that reads ``file``."""
    scripts = {"torch": TORCH.format(name=name, twin=NETWORKS[name])}
    scripts |= {read: FLAX.format(name=name, read=read) for read in ("load", "scan")}
    command = ["-m", "convert", "convert", str(file), "--model", name, "--quiet", "--out", f"{file}.safetensors"]
    return {side: ["-c", script, str(file)] for side, script in scripts.items()} | {"command": command}


def run(arguments: Sequence[str]) -> Figures:
    """The figures of Python with ``arguments``.

    The peak of a new process begins with the memory of its parent. So this process must stay small.
    """
    begin = time.perf_counter()
    pid = os.posix_spawn(sys.executable, [sys.executable, *arguments], os.environ)
    _, status, used = os.wait4(pid, 0)
    seconds = time.perf_counter() - begin
    if status:
        raise RuntimeError(f"python {' '.join(arguments)}: expected status 0, got {os.waitstatus_to_exitcode(status)}")
    unit = 1 if sys.platform == "darwin" else 1024
    return {"seconds": seconds, "cpu": used.ru_utime + used.ru_stime, "memory": used.ru_maxrss * unit / 1e6}


def measure(name: str, rounds: int) -> dict[str, Any]:
    """The size of the file of a network in MB, and the medians of each process."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{name}.pth"
        run(["-c", SAVE.format(name=name, twin=NETWORKS[name]), str(file)])
        sides = processes(name, file)
        found: dict[str, list[Figures]] = {side: [] for side in sides}
        for _ in track(range(rounds), name, console=Console(stderr=True), transient=True):
            for side, arguments in sides.items():
                found[side].append(run(arguments))
        keys = ("seconds", "cpu", "memory")
        medians = {side: {key: statistics.median(f[key] for f in own) for key in keys} for side, own in found.items()}
        return {"network": name, "file": file.stat().st_size / 1e6, "sides": medians}


def show(rows: Sequence[dict[str, Any]]) -> None:
    """The figures as a table. A ratio above 1 says that PyTorch takes more."""
    table = Table("network", "file MB", "process", "s", "CPU s", "MB", "s, torch / ours", "MB, torch / ours", box=None)
    for row in rows:
        base = row["sides"]["torch"]
        for side, own in row["sides"].items():
            figures = [f"{own['seconds']:.2f}", f"{own['cpu']:.2f}", f"{own['memory']:.0f}"]
            ratios = [f"{base[key] / own[key]:.2f}" for key in ("seconds", "memory")]
            table.add_row(row["network"], f"{row['file']:.0f}", side, *figures, *(ratios if side != "torch" else []))
    Console(width=120).print(table)


def main() -> None:
    """Measure, print, and write the figures with commit, machine and versions."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=5, help="how often each process is run (default: 5)")
    options.add_argument("--out", type=Path, help="a JSON file to write the figures to")
    given = options.parse_args()
    rows = [measure(name, given.rounds) for name in NETWORKS]
    show(rows)
    if given.out:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        machine = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
        versions = {name: version(name) for name in ("jax", "flax", "torch")}
        facts = {"commit": commit, "machine": machine, "versions": versions, "rounds": given.rounds, "rows": rows}
        given.out.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
