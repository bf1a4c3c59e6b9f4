"""What a file is, told from its keys: the digests are those of the networks, and a guess is made only if it is one."""

import dataclasses

import numpy as np
import pytest
import safetensors.numpy

from convert import module_of, read, recognition, restore
from convert.__main__ import main
from convert.recognition import digest, digests, recognise
from convert.rules import dropped
from flax_attn import PUBLISHED
from flax_attn.catalog.blocks import BLOCKS
from flax_attn.constructor import constructor
from flax_attn.models import cifar_resnet, resnet
from tests.catalog.test_golden import golden
from tests.convert.test_cli import refusal, run
from tests.helpers.walk import entry_plan, walk_published

STALE = "stale: run python -m convert.recognition"


def state_of(name, **arguments):
    entry = next(entry for entry in PUBLISHED if entry.cls.__name__ == name)
    shapes = recognition.entry_plan(entry, entry.module(**arguments)).shapes
    rng = np.random.default_rng(0)
    return {key: rng.normal(size=shape).astype(np.float32) for key, shape in shapes.items()}


def write(path, state):
    safetensors.numpy.save_file(state, path)
    return path


@walk_published
def test_digest_is_that_of_the_network(entry):
    assert digests().get(entry.name) == digest(entry_plan(entry).shapes), STALE


@pytest.mark.parametrize("entry", BLOCKS, ids=lambda entry: entry.name)
def test_digest_is_that_of_the_block(entry):
    shapes = entry_plan(entry).shapes
    assert digests().get(entry.name) == (digest(shapes) if shapes else None), STALE


def test_there_is_no_digest_without_an_entry():
    assert digests().keys() <= {entry.name for entry in [*PUBLISHED, *BLOCKS]}, STALE


@pytest.mark.parametrize("entry", [e for e in PUBLISHED if e.keys], ids=lambda entry: entry.name)
def test_a_published_list_is_recognised(entry):
    state = {key: np.zeros(shape, np.float32) for key, shape in golden(entry.keys).items()}
    candidates = [c for c in recognise(state) if c.entry is entry]
    assert len(candidates) == 1
    assert candidates[0].module == entry.module()
    assert candidates[0].dialect is None


def test_arguments_are_read_from_shapes():
    (candidate,) = recognise(state_of("resnet18", num_classes=7))
    assert str(candidate) == "resnet18(num_classes=7)"
    assert candidate.options == "--model resnet18 --arg num_classes=7"
    assert candidate.module == resnet.resnet18(7)
    assert recognise(state_of("resnet18", num_classes=1000))[0].options == "--model resnet18"


def test_the_same_names_in_another_shape_are_not_recognised():
    state = state_of("cifar_resnet20")
    state["layer2.0.conv1.weight"] = np.zeros((32, 16, 5, 5), np.float32)
    assert recognise(state) == []
    assert recognise(state | {"fc.weight": np.zeros(())}) == []
    assert recognise({"fc.weight": np.zeros((3, 4))}) == []
    assert recognise(state_of("cifar_resnet20") | {"extra": np.zeros(3)}) == []


def test_a_dialect_is_recognised_with_its_network():
    theirs = {key.replace("fc.", "linear."): x for key, x in state_of("cifar_resnet20_option_a").items()}
    (candidate,) = recognise(theirs)
    assert candidate.options == "--model cifar_resnet20_option_a --dialect akamaster"
    assert recognise(theirs, "native") == []


def test_few_networks_are_traced(monkeypatch):
    traced = []
    plan = recognition.entry_plan
    monkeypatch.setattr(recognition, "entry_plan", lambda entry, module: traced.append(entry) or plan(entry, module))
    recognise(state_of("cifar_resnet32"))
    assert 1 <= len(traced) <= 3


def twice(monkeypatch):
    """A second network with the keys of cifar_resnet20, as the dilated form of a network has."""

    @constructor(cifar_resnet.CifarResNet, cifar_resnet.preprocess, n_size=3)
    def cifar_resnet20_dilated() -> None:
        """A network of our own."""

    entry = next(entry for entry in PUBLISHED if entry.cls is cifar_resnet.cifar_resnet20)
    monkeypatch.setattr(recognition, "PUBLISHED", [*PUBLISHED, dataclasses.replace(entry, cls=cifar_resnet20_dilated)])
    known = digests() | {"cifar_resnet20_dilated": digests()["cifar_resnet20"]}
    monkeypatch.setattr(recognition, "digests", lambda: known)


