"""``verify --certificate`` records how far every result is apart, and ``verify --check`` fails when one is worse."""

import dataclasses
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from convert import plan
from convert.__main__ import main
from convert.commands import verifying
from convert.comparing.case import random_state
from convert.comparing.certificate import read_certificate, write_certificate
from convert.comparing.report import Report
from convert.comparing.sides import FlaxSide
from flax_attn import cifar_resnet20
from flax_attn.layers import BatchNorm
from flax_attn.models.cifar_resnet import CifarResNet
from tests.convert.test_verify_own import FLAX, TORCH
from tests.helpers.certificates import BLOCK, GIVEN, content, row_of, saved, verify
from tests.helpers.layer_cases import normal


def test_the_same_run_gives_the_same_bytes_and_a_good_check(copied, capsys):
    before = (copied / "block.json").read_bytes()
    status, out, err = verify(capsys, "--check", copied / "block.json")
    assert status == 0, out + err
    assert "none of 42 results is worse" in out
    again = copied / "again.json"
    assert verify(capsys, copied / "block.pth", *BLOCK, "--certificate", again)[0] == 0
    assert again.read_bytes() == before
    assert "digest" in read_certificate(again).to_json()


def test_a_planted_bug_in_a_layer_is_found(copied, capsys, monkeypatch):
    monkeypatch.setattr(BatchNorm, "gain", lambda self, scale: scale * (1 + 1e-8))
    status, out, _ = verify(capsys, "--check", copied / "block.json")
    assert status == 1
    assert "float64 eval: output 0: the relative difference is " in out
    assert "none of" not in out


def test_a_bug_in_the_results_of_one_side_is_found(copied, capsys, monkeypatch):
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
    monkeypatch.setattr(verifying, "compare_whole", lambda *_, **__: Report("bad", [row_of(1.0)]))
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
    old = dataclasses.replace(read_certificate(certificate), results=(row_of(1e-15),), file="gone/block.pth")
    write_certificate(certificate, old)
    assert verify(capsys, "--check", certificate)[0] == 0
    (copied / "block.pth").rename(copied / "renamed.pth")
    status, _, err = verify(capsys, "--check", certificate)
    assert status == 2
    assert "found nothing; say where FILE is now" in err
    assert verify(capsys, copied / "renamed.pth", "--check", certificate)[0] == 0
    assert len(quick) == 2


@pytest.mark.parametrize(
    "options", [{}, {"seed": "0"}, {"seed": -1}, {"arg": ["x"]}, {"input": ["-1"]}, {"layouts": 3}]
)
def test_other_options_in_a_certificate_are_refused(copied, capsys, quick, options):
    old = read_certificate(copied / "block.json")
    write_certificate(copied / "block.json", dataclasses.replace(old, options={**(options and old.options), **options}))
    status, _, err = verify(capsys, "--check", copied / "block.json")
    assert status == 2
    assert "expected the options of verify in the certificate" in err


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
