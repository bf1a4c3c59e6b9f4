"""The bar chart of the figures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from examples.benchmark.ratios import MODES, geometric_mean, ratios

COLORS = {"forward": ("#1f5fa8", "#c2410c"), "training": ("#8db8e8", "#f2a97e")}
"""The colours of a win and of a loss."""


def draw_chart(rows: Sequence[dict[str, Any]], title: str, path: Path) -> None:
    """Write a picture of the ratios: a group of bars for each entry, to the right of 1 where we are faster."""
    import matplotlib.pyplot as plt
    from matplotlib.patches import Patch

    found = {mode: ratios(rows, mode) for mode in MODES}
    modes = [mode for mode in MODES if found[mode]]
    names = [row["name"] for row in rows if any(row["name"] in found[mode] for mode in modes)]
    figure, axes = plt.subplots(figsize=(9, 1.6 + 0.32 * len(names)), layout="constrained")
    for offset, mode in enumerate(modes):
        for place, name in enumerate(names):
            if name in found[mode]:
                value = found[mode][name]
                y = place + 0.4 * (offset - (len(modes) - 1) / 2)
                axes.barh(y, value - 1, left=1, height=0.36, color=COLORS[mode][value < 1])
                side = "left" if value >= 1 else "right"
                axes.annotate(
                    f"{value:.2f}", (value, y), (3 if value >= 1 else -3, 0), textcoords="offset points",
                    va="center", ha=side, fontsize=6,
                )  # fmt: skip
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.set_xlim(low / 1.2, high * 1.2)
    ticks = [tick for tick in (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50) if low / 1.2 <= tick <= high * 1.2]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.xaxis.minorticks_off()
    axes.axvline(1, color="black", linewidth=0.8)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_xlabel("time of PyTorch in its best form / our time: to the right of 1 we are faster")
    means = ", ".join(f"{mode} {geometric_mean(found[mode].values()):.2f}" for mode in modes)
    axes.set_title(f"{title}\ngeometric mean: {means}", fontsize=10)
    shown = [Patch(color=COLORS[mode][lost], label=f"{mode}, {'slower' if lost else 'faster'}")
             for mode in modes for lost in (False, True)]  # fmt: skip
    axes.legend(handles=shown, fontsize=7, loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)