def test_inspect_names_dialect_and_networks(capsys, tmp_path, monkeypatch):
    path = write(tmp_path / "a", state_of("cifar_resnet20", num_classes=100))
    _, out, _ = run(capsys, "inspect", path)
    *_, dialect, fits, assumed = out.splitlines()
    assert (dialect, fits) == ("dialect: native", "fits --model cifar_resnet20 --arg num_classes=100")
    assert assumed.startswith("assumed: images are normalised by the mean and the deviation of CIFAR-10")
    twice(monkeypatch)
    _, out, _ = run(capsys, "inspect", path)
    assert out.splitlines()[-2:] == ["fits --model cifar_resnet20_dilated --arg num_classes=100", assumed]
    _, out, _ = run(capsys, "inspect", write(tmp_path / "b", {"w": np.zeros(3)}))
    assert out.splitlines()[-2:] == ["dialect: native", "fits no published network"]
    state = {key: np.zeros(s, np.float32) for key, s in golden("foreign/mmcv_NonLocal2d_dot_product_ss0").items()}
    _, out, _ = run(capsys, "inspect", write(tmp_path / "c", state))
    assert "dialect: mmcv_nonlocal (mmcv's" in out
    assert " or mmcv_nonlocal_scaled (" in out


def test_convert_without_a_model(capsys, tmp_path):
    state, out = state_of("cifar_resnet20_option_a", num_classes=5), tmp_path / "out"
    theirs = {key.replace("fc.", "linear."): x for key, x in state.items()}
    status, printed, _ = run(capsys, "convert", write(tmp_path / "a", theirs), "--out", out)
    assert status == 0
    assert "recognised cifar_resnet20_option_a(num_classes=5)" in printed
    assert module_of(out) == cifar_resnet.cifar_resnet20_option_a(5)
    np.testing.assert_array_equal(restore(out)["params"]["fc"]["kernel"].T, state["fc.weight"])


def test_convert_does_not_guess(capsys, tmp_path, monkeypatch):
    path, out = write(tmp_path / "a", state_of("cifar_resnet20")), tmp_path / "out"
    other = write(tmp_path / "b", {"w": np.zeros(3)})
    assert (
        refusal(capsys, "convert", other, "--out", out)
        == f"{other}: fits no published network; say what it is with --model"
    )
    assert refusal(capsys, "convert", path, "--arg", "num_classes=5", "--out", out).startswith(
        "an argument needs a model"
    )
    refused = refusal(capsys, "convert", path, "--dialect", "akamaster", "--out", out)
    assert "fits no published network" in refused
    twice(monkeypatch)
    lines = refusal(capsys, "convert", path, "--out", out).splitlines()
    assert lines == [
        f"{path}: fits several networks; say which with",
        "--model cifar_resnet20",
        "--model cifar_resnet20_dilated",
    ]
    assert not out.exists()


def test_convert_and_verify_with_a_dialect(capsys, tmp_path):
    state = state_of("cifar_resnet20_option_a")
    state = {key: np.abs(x) if key.endswith("running_var") else x for key, x in state.items()}
    theirs = write(tmp_path / "a", {key.replace("fc.", "linear."): x for key, x in state.items()})
    model, out = ["--model", "cifar_resnet20_option_a"], tmp_path / "out"
    assert run(capsys, "convert", theirs, *model, "--dialect", "akamaster", "--out", out)[0] == 0
    assert read(out).arrays.keys() == {"/".join(row.path) for row in plan_of("cifar_resnet20_option_a").rows}
    assert refusal(capsys, "convert", theirs, *model, "--dialect", "native", "--out", out).startswith(
        "the state dict does"
    )
    with pytest.raises(SystemExit):
        main(["convert", str(theirs), *model, "--dialect", "tim", "--out", str(out)])
    pytest.importorskip("torch")
    assert run(capsys, "verify", theirs, *model)[0] == 0


def plan_of(name):
    return entry_plan(next(entry for entry in PUBLISHED if entry.name == name))


def test_counters_do_not_count():
    keys = golden("timm_resnet18")
    assert any(map(dropped, keys))
    assert digest(keys) == digest([key for key in keys if not dropped(key)]) == digests()["resnet18"]
