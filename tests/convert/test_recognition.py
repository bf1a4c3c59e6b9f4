"""What a file is, told from its keys: the digests are those of the networks, and a guess is made only if it is one."""

import dataclasses
import time

import numpy as np
import pytest
import safetensors.numpy

from convert import module_of, read, recognition, restore
from convert.__main__ import main
from convert.recognition import digest, digests, recognise, recognise_blocks
from convert.rules import dropped
from flax_attn import PUBLISHED
from flax_attn.catalog.blocks import BLOCKS
from flax_attn.constructor import constructor
from flax_attn.models import cifar_resnet, resnet
from tests.catalog.test_golden import golden
from tests.convert.test_cli import refusal, run
from tests.helpers.walk import entry_plan, published, walk_published

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


@published({entry.makes: entry for entry in reversed(PUBLISHED) if entry.keys}.values())
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
    _, fits, assumed, dialect, *_ = out.splitlines()
    assert (dialect, fits) == ("dialect: native", "fits --model cifar_resnet20 --arg num_classes=100")
    assert assumed.startswith("assumed: images are normalised by the mean and the deviation of CIFAR-10")
    twice(monkeypatch)
    _, out, _ = run(capsys, "inspect", path)
    assert out.splitlines()[3:5] == ["fits --model cifar_resnet20_dilated --arg num_classes=100", assumed]
    state = {key: np.zeros(s, np.float32) for key, s in golden("foreign/mmcv_NonLocal2d_dot_product_ss0").items()}
    _, out, _ = run(capsys, "inspect", write(tmp_path / "c", state))
    assert "dialect: mmcv_nonlocal (mmcv's" in out
    assert " or mmcv_nonlocal_scaled (" in out
    block_options = "--model DotProductNonLocalBlock --arg in_channels=8 --arg dimension=2 --arg sub_sample=False"
    assert f"may be {block_options} --dialect mmcv_nonlocal\n" in out


def below(prefix, state):
    return {f"{prefix}{key}": array for key, array in state.items()}


def shown(state, dialect="auto"):
    return [candidate.options for candidate in recognise(state, dialect)]


@pytest.mark.parametrize(
    "prefix", ["model.", "net.", "backbone.", "encoder.", "student.", "ema_model.", "_forward_module.model.", "a.b.c."]
)
def test_a_network_below_a_prefix_is_recognised(prefix):
    state = below(prefix, state_of("cifar_resnet20", num_classes=7))
    model = "--model cifar_resnet20 --arg num_classes=7 --prefix "
    assert shown(state) == shown(state | {"loss.weight": np.zeros(3)}) == shown(state, "native") == [model + prefix]
    assert [*recognise(state)[0].select(state)] == [*state_of("cifar_resnet20")]
    assert shown(state | {f"{prefix}extra": np.zeros(3)}) == []


def test_the_whole_file_is_preferred_and_a_part_inside_of_another_is_left_out():
    state = state_of("cifar_resnet20")
    assert shown(state | {"net.fc": np.zeros(1)}) == []
    two = below("student.net.", state) | below("teacher.module.", state)
    assert shown(two) == [f"--model cifar_resnet20 --prefix {name}" for name in ("student.net.", "teacher.module.")]


def test_a_dialect_below_a_prefix_is_recognised():
    theirs = {key.replace("fc.", "linear."): x for key, x in state_of("cifar_resnet20_option_a").items()}
    state = below("model.", theirs) | {"step": np.zeros(1)}
    wanted = ["--model cifar_resnet20_option_a --dialect akamaster --prefix model."]
    assert shown(state) == shown(state, "akamaster") == wanted
    assert shown(state, "native") == []


def test_convert_uses_the_prefix_and_says_so(capsys, tmp_path):
    state, out = state_of("cifar_resnet20", num_classes=5), tmp_path / "out"
    path = write(tmp_path / "a", below("model.", state) | {"loss.weight": np.zeros(3, np.float32)})
    status, printed, _ = run(capsys, "convert", path, "--out", out)
    assert status == 0
    assert "recognised cifar_resnet20(num_classes=5) below the prefix 'model.'" in printed
    np.testing.assert_array_equal(restore(out)["params"]["fc"]["kernel"].T, state["fc.weight"])


def test_many_keys_take_little_time():
    many = {f"model.layer{i // 7}.block{i % 7}.w{i}": np.zeros(1) for i in range(20_000)}
    start = time.perf_counter()
    assert recognise(many) == recognise_blocks(many) == []
    assert time.perf_counter() - start < 10


def test_long_keys_take_little_time():
    state = {"module." * 60_000 + "fc1.weight": np.zeros(1), "layers.1." * 60_000 + "fc1.weight": np.zeros((1,) * 20)}
    start = time.perf_counter()
    assert recognise(state) == recognise_blocks(state) == []
    assert time.perf_counter() - start < 5


def block(name, **arguments):
    entry = next(entry for entry in BLOCKS if entry.cls.__name__ == name)
    shapes = recognition.entry_plan(entry, entry.cls(**arguments)).shapes
    return {key: np.zeros(shape, np.float32) for key, shape in shapes.items()}


@pytest.mark.parametrize(
    ("name", "arguments", "options"),
    [
        ("SpatialTransformer", {}, ""),
        ("SpatialTransformer", {"in_channels": 3, "size": (32, 32)}, " --arg in_channels=3 --arg 'size=(32, 32)'"),
        ("SELayer", {"channel": 64}, " --arg channel=64"),
        ("SELayer", {"channel": 64, "reduction": 4}, " --arg channel=64 --arg reduction=4"),
        ("PAM_Module", {"in_dim": 512}, " --arg in_dim=512"),
        ("CAM_Module", {"in_dim": 512}, " --arg 'in_dim=?'"),
        ("SEBottleneck", {"inplanes": 256, "planes": 64}, " --arg inplanes=256 --arg planes=64"),
        ("NONLocalBlock2D", {"in_channels": 64}, " --arg in_channels=64"),
        (
            "RCCAModule",
            {"in_channels": 64, "out_channels": 32, "num_classes": 7},
            " --arg in_channels=64 --arg out_channels=32 --arg num_classes=7",
        ),
        ("MHAttentionMap", dict(query_dim=64, hidden_dim=32, num_heads=8), None),
    ],
)
def test_a_file_of_one_block_is_recognised(name, arguments, options):
    state = block(name, **arguments)
    assert recognise(state) == []
    found = [candidate.options for candidate in recognise_blocks(state)]
    if options is None:
        options = " --arg query_dim=64 --arg hidden_dim=32 --arg 'num_heads=?'"
    assert f"--model {name}{options}" in found
    assert len(found) <= 5


def test_blocks_inside_a_file_are_told_once_for_each_set_of_names():
    se = block("SELayer", channel=64)
    state = {key: x for i in range(3) for key, x in below(f"net.{i}.gate.", se).items()} | {
        key: np.zeros(8) for key in ("bn.weight", "bn.bias", "bn.running_mean", "bn.running_var", "fc.weight")
    }
    (found,) = recognise_blocks(state)
    assert (found.options, found.more) == ("--model SELayer --arg channel=64 --prefix net.0.gate.", 2)
    state["net.0.gate.fc.0.weight"] = np.zeros((5, 64))
    assert recognise_blocks({"net.gate.fc.0.weight": np.zeros((5, 64)), "net.gate.fc.2.weight": np.zeros((5, 6))}) == []


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
