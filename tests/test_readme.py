"""The README tells the truth: its table is the catalog's, its Python runs, its commands are those CI runs."""

import re
from pathlib import Path

import pytest

from convert.__main__ import markdown, parser

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_table_is_that_of_the_catalog():
    table = README.partition("<!-- flax-attn-convert models --markdown -->\n")[2].partition("\n<!-- end -->")[0]
    assert table == markdown(), "stale: paste what `flax-attn-convert models --markdown` prints"


def test_python_in_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) >= 2
    exec("\n".join(blocks), {})


@pytest.mark.parametrize("line", re.findall(r"^flax-attn-convert (.*?)(?: +#.*)?$", README, re.MULTILINE))
def test_commands_in_the_readme_parse(line):
    parser().parse_args(line.split())
