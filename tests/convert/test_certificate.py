"""A certificate holds how far every result is apart, and tells whether another one is worse."""

import dataclasses
import hashlib
import json
import platform

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from convert import plan
from convert.comparing.case import random_state
from convert.comparing.certificate import Certificate, digest, read_certificate
from convert.comparing.parity import Parity
from convert.comparing.provenance import bytes_of
from convert.errors import RefusedError
from flax_attn import DigitsNet
from flax_attn.catalog import CATALOG
from tests.helpers.certificates import GIVEN, content, row_of, verify


def test_every_result_is_in_the_certificate(certified):
    found = content(certified / "block.json")
    names = {(row["dtype"], row["name"]) for row in found["results"]}
    state = torch.load(certified / "block.pth")
    statistics = {key for key in state if "running" in key}
    expected = {"output 0", "gradient of input 0", *(f"gradient of {key}" for key in state if key not in statistics)}
    phases = ("eval", "step 1", "step 2")
    wanted = {f"{phase}: {name}" for phase in phases for name in expected | statistics}
    assert names == {(dtype, name) for dtype in ("float32", "float64") for name in wanted}
    assert len(statistics) == 2
    for row in found["results"]:
        assert row["relative"] <= row["allowed"]
        assert 0 <= row["absolute"] < 1e-3
    assert all(row["magnitude"] > 0 for row in found["results"])
    assert {row["allowed"] for row in found["results"] if row["dtype"] == "float64"} == {1e-10}
    assert max(row["relative"] for row in found["results"] if row["dtype"] == "float32") > 1e-9
    assert [(group["dtype"], group["kind"]) for group in found["largest"]] == [
        (dtype, kind) for dtype in ("float64", "float32") for kind in ("outputs", "gradients", "statistics")
    ]
    assert sum(group["count"] for group in found["largest"]) == len(found["results"])


