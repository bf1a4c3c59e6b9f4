"""``verify --certificate`` records how far every result is apart, and ``verify --check`` fails when one is worse."""

import dataclasses
import hashlib
import json
import platform
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from convert import plan
from convert.__main__ import main
from convert.commands import verifying
from convert.comparing.case import random_state
from convert.comparing.certificate import Certificate, digest, read_certificate, write_certificate
from convert.comparing.parity import Parity
from convert.comparing.provenance import bytes_of
from convert.comparing.report import Report, Row
from convert.comparing.sides import FlaxSide
from convert.errors import RefusedError
from flax_attn import BasicConv2d, DigitsNet, cifar_resnet20
from flax_attn.catalog import CATALOG
from flax_attn.models.cifar_resnet import CifarResNet
from tests.convert.test_verify_own import FLAX, TORCH
from tests.helpers.layer_cases import normal

BLOCK = ["--model", "BasicConv2d", "--arg", "in_channels=3", "--arg", "out_channels=4", "--arg", "kernel_size=3"]
GIVEN = {"in_channels": 3, "out_channels": 4, "kernel_size": 3}


def verify(capsys, *arguments):
    status = main(["verify", *map(str, arguments)])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def saved(path, state):
    torch.save({key: torch.tensor(np.asarray(value)) for key, value in state.items()}, path)
    return path


def content(path):
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
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
        row = Row("float64", "eval: output 0", "outputs", absolute=1e-15, relative=1e-15, allowed=1e-10)
        return Report("quick", [row], moves_with_input=0.5, moves_with_parameters=float("inf"))

    monkeypatch.setattr(verifying, "compare_whole", compare)
    return calls


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


def test_the_same_run_gives_the_same_bytes_and_a_good_check(copied, capsys):
    before = (copied / "block.json").read_bytes()
    status, out, err = verify(capsys, "--check", copied / "block.json")
    assert status == 0, out + err
    assert "none of 42 results is worse" in out
    again = copied / "again.json"
    assert verify(capsys, copied / "block.pth", *BLOCK, "--certificate", again)[0] == 0
    assert again.read_bytes() == before
    assert "digest" in read_certificate(again).to_json()


def test_a_planted_bug_is_found(copied, capsys, monkeypatch):
    """Also a bug that stays within the tolerance, but is far above what was recorded."""

    def spoiled(self, *args, **kwargs):
        steps = unchanged(self, *args, **kwargs)
        for step in steps:
            step["gradient of conv.weight"] = step["gradient of conv.weight"] * (1 + 3e-11)
            step["bn.running_mean"] = step["bn.running_mean"] + 1e-3
        return steps

    unchanged = FlaxSide.steps
    monkeypatch.setattr(FlaxSide, "steps", spoiled)
    status, out, _ = verify(capsys, "--check", copied / "block.json")
    assert status == 1
    lines = [line for line in out.splitlines() if "the relative difference is" in line]
    assert len(lines) == 9
    assert sum("gradient of conv.weight" in line and "more than 10 times the " in line for line in lines) == 3
    assert sum("bn.running_mean" in line and line.endswith("allowed is 1e-10") for line in lines) == 3
    assert "OUTSIDE" in out
    assert "none of" not in out


def test_no_certificate_of_results_that_differ(copied, capsys, monkeypatch):
    row = Row("float64", "eval: output 0", "outputs", absolute=1.0, relative=1.0, allowed=1e-10)
    monkeypatch.setattr(verifying, "compare_whole", lambda *_, **__: Report("bad", [row]))
    before = (copied / "block.json").read_bytes()
    status, out, _ = verify(capsys, copied / "block.pth", *BLOCK, "--certificate", copied / "block.json")
    assert status == 1
    assert "no certificate was written" in out
    assert (copied / "block.json").read_bytes() == before
    monkeypatch.setattr(
        verifying, "compare_whole", lambda *_, **__: Report("vain", [], problems=["It proves nothing."])
    )
    status, out, _ = verify(capsys, copied / "block.pth", *BLOCK, "--certificate", copied / "new.json")
    assert status == 2
    assert not (copied / "new.json").exists()


