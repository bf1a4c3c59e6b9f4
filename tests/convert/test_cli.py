"""flax-attn-convert as a person uses it: what it prints, what it writes, and its exit status."""

import os
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from convert import demo, from_torch, load, module_of, restore, save
from convert.__main__ import main, parser
from convert.commands.chosen import chosen_model
from convert.comparing.tolerances import TOLERANCE
from flax_attn import CATALOG, PUBLISHED, Bottleneck, DigitsNet, ResNet, SELayer
from flax_attn.catalog import second_names
from flax_attn.layers import FrozenBatchNorm2d
from tests.helpers.walk import entry_plan

DIGITS = str(demo.FOLDER / "digits.pth")


def run(capsys, *arguments):
    status = main(list(map(str, arguments)))
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def refusal(capsys, *arguments):
    """The one sentence of a command that cannot be carried out."""
    status, out, err = run(capsys, *arguments)
    assert status == 2
    assert out == ""
    assert err.startswith("flax-attn-convert: ")
    assert "Traceback" not in err
    return err.removeprefix("flax-attn-convert: ").rstrip()


def test_inspect_lists_keys_shapes_and_the_total(capsys):
    status, out, _ = run(capsys, "inspect", DIGITS)
    state = load(DIGITS)
    assert status == 0
    for key, array in state.items():
        assert any(line.split()[0] == key and str(array.shape) in line for line in out.splitlines() if line.split())
    assert f"zip pickle, {len(state)} arrays, 20,518 numbers" in out


def test_inspect_tells_wrapper_prefix_and_metadata(capsys, tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"epoch": 3, "state_dict": {"module.fc.weight": torch.zeros(2, 3)}}, tmp_path / "a.pth.tar")
    _, out, _ = run(capsys, "inspect", tmp_path / "a.pth.tar")
    assert "found under 'state_dict', beside epoch" in out
    assert "stripped the prefix 'module.'" in out
    save(tmp_path / "b.safetensors", {"params": {"x": np.zeros(3)}}, SELayer(16))
    _, out, _ = run(capsys, "inspect", tmp_path / "b.safetensors")
    assert "module: flax_attn.blocks.se:SELayer" in out
    assert 'arguments: {"channel": 16}' in out


def test_models_lists_the_catalog_with_arguments(capsys):
    _, out, _ = run(capsys, "models")
    first = [line.split()[0] for line in out.splitlines()]
    assert len(first) == len(set(first))
    assert {entry.cls.__name__ for entry in CATALOG} - second_names().keys() <= set(first)
    assert {entry.name for entry in PUBLISHED} <= set(first)
    assert max(map(len, out.splitlines())) <= 100
    assert len(first) <= 220


def test_models_that_a_word_finds_are_told_with_their_arguments(capsys):
    _, out, _ = run(capsys, "models", "SELayer")
    assert out.splitlines()[0].startswith("SELayer  Scale each channel of x")
    assert "    arguments: channel, reduction=16, bias=False, hidden=None," in out
    _, out, _ = run(capsys, "models", "danet_resnet101")
    assert "    arguments: num_classes=19, layers=(3, 4, 23, 3), deep_stem=False, multi_grid=(4, 8, 16)," in out
    assert "    files: DANet101.pth.tar\n" in out
    assert "    assumed: multi_grid=(4, 8, 16), as released; the scores are resized with align_corners=True" in out
    _, out, _ = run(capsys, "models", "sge_resnet?8")
    assert [line.split()[0] for line in out.splitlines() if line[0] != " "] == ["sge_resnet18"]


def test_one_thing_has_one_name(capsys):
    _, out, _ = run(capsys, "models", "non*local*net")
    assert [line for line in out.splitlines() if line[0] != " "] == [
        "non_local_net  (class NonLocalNet) The network of upstream's weights/net.pth."
    ]
    _, out, _ = run(capsys, "models", "mlp")
    sam, detr = (line for line in out.splitlines() if line[0] != " ")
    assert sam.startswith("Mlp  SMT's ")
    assert detr.startswith("MLP  DETR's ")
    assert refusal(capsys, "convert", DIGITS, "--model", "mlp", "--out", "x").startswith(
        "no model is called 'mlp'; did you mean Mlp or MLP?"
    )
    assert refusal(capsys, "models", "resnt18").startswith("no model matches 'resnt18'; did you mean resnet18")


def test_what_no_file_tells_is_said(capsys, tmp_path):
    from safetensors.numpy import save_file

    entry = next(entry for entry in PUBLISHED if entry.name == "spatial_transformer_net")
    shapes = entry_plan(entry).shapes
    save_file({key: np.zeros(shape, np.float32) for key, shape in shapes.items()}, tmp_path / "stn")
    line = f"assumed: {entry.assumed}"
    assert "align_corners=False" in line
    for options in (["inspect"], ["convert"], ["convert", "--model", entry.name]):
        command, *more = options
        more += ["--out", tmp_path / "out"] if command == "convert" else []
        _, out, _ = run(capsys, command, tmp_path / "stn", *more)
        assert line in out.splitlines()
    _, out, _ = run(capsys, "inspect", DIGITS)
    assert "assumed: " not in out


def test_networks_say_what_is_assumed():
    assumed = {entry.name: entry.assumed for entry in PUBLISHED}
    for name in ("ccnet_resnet101", "danet_resnet50", "danet_resnet101", "spatial_transformer_net"):
        assert "align_corners" in assumed[name]
    assert "normalised as for ImageNet" in assumed["cifar_resnet20_option_a"]
    assert assumed["resnet50"] == ""


