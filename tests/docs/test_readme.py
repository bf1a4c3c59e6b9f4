"""The README tells the truth: its table is the catalog's, its Python runs, its commands are those CI runs."""

import json
import re
from pathlib import Path

import pytest

from convert.__main__ import classes, networks, parser

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_table_is_that_of_the_catalog():
    table = README.partition("--markdown, its first table -->\n")[2].partition("\n<!-- end -->")[0]
    assert table == classes(), "stale: paste what `flax-attn-convert models --markdown` prints"


def test_table_of_networks_is_that_of_the_figures():
    table = README.partition("--markdown examples/networks.json -->\n")[2].partition("\n<!-- end networks -->")[0]
    figures = {
        row["name"]: row["float64"] for row in json.loads((ROOT / "examples" / "networks.json").read_text())["rows"]
    }
    assert table == networks(figures), "stale: paste what `python -m examples.networks --markdown ...` prints"


def test_python_in_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) >= 2
    exec("\n".join(blocks), {})


@pytest.mark.parametrize("line", re.findall(r"^flax-attn-convert (.*?)(?: +#.*)?$", README, re.MULTILINE))
def test_commands_in_the_readme_parse(line):
    parser().parse_args(line.split())
