"""The README tells the truth: its Python runs, its commands parse, its transcript is the demo's, its links work."""

import re
from pathlib import Path

import pytest

from convert.__main__ import main, parser
from tests.helpers.data import SHARED, needs

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]


def test_the_readme_is_short():
    assert len(README.splitlines()) < 120


def test_the_picture_is_small():
    assert (ROOT / "docs" / "attention.png").stat().st_size < 150_000


@needs("nonlocal_mnist")
def test_verify_gives_the_figures_of_the_readme(capsys):
    """To the order of magnitude: the digits depend on the machine."""
    pytest.importorskip("torch")
    assert main(["verify", str(SHARED / "nonlocal_mnist" / "net.pth"), "--model", "NonLocalNet"]) == 0
    printed = dict(re.findall(r"(float\d\d) +(\S+)", capsys.readouterr().out))
    quoted = {dtype: number for number, dtype in re.findall(r"(\d\.\d\de-\d\d) in (float\d\d)", README)}
    assert {k: float(v) for k, v in printed.items()} == pytest.approx({k: float(v) for k, v in quoted.items()}, rel=9)


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


def test_python_in_the_readme_runs_and_its_network_learns(tmp_path, monkeypatch, capsys):
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec("\n".join(re.findall(r"```python\n(.*?)```", README, re.DOTALL)), names)
    assert "results agree" in capsys.readouterr().out
    assert names["maps"]
    assert names["metrics"]["loss"] < 1, "the loss of a guess among ten digits is 2.3"


@pytest.mark.parametrize("line", re.findall(r"^flax-attn-convert (.*?)(?: +#.*)?$", README, re.MULTILINE))
def test_commands_in_the_readme_parse(line):
    parser().parse_args(line.split())