def test_convert_writes_what_from_torch_gives(capsys, tmp_path):
    out = tmp_path / "digits.safetensors"
    status, printed, _ = run(capsys, "convert", DIGITS, "--model", "DigitsNet", "--out", out)
    assert status == 0
    assert "mapped 28 arrays" in printed
    assert "dropped 3: conv1.1.num_batches_tracked" in printed
    x = jnp.zeros((1, 8, 8, 1))
    expected, got = from_torch(DigitsNet(), load(DIGITS), x), restore(out)
    assert module_of(out) == DigitsNet()
    np.testing.assert_array_equal(got["params"]["fc"]["1"]["kernel"], expected["params"]["fc"]["1"]["kernel"])
    assert DigitsNet().apply(got, x).shape == (1, 10)


FIRST = {entry.cls: entry for entry in reversed(CATALOG)}.values()
LITERAL = [e for e in FIRST if all(isinstance(v, int | float | str | tuple | None) for v in e.kwargs.values())]


@pytest.mark.parametrize("entry", LITERAL, ids=lambda entry: entry.name)
def test_every_class_can_be_built_from_the_command_line(entry):
    arguments = [f"--arg={key}={value!r}" for key, value in entry.kwargs.items()]
    options = parser().parse_args(["verify", "file", "--model", entry.cls.__name__, *arguments])
    _, module, mapping = chosen_model(options)
    assert module == entry.module()
    assert mapping.rows == entry_plan(entry).rows


def test_quiet_says_nothing(capsys, tmp_path):
    arguments = ["convert", DIGITS, "--model", "DigitsNet", "--out", tmp_path / "x", "--quiet"]
    assert run(capsys, *arguments) == (0, "", "")


def test_arguments_reach_the_model_and_the_file(capsys, tmp_path):
    source, out = tmp_path / "se.safetensors", tmp_path / "flax.safetensors"
    from safetensors.numpy import save_file

    save_file({"fc.0.weight": np.ones((3, 9), np.float32), "fc.2.weight": np.ones((9, 3), np.float32)}, source)
    arguments = ["--model", "SELayer", "--arg", "channel=9", "--arg", "reduction=3"]
    assert run(capsys, "convert", source, *arguments, "--out", out)[0] == 0
    assert module_of(out) == SELayer(9, 3)
    save(out, restore(out), SELayer(9, 3, dtype=jnp.bfloat16))
    assert module_of(out) == SELayer(9, 3, dtype=jnp.bfloat16)


def test_a_class_as_an_argument_is_kept_by_its_name(tmp_path):
    net = ResNet(Bottleneck, (1, 2), norm_layer=FrozenBatchNorm2d)
    save(tmp_path / "net.safetensors", {"params": {"x": np.zeros(3)}}, net)
    assert module_of(tmp_path / "net.safetensors") == net


def test_verify_compares_with_the_twin(capsys, monkeypatch):
    pytest.importorskip("torch")
    status, out, _ = run(capsys, "verify", DIGITS, "--model", "DigitsNet")
    assert status == 0
    assert out.count("ok") == 2
    monkeypatch.setitem(TOLERANCE, "float64", 0.0)
    status, out, _ = run(capsys, "verify", DIGITS, "--model", "DigitsNet")
    assert status == 1
    assert "OUTSIDE" in out


def test_verify_without_torch_is_one_sentence(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_ref.twins", None)
    assert "verify needs PyTorch: pip install" in refusal(capsys, "verify", DIGITS, "--model", "DigitsNet")


def test_demo_runs_without_torch_in_a_process_of_its_own(tmp_path):
    script = "import sys; sys.modules['torch'] = None; from convert.__main__ import main; sys.exit(main(['demo']))"
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "358 of 360 right, 99.44%" in done.stdout
    assert (tmp_path / "flax_attn_demo.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--model", "Nothing"], "no model is called 'Nothing'"),
        (["--model", "SELayer"], "SELayer needs a value for channel"),
        (["--model", "SELayer", "--arg", "channel=wide"], "SELayer: expected int for channel, got 'wide'"),
        (["--model", "SELayer", "--arg", "channel=0"], "SELayer: expected channel >= 1, got 0"),
        (["--model", "SELayer", "--arg", "chanel=9"], "SELayer has no argument 'chanel'; it takes channel, reduction"),
        (["--model", "SELayer", "--arg", "channel=9"], "the state dict does not fit SELayer: 30 differences"),
        (["--model", "SpatialGroupEnhance", "--arg", "groups=0"], "SpatialGroupEnhance: expected groups >= 1, got 0"),
    ],
)
def test_bad_arguments_are_one_sentence_and_write_nothing(capsys, tmp_path, arguments, sentence):
    out = tmp_path / "out"
    assert refusal(capsys, "convert", DIGITS, *arguments, "--out", out).startswith(sentence)
    assert list(tmp_path.iterdir()) == []


def test_an_argument_without_a_value_is_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["convert", DIGITS, "--model", "SELayer", "--arg", "channel", "--out", "x"])
    assert stop.value.code == 2
    assert "expected name=value, got 'channel'" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["inspect", "convert", "verify"])
@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 cut short", b"\x89PNG\r\n"])
def test_files_that_are_no_checkpoints_are_one_sentence(capsys, tmp_path, command, content):
    if command == "verify":
        pytest.importorskip("torch")
    path = tmp_path / "file.pth"
    path.write_bytes(content)
    more = [] if command == "inspect" else ["--model", "DigitsNet"]
    more += ["--out", tmp_path / "out"] if command == "convert" else []
    assert len(refusal(capsys, command, path, *more).splitlines()) == 1
    assert list(tmp_path.iterdir()) == [path]


def test_an_output_that_cannot_be_written_is_one_sentence(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "missing" / "out", tmp_path / "file" / "out", tmp_path):
        sentence = refusal(capsys, "convert", DIGITS, "--model", "DigitsNet", "--out", out)
        assert str(out) in sentence
        assert len(sentence.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
