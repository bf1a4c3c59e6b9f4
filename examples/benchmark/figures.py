"""The file of the figures: ``figures.json`` in a folder, which a later run continues."""

import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import jax
import torch

from examples.benchmark.torch_side import device

ROOT = Path(__file__).parents[2]
FILE = "figures.json"
PACKAGES = ("jax", "jaxlib", "flax", "torch", "numpy")
MEASURED = ("flax_attn", "torch_ref")
"""The folders whose changes make figures old."""

Row = dict[str, Any]


class Figures:
    """The rows of ``figures.json`` in ``folder``, each with entry, dtype, commit and date.

    Raises:
        ValueError: if the file in ``folder`` has figures of another machine or of other versions, or no figures.
        OSError: if no file can be written in ``folder``.
    """

    def __init__(self, folder: Path):
        self.path, self.commit = folder / FILE, commit()
        here = {"machine": machine(), "versions": versions()}
        self.new = self.path.with_suffix(".new")
        folder.mkdir(parents=True, exist_ok=True)
        self.new.touch()
        self.new.unlink()
        found = read(self.path) if self.path.exists() else {**here, "rows": []}
        for what, mine in here.items():
            if found[what] != mine:
                raise ValueError(f"{self.path} has figures of the {what} {found[what]}, not {mine}: give another --out")
        self.content = found

    @property
    def rows(self) -> list[Row]:
        return self.content["rows"]

    def has(self, name: str, dtype: str, modes: tuple[str, ...]) -> bool:
        """Whether the entry was measured at this commit in all ``modes``."""
        return any(
            row["name"] == name and row["dtype"] == dtype and row["commit"] == self.commit and {*modes} <= {*row}
            for row in self.rows
        )

    def add(self, name: str, dtype: str, result: Row) -> None:
        """Write the result of an entry. What an older row of this commit has beside it is kept."""
        old = [row for row in self.rows if (row["name"], row["dtype"]) == (name, dtype)]
        head = {"name": name, "dtype": dtype, "commit": self.commit, "date": now(), "load": load()}
        kept = {k: v for row in old if row["commit"] == self.commit and "error" not in result for k, v in row.items()}
        kept.pop("error", None)
        self.content["rows"] = [row for row in self.rows if row not in old] + [{**kept, **head, **result}]
        self.content |= {"commit": self.commit, "date": now()}
        self.new.write_text(json.dumps(self.content, indent=1) + "\n")
        self.new.replace(self.path)


def read(path: Path) -> Row:
    """The content of a file of figures. ValueError if it is not one."""
    try:
        found = json.loads(path.read_text())
    except ValueError:
        found = None
    if not isinstance(found, dict) or not {"machine", "versions", "rows"} <= {*found}:
        raise ValueError(f"benchmark: expected {path} to have figures, got another file: give another --out")
    return found


def load() -> float | None:
    """How many processes wanted to run in the last minute: more than ours on a machine that others use too."""
    return round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None


def now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M")


def git(*arguments: str) -> str:
    """What git prints in the folder of this project; an empty string where that is no checkout."""
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def commit() -> str:
    """The commit of the code; with a plus and a digest if what is measured has changed since."""
    changes = git("diff", "HEAD", "--", *MEASURED)
    digest = f"+{hashlib.sha256(changes.encode()).hexdigest()[:8]}" if changes else ""
    return (git("rev-parse", "--short=12", "HEAD") or "unknown") + digest


def versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in PACKAGES}


def machine() -> Row:
    """Processor, cores, and the devices that both sides compute on."""
    place = device()
    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "jax device": jax.devices()[0].device_kind,
        "jax platform": jax.default_backend(),
        "torch device": torch.cuda.get_device_name(place) if place.type == "cuda" else "cpu",
        "torch threads": torch.get_num_threads(),
    }


def processor() -> str:
    """The name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