def test_the_certificate_says_what_was_compared_and_with_what(certified):
    found = content(certified / "block.json")
    assert found["sha256"] == hashlib.sha256((certified / "block.pth").read_bytes()).hexdigest()
    assert found["size"] == (certified / "block.pth").stat().st_size
    assert (found["file"], found["model"], found["dtype"]) == ("block.pth", "BasicConv2d", "float32")
    assert (found["dialect"], found["wrapper"], found["prefix"]) == ("native", None, "")
    assert found["arguments"] == GIVEN
    assert set(found["versions"]) == {"flax_attn", "jax", "jaxlib", "flax", "numpy", "torch", "python"}
    assert found["versions"]["torch"] == torch.__version__
    assert found["tolerances"] == {"float32": 1e-4, "float64": 1e-10}
    assert found["moves_with_input"] > 1e-3
    assert found["moves_with_parameters"] > 1e-3
    assert platform.node() not in (certified / "block.json").read_text()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_numbers_are_those_of_the_file(dtype):
    entry = next(entry for entry in CATALOG if entry.cls is DigitsNet)
    module = entry.module()
    mapping = plan(module, *entry.structs(module))
    state = random_state(mapping, np.random.default_rng(5), "float64")
    case = Parity(entry, mapping, dtype, state=state, module=module).case
    assert case.module is module
    assert case.state.keys() == state.keys()
    assert all(np.array_equal(case.state[key], state[key].astype(dtype)) for key in state)
    assert {array.dtype for array in case.state.values()} == {np.dtype(dtype)}


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda text: text[: len(text) // 2], "expected a complete file, got a damaged one"),
        (lambda text: "", "expected a complete file, got a damaged one"),
        (lambda text: "[" * 100_000, "expected a complete file, got a damaged one"),
        (lambda text: "\xff", "expected a complete file, got a damaged one"),
        (lambda text: "[1, 2]", "got other JSON"),
        (lambda text: '{"model": "SELayer"}', "got other JSON"),
        (
            lambda text: text.replace('"version": 1', '"version": 2'),
            "expected a certificate of version 1, got version 2",
        ),
        (lambda text: text.replace('"size": ', '"size": 1'), "got one that was changed"),
        (lambda text: text.replace('"allowed": 1e-10', '"allowed": 1e-3', 1), "got one that was changed"),
        (lambda text: text.replace('"digest"', '"signature"'), "got one that was changed"),
        (lambda text: text.replace('"size"', '"bigness"'), "got one that was changed"),
        (lambda text: text.replace('"size": ', '"size": NaN, "x": '), "got a damaged one"),
    ],
)
def test_a_certificate_that_is_not_as_it_was_written_is_refused(copied, capsys, quick, spoil, words):
    certificate = copied / "block.json"
    changed = spoil(certificate.read_text())
    assert changed != certificate.read_text()
    certificate.write_bytes(changed.encode("latin-1"))
    status, out, err = verify(capsys, "--check", certificate)
    assert (status, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert f"{certificate}: " in err
    assert words in err
    assert not quick


@pytest.mark.parametrize(
    ("key", "value"), [("size", "1"), ("results", [{"name": "x"}]), ("options", []), ("notes", None), ("model", None)]
)
def test_fields_of_other_types_are_refused_whatever_the_digest(certified, key, value):
    changed = {k: v for k, v in content(certified / "block.json").items() if k != "digest"} | {key: value}
    with pytest.raises(RefusedError, match="all its fields"):
        Certificate.from_json(json.dumps({**changed, "digest": digest(changed)}))


@pytest.mark.parametrize(
    ("old", "new", "worse"),
    [
        (row_of(1e-15), row_of(9e-13), False),
        (row_of(1e-15), row_of(2e-12), True),
        (row_of(5e-13), row_of(4e-12), False),
        (row_of(5e-13), row_of(6e-12), True),
        (row_of(5e-11), row_of(2e-10), True),
        (row_of(1e-7, "float32", 1e-4), row_of(9e-6, "float32", 1e-4), False),
        (row_of(1e-7, "float32", 1e-4), row_of(2e-5, "float32", 1e-4), True),
        (row_of(1e-4, "float32", 1e-2), row_of(9e-4, "float32", 1e-2), False),
        (row_of(5e-5, "float32", 1e-2), row_of(2e-3, "float32", 1e-2), True),
        (row_of(0.0, allowed=0.0), row_of(0.0, allowed=0.0), False),
        (row_of(0.0, allowed=0.0), row_of(1.0, allowed=0.0), True),
        (row_of(1e-15), row_of(1e-15, name="eval: output 1"), True),
        (row_of(1e-15), row_of(float("nan")), True),
        (row_of(1e-11), row_of(9e-11, allowed=1e-6), False),
        (row_of(5e-11), row_of(2e-10, allowed=1e-6), True),
        (row_of(1e-15), row_of(5e-12, allowed=1e-6), True),
    ],
)
def test_what_counts_as_worse(certified, old, new, worse):
    recorded = dataclasses.replace(read_certificate(certified / "block.json"), results=(old,))
    found = dataclasses.replace(recorded, results=(new,)).worse_than(recorded)
    assert bool(found) == worse
    if old.name != new.name:
        assert [line.partition(": ")[2].partition(": ")[2] for line in found] == [
            "in the certificate, but not computed now", "computed now, but not in the certificate"
        ]  # fmt: skip


def test_another_model_is_worse_and_another_version_is_a_note(certified):
    recorded = read_certificate(certified / "block.json")
    spoiled = dataclasses.replace(recorded, machine={"\x1b": "\n"}, results=(row_of(0.0, name="\x1b[2J\n"),))
    said = recorded.differences(spoiled) + recorded.worse_than(spoiled)
    assert len(said) > 3
    assert all(line.isprintable() for line in said)
    other = dataclasses.replace(recorded, dialect="timm", versions={**recorded.versions, "jax": "0.1"})
    assert other.worse_than(recorded) == ["dialect: expected native as in the certificate, got timm"]
    assert other.differences(recorded) == [f"jax: 0.1 now, {recorded.versions['jax']} in the certificate"]


def test_the_hash_of_several_files(tmp_path):
    for i in range(2):
        (tmp_path / f"{i}.safetensors").write_bytes(bytes([i]) * 9)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "0.safetensors", "b": "1.safetensors"}}))
    before = bytes_of(tmp_path)
    assert before == bytes_of(index)
    assert before.size == 18 + index.stat().st_size
    (tmp_path / "README.md").write_text("not a part of it")
    assert bytes_of(tmp_path) == before
    (tmp_path / "1.safetensors").write_bytes(bytes([2]) * 9)
    assert bytes_of(tmp_path).sha256 != before.sha256
