"""The README tells the truth: its Python runs, its commands parse, its transcript is the demo's, its links work."""

import re
from pathlib import Path

import pytest

from convert.__main__ import main, parser

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]


def test_the_transcript_is_what_the_demo_prints(tmp_path, capsys):
    """The number of the difference from PyTorch's logits may be another one on another machine."""
    assert main(["demo", "--out", str(tmp_path / "flax_attn_demo.png")]) == 0
    printed = capsys.readouterr().out.replace(f"{tmp_path}/", "").strip()
    (transcript,) = re.findall(r"```\n(DigitsNet: .*?)\n```", README, re.DOTALL)
    number = re.compile(r"logits: \S+,")
    assert number.sub("logits:", printed) == number.sub("logits:", transcript)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    links = re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text())
    assert not [link for link in links if not (page.parent / link).exists()]


def test_python_in_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) >= 2
    exec("\n".join(blocks), {})


@pytest.mark.parametrize("line", re.findall(r"^flax-attn-convert (.*?)(?: +#.*)?$", README, re.MULTILINE))
def test_commands_in_the_readme_parse(line):
    parser().parse_args(line.split())
