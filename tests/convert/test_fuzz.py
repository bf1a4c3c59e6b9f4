"""Spoiled files are read or refused: no other error, no crash, no long wait, no large memory, no other numbers."""

from pathlib import Path

import numpy as np
import pytest

from convert import read
from tests.helpers import checkpoint_bytes as files
from tests.helpers import mutants

PLAIN, CHUNK, CHUNKS = 500, 2500, 4


def check(seeds: range, folder: Path) -> None:
    found = list(mutants.outcomes(seeds, folder))
    assert [one for one in found if one.kind not in ("read", "refused")] == []
    share = sum(one.kind == "read" for one in found) / len(found)
    assert 0.05 < share < 0.6


def test_mutants(tmp_path):
    check(range(PLAIN), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_more_mutants(tmp_path, chunk):
    check(range(chunk * CHUNK, (chunk + 1) * CHUNK), tmp_path)


def test_the_same_seed_makes_the_same_file():
    assert [mutants.mutant(seed) for seed in range(50)] == [mutants.mutant(seed) for seed in range(50)]
    assert len({mutants.mutant(seed) for seed in range(50)}) > 40


def test_other_numbers_than_torch_are_found(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    path = tmp_path / "x"
    path.write_bytes(files.zip_file(files.mapping(files.state())))
    good = read(path)
    assert mutants.agrees(path, good)
    good.arrays["conv.bias"] = good.arrays["conv.bias"].T
    assert not mutants.agrees(path, good)
    monkeypatch.setattr(mutants, "mutant", lambda seed: path.read_bytes())
    monkeypatch.setattr(mutants, "read", lambda path: good)
    assert mutants.outcome(0, tmp_path).kind == "other numbers when they are read later"
    monkeypatch.setattr(mutants, "scan", lambda path: good)
    assert mutants.outcome(0, tmp_path).kind == "other numbers than torch"


@pytest.mark.parametrize(
    ("limit", "kind"), [("LIMIT_SECONDS", "too slow"), ("FREE_MEMORY", "too much memory"), ("read", "KeyError: 'x'")]
)
def test_what_should_not_be_is_found(tmp_path, monkeypatch, limit, kind):
    def fail(path: Path) -> None:
        raise KeyError("x")

    monkeypatch.setattr(mutants, limit, fail if limit == "read" else -(10**9))
    assert mutants.outcome(3, tmp_path).kind == kind


def test_half_precision_is_compared_by_its_bits():
    nan = np.array([0x7E01], np.uint16).view(np.float16)
    assert mutants.same(nan, nan.copy())
    assert not mutants.same(nan, np.array([np.nan], np.float16))
