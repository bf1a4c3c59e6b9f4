"""The page of the benchmark, from the figures that ``python -m examples.benchmark --out docs/performance`` writes."""

import json
from pathlib import Path

from examples.benchmark.ratios import HEAD, MODES, Row, cells, ratio, summary, without
from flax_attn.catalog.bench import BENCH, CAUSES

FIGURES = Path(__file__).parent / "performance" / "figures.json"

TITLES = {"forward": "Forward pass", "training": "Training step"}
NOTES = {
    "bfloat16": "PyTorch's library uses the processor's products of bfloat16 where it has them. On a CPU, XLA computes "
    "products and convolutions in float32 and rounds them."
}
WHY = {"float32": {name: cause for cause, names in CAUSES.items() for name in names}}
"""The cause of a loss, by dtype and name."""


def performance_page() -> str:
    """The page: for each dtype the picture, and a table for each mode."""
    return performance(json.loads(FIGURES.read_text()))


def performance(figures: Row) -> str:
    """The page of ``figures``, in the order of the catalog."""
    order = {entry.name: place for place, entry in enumerate(BENCH)}
    known = sorted((row for row in figures["rows"] if row["name"] in order), key=lambda row: order[row["name"]])
    lines = ["# Performance", "", "<!-- written by python -m docs.tables -->", "", *introduction(figures)]
    for dtype in dict.fromkeys(row["dtype"] for row in known):
        rows = [row for row in known if row["dtype"] == dtype]
        lines += ["", f"## {dtype}", "", f"![ratios](performance/{dtype}.png)", ""]
        lines += [f"- {line}" for line in summary(rows)]
        lines += ["", NOTES[dtype]] if dtype in NOTES else []
        for mode in MODES:
            lines += ["", f"### {TITLES[mode]}, {dtype}", "", *table(rows, mode)]
        lines += missing(rows)
    return "\n".join([*lines, ""])


def introduction(figures: Row) -> list[str]:
    """What was measured, where and when."""
    machine, versions = figures["machine"], figures["versions"]
    return [
        "`python -m examples.benchmark` measures each entry of [bench.py](../flax_attn/catalog/bench.py) against its "
        "PyTorch twin, with the same weights and inputs. PyTorch runs eager, with channels last, and under "
        "torch.compile. `plain` is the same module in the forms that a user of flax.linen would write, where they "
        "differ. Times are medians in milliseconds. The ratio is the time of PyTorch's fastest form over ours: above 1 "
        "we are faster. Memory is how far one call raises the memory of the process: ours, and PyTorch's fastest "
        "form. `first s` is the time to trace and compile ours.",
        "",
        "On Linux, both sides keep freed memory (`mallopt`): otherwise some calls pay for new pages, by chance. Your "
        "own process does the same if it starts with `MALLOC_ARENA_MAX=1 MALLOC_MMAP_MAX_=0 "
        "MALLOC_TRIM_THRESHOLD_=2000000000`. Idle threads of PyTorch do not spin (`OMP_WAIT_POLICY=passive`). "
        "`python -m examples.attention_memory` measures attention in blocks against all at one time, and "
        "`python -m examples.tpu_bytes` counts the bytes that a TPU would move.",
        "",
        f"Measured on {figures['date'].partition(' ')[0]} at commit {figures['commit']}, on {machine['processor']} "
        f"with {machine['cores']} cores; JAX on {machine['jax device']}, PyTorch on {machine['torch device']}; "
        f"{', '.join(f'{name} {version}' for name, version in versions.items())}.",
    ]


def table(rows: list[Row], mode: str) -> list[str]:
    """The Markdown table of one mode. A ratio below 1 is bold, and has its cause beside it if it is known."""
    lines = [["entry", *HEAD, "cause of a loss"], ["---"] * (len(HEAD) + 2)]
    place = HEAD.index("ratio")
    for row in (row for row in rows if mode in row):
        shown, lost = cells(row, mode), ratio(row[mode]) < 1
        if lost:
            shown[place] = f"**{shown[place]}**"
        lines.append([row["name"], *shown, WHY.get(row["dtype"], {}).get(row["name"], "") if lost else ""])
    return [f"| {' | '.join(line)} |" for line in lines]


def missing(rows: list[Row]) -> list[str]:
    """What torch.compile gave no result for and what failed, with the reason, and what was not measured yet."""
    everyone, found = [row["name"] for row in rows if "error" not in row], []
    for why, names in without(rows, "compile").items():
        found.append(f"- No torch.compile: {'all' if names == everyone else ', '.join(names)}. {why}")
    found += [f"- Not measured: {row['name']}. {row['error']}" for row in rows if "error" in row]
    if left := {entry.name for entry in BENCH} - {row["name"] for row in rows}:
        found.append(f"- Not measured yet: {', '.join(sorted(left))}.")
    return ["", *found] if found else []
