"""The commands that the documents name start, and those that measure do so."""

import importlib
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    *ROOT.glob("*.md"),
    *(ROOT / "docs").glob("*.md"),
    *ROOT.glob("examples/**/*.py"),
    ROOT / "tests" / "mutate.py",
]
COMMAND = re.compile(r"python -m ([a-z_]+(?:\.[a-z_0-9]+)+)")
NAMED = sorted({name for page in PAGES for name in COMMAND.findall(page.read_text())})
WITHOUT_OPTIONS = {"docs.tables", "convert.recognition", "tests.catalog.golden.pin"}
"""These write files of the project, whatever their arguments are."""


def test_the_documents_name_commands():
    assert {"examples.networks", "examples.benchmark", "tests.mutate", "tests.twins"} <= set(NAMED)


@pytest.mark.parametrize("name", NAMED)
def test_command_starts(name, monkeypatch, capsys):
    pytest.importorskip("torch")
    module = importlib.import_module(name)
    if hasattr(module, "__path__"):
        module = importlib.import_module(f"{name}.__main__")
    if name not in WITHOUT_OPTIONS:
        monkeypatch.setattr(sys, "argv", [name, "--help"])
        with pytest.raises(SystemExit) as stopped:
            module.main()
        assert stopped.value.code == 0
        assert "usage:" in capsys.readouterr().out


def test_networks_are_measured(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    networks = importlib.import_module("examples.networks")
    monkeypatch.setattr(sys, "argv", ["networks", "spatial_transformer_net", "--json", str(tmp_path / "figures.json")])
    networks.main()
    (row,) = networks.json.loads((tmp_path / "figures.json").read_text())["rows"]
    assert row["parameters"] == 27360
    assert row["float64"] < 1e-12
