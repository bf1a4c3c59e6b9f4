"""A checkpoint with its certificate, and a comparison that takes no time."""

import numpy as np
import pytest

from convert import plan
from convert.__main__ import main
from convert.commands import verifying
from convert.comparing.case import random_state
from convert.comparing.report import Report
from flax_attn import BasicConv2d
from tests.helpers.certificates import BLOCK, row_of, saved
from tests.helpers.layer_cases import normal


@pytest.fixture(scope="session")
def certified(tmp_path_factory):
    """A folder with the file of a block, and its certificate."""
    folder = tmp_path_factory.mktemp("certified")
    block = BasicConv2d(3, 4, 3)
    state = random_state(plan(block, normal(2, 7, 5, 3)), np.random.default_rng(3), "float32")
    saved(folder / "block.pth", state)
    assert main(["verify", str(folder / "block.pth"), *BLOCK, "--certificate", str(folder / "block.json")]) == 0
    return folder


@pytest.fixture
def copied(certified, tmp_path):
    """Copies of the file and its certificate that a test may change."""
    for name in ("block.pth", "block.json"):
        (tmp_path / name).write_bytes((certified / name).read_bytes())
    return tmp_path


@pytest.fixture
def quick(monkeypatch):
    """The comparison with a few rows in place of the real one; what it was called with is in the list."""
    calls = []

    def compare(entry, module, mapping, **given):
        calls.append({"entry": entry, "module": module, **given})
        return Report("quick", [row_of(1e-15)], moves_with_input=0.5, moves_with_parameters=float("inf"))

    monkeypatch.setattr(verifying, "compare_whole", compare)
    return calls
