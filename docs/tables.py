"""Writes ``docs/blocks.md`` and ``docs/networks.md``, the tables of what there is: ``python -m docs.tables``.

Everything in them follows from the catalog; the differences in the table of networks are those in
``examples/networks.json``. ``docs/performance.md`` is written too if there is ``docs/performance/figures.json``.
"""

import json
from collections.abc import Iterable
from pathlib import Path

from convert.dialects import DIALECTS
from convert.recognition import suits
from docs.performance import FIGURES as MEASURED
from docs.performance import performance_page
from flax_attn.catalog import CATALOG, PUBLISHED, paper

FOLDER = Path(__file__).parent
FIGURES = FOLDER.parent / "examples" / "networks.json"


def blocks_page() -> str:
    """The page of all classes: a row for each file."""
    head = ["file", "classes", "paper"]
    rows = []
    for module in sorted({entry.cls.__module__ for entry in CATALOG}):
        names = dict.fromkeys(entry.cls.__name__ for entry in CATALOG if entry.cls.__module__ == module)
        rows.append([link(module), listed(names), citation(module)])
    return page(
        "Blocks and networks",
        "All classes of flax_attn, by the file that they are in. Each is tested against its PyTorch twin, which is in "
        "the file of the same path in [torch_ref](../torch_ref).",
        [head, *rows],
    )


def networks_page() -> str:
    """The page of the published networks: a row for each file, with the largest difference of its networks."""
    head = ["file", "constructors", "published files", "dialects", "float64 difference"]
    figures = {row["name"]: row["float64"] for row in json.loads(FIGURES.read_text())["rows"]}
    rows = []
    for module in dict.fromkeys(entry.cls.__module__ for entry in PUBLISHED):
        entries = [entry for entry in PUBLISHED if entry.cls.__module__ == module]
        dialects = [dialect.name for dialect in DIALECTS if any(suits(dialect, entry) for entry in entries)]
        files = [file for entry in entries for file in entry.files]
        worst = f"{max(figures[entry.name] for entry in entries):.0e}"
        rows.append([link(module), listed(entry.name for entry in entries), listed(files), listed(dialects), worst])
    return page(
        "Published networks",
        "Each constructor builds a network whose published checkpoints can be converted; `--dialect` names the other "
        "code whose checkpoints of it can be read too. The last column is the largest difference of an output from the "
        "PyTorch twin in float64, relative in norm, with random weights, as `python -m examples.networks` measures it.",
        [head, *rows],
    )


def page(title: str, text: str, table: list[list[str]]) -> str:
    """A page of Markdown; the first row of the table is its head."""
    head, *rows = table
    lines = [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
    made = "<!-- written by python -m docs.tables -->"
    return "\n".join([f"# {title}", "", made, "", text, "", *lines, ""])


def link(module: str) -> str:
    """A link from this folder to the file of a module."""
    path = module.replace(".", "/") + ".py"
    return f"[{path.removeprefix('flax_attn/')}](../{path})"


def citation(module: str) -> str:
    """The title of a module's paper, linked if its address is known, with authors and year."""
    title, source = paper(module)
    authors, _, url = source.rpartition(", ")
    return f"[{title}]({url}), {authors}" if url.startswith("http") else title


def listed(names: Iterable[str]) -> str:
    """Names as code, separated by commas."""
    return ", ".join(f"`{name}`" for name in names)


PAGES = {"blocks.md": blocks_page, "networks.md": networks_page}
if MEASURED.exists():
    PAGES["performance.md"] = performance_page


def main() -> None:
    """Write every page."""
    for name, function in PAGES.items():
        (FOLDER / name).write_text(function())


if __name__ == "__main__":
    main()