def test_another_checkpoint_is_refused(copied, capsys):
    state = torch.load(copied / "block.pth")
    state["conv.weight"][0, 0, 0, 0] += 1
    saved(copied / "block.pth", state)
    status, out, err = verify(capsys, "--check", copied / "block.json")
    assert (status, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert "expected the checkpoint of the certificate" in err
    assert "got one with other bytes" in err


def test_a_file_that_moved_is_found_or_given(copied, capsys, quick, tmp_path):
    certificate = copied / "block.json"
    row = Row("float64", "eval: output 0", "outputs", absolute=1e-15, relative=1e-15, allowed=1e-10)
    old = dataclasses.replace(read_certificate(certificate), results=(row,), file="gone/block.pth")
    write_certificate(certificate, old)
    assert verify(capsys, "--check", certificate)[0] == 0
    (copied / "block.pth").rename(copied / "renamed.pth")
    status, _, err = verify(capsys, "--check", certificate)
    assert status == 2
    assert "found nothing; say where FILE is now" in err
    assert verify(capsys, copied / "renamed.pth", "--check", certificate)[0] == 0
    assert len(quick) == 2


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


@pytest.mark.parametrize("options", [{}, {"seed": "0"}, {"arg": ["x"]}, {"input": ["-1"]}, {"layouts": 3}])
def test_other_options_in_a_certificate_are_refused(copied, capsys, quick, options):
    old = read_certificate(copied / "block.json")
    write_certificate(copied / "block.json", dataclasses.replace(old, options={**(options and old.options), **options}))
    status, _, err = verify(capsys, "--check", copied / "block.json")
    assert status == 2
    assert "expected the options of verify in the certificate" in err


def row_of(relative, dtype="float64", allowed=1e-10, name="eval: output 0"):
    return Row(dtype, name, "outputs", absolute=relative, relative=relative, allowed=allowed)


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
    other = dataclasses.replace(recorded, dialect="timm", versions={**recorded.versions, "jax": "0.1"})
    assert other.worse_than(recorded) == ["dialect: expected native as in the certificate, got timm"]
    assert other.differences(recorded) == [f"jax: 0.1 now, {recorded.versions['jax']} in the certificate"]


def test_a_recognised_part_of_a_file(capsys, tmp_path, quick):
    mapping = plan(cifar_resnet20(), normal(1, 32, 32, 3))
    state = random_state(mapping, np.random.default_rng(0), "float32")
    tensors = {f"encoder.{key}": torch.tensor(value) for key, value in state.items()}
    torch.save({"net": {**tensors, "head.weight": torch.ones(3, 4)}, "epoch": 3}, tmp_path / "net.pth")
    status, out, err = verify(capsys, tmp_path / "net.pth", "--certificate", tmp_path / "net.json")
    assert status == 0, out + err
    found = content(tmp_path / "net.json")
    assert (found["model"], found["wrapper"], found["prefix"]) == ("cifar_resnet20", "net", "encoder.")
    assert found["options"]["model"] is None
    assert found["moves_with_parameters"] is None
    assert verify(capsys, "--check", tmp_path / "net.json")[0] == 0
    assert all(np.array_equal(call["state_dict"][key], state[key]) for call in quick for key in state)
    assert [type(call["module"]).__name__ for call in quick] == ["CifarResNet"] * 2


def test_a_dialect(capsys, tmp_path, quick):
    state = random_state(plan(CifarResNet(1), normal(1, 32, 32, 3)), np.random.default_rng(0), "float16")
    foreign = {key.replace("fc.", "linear.").replace("downsample", "shortcut"): x for key, x in state.items()}
    saved(tmp_path / "net.pth", foreign)
    model = ["--model", "CifarResNet", "--arg", "n_size=1"]
    assert verify(capsys, tmp_path / "net.pth", *model, "--certificate", tmp_path / "net.json")[0] == 0
    found = content(tmp_path / "net.json")
    assert (found["dialect"], found["dtype"], found["arguments"]) == ("akamaster", "float16", {"n_size": 1})
    assert verify(capsys, "--check", tmp_path / "net.json")[0] == 0
    assert all(np.array_equal(call["state_dict"][key], state[key]) for call in quick for key in state)


def test_a_file_that_convert_wrote(capsys, copied, quick):
    out = copied / "flax.safetensors"
    assert main(["convert", str(copied / "block.pth"), *BLOCK, "--out", str(out)]) == 0
    assert verify(capsys, out, "--certificate", copied / "flax.json")[0] == 0
    assert content(copied / "flax.json")["arguments"] == GIVEN
    assert verify(capsys, "--check", copied / "flax.json")[0] == 0
    first, second = (call["state_dict"] for call in quick)
    assert first.keys() == second.keys() == torch.load(copied / "block.pth").keys()


def test_classes_of_a_user(capsys, tmp_path, monkeypatch):
    (tmp_path / "certified_flax.py").write_text(FLAX)
    (tmp_path / "certified_torch.py").write_text(TORCH)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    torch.save(__import__("certified_torch").Net(5).state_dict(), tmp_path / "net.pth")
    own = ["--model", "certified_flax:Net", "--torch", "certified_torch:Net", "--arg", "width=5", "--input", "2,5,4,3"]
    status, out, err = verify(capsys, "net.pth", *own, "--certificate", "net.json")
    assert status == 0, out + err
    assert content(tmp_path / "net.json")["options"]["input"] == ["2,5,4,3"]
    assert verify(capsys, "--check", "net.json")[0] == 0
    monkeypatch.setattr(sys.modules["certified_torch"], "Net", sys.modules["certified_torch"].Other)
    status, out, _ = verify(capsys, "--check", "net.json")
    assert status == 1
    for name in ("certified_flax", "certified_torch"):
        sys.modules.pop(name, None)


def test_the_certificate_never_replaces_the_checkpoint(copied, capsys, quick):
    before = (copied / "block.pth").read_bytes()
    (copied / "link.json").symlink_to(copied / "block.pth")
    for target in ("block.pth", "link.json", "", "nowhere/block.json"):
        status, _, err = verify(capsys, copied / "block.pth", *BLOCK, "--certificate", copied / target)
        assert status == 2
        assert "could not be written" in err
    assert not quick
    assert (copied / "block.pth").read_bytes() == before


@pytest.mark.parametrize("extra", [["--model", "SELayer"], ["--seed", "1"], ["--arg", "x=1"], ["--strict-pickle"]])
def test_check_takes_all_options_from_the_certificate(copied, capsys, quick, extra):
    status, _, err = verify(capsys, "--check", copied / "block.json", *extra)
    assert status == 2
    assert f"--check takes all options from the certificate: leave out {extra[0]}" in err


def test_a_command_without_a_file(capsys):
    assert verify(capsys)[0] == 2
    assert "verify needs a FILE" in verify(capsys, "--model", "SELayer")[2]


def test_a_file_that_changes_while_it_is_verified(copied, capsys, monkeypatch):
    def verified(options):
        saved(options.file, {"x": 1.0})
        return Report("x", [row_of(1e-15)]), {}

    monkeypatch.setattr(verifying, "verified", verified)
    status, _, err = verify(capsys, copied / "block.pth", *BLOCK, "--certificate", copied / "new.json")
    assert status == 2
    assert "the file changed while it was verified" in err
    assert not (copied / "new.json").exists()


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
