"""From PyTorch to Flax and back: the exported state dict is the first one, bit for bit, and PyTorch loads it."""

import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from convert import MismatchError, demo, from_torch, load, restore, save
from convert.__main__ import main
from convert.checkpoint import read
from convert.commands.exporting import FORMATS
from convert.dialects import find_dialect
from convert.exported import export_of
from flax_attn import CATALOG, DigitsNet, SELayer
from flax_attn.layers import BatchNorm2d, FrozenBatchNorm2d, InstanceNorm2d, Module, Sequential
from tests.helpers.walk import entry_plan

DIGITS = str(demo.FOLDER / "digits.pth")
NAMES = ["SELayer", "DigitsNet", "DETR", "LDNet", "RCCAModule", "BAM", "SENet"]


def first_entry(name):
    return next(entry for entry in CATALOG if entry.cls.__name__ == name)


def twin_of(entry):
    """A PyTorch network whose numbers are all random, also those that are 0 or 1 at first."""
    torch = pytest.importorskip("torch")
    from torch_ref.twins import build_twin

    torch.manual_seed(0)
    twin = build_twin(entry.cls, entry.kwargs)
    for key, value in twin.state_dict().items():
        if value.is_floating_point():
            value.copy_(torch.rand(value.shape) + 0.5)
        assert key
    return twin


def bits(state_dict):
    return {key: (str(x.dtype), tuple(x.shape), x.numpy().tobytes()) for key, x in state_dict.items()}


def run(capsys, *arguments):
    status = main(list(map(str, arguments)))
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def check_round_trip(entry, folder):
    torch = pytest.importorskip("torch")
    twin, mapping = twin_of(entry), entry_plan(entry)
    torch.save(twin.state_dict(), folder / "first.pth")
    variables = mapping.from_torch(load(folder / "first.pth") if mapping.rows else {})
    save(folder / "flax.safetensors", variables, entry.module())
    for suffix in (".pth", ".safetensors"):
        out = folder / f"out{suffix}"
        assert main(["export", str(folder / "flax.safetensors"), "--out", str(out), "--quiet"]) == 0
        exported = torch.load(out, weights_only=True) if suffix == ".pth" else torch_file(out)
        assert bits(exported) == bits(twin.state_dict())
        fresh = twin_of(entry)
        fresh.load_state_dict(exported, strict=True)
        assert bits(fresh.state_dict()) == bits(twin.state_dict())


def torch_file(path):
    import safetensors.torch

    with safetensors.safe_open(path, framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
    return safetensors.torch.load_file(path)


@pytest.mark.parametrize("name", [name for name in NAMES if any(e.cls.__name__ == name for e in CATALOG)])
def test_round_trip(tmp_path, name):
    check_round_trip(first_entry(name), tmp_path)


def test_round_trip_of_a_module_that_takes_a_class(tmp_path):
    check_round_trip(next(entry for entry in CATALOG if entry.name == "SELayer-conv"), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("entry", [entry for entry in CATALOG if not entry.slow], ids=lambda entry: entry.name)
def test_round_trip_of_every_entry(tmp_path, entry):
    check_round_trip(entry, tmp_path)


def test_the_two_commands_give_the_first_file_again(tmp_path, capsys):
    torch = pytest.importorskip("torch")
    ours, out = tmp_path / "digits.safetensors", tmp_path / "digits.pth"
    assert run(capsys, "convert", DIGITS, "--model", "DigitsNet", "--out", ours)[0] == 0
    status, printed, _ = run(capsys, "export", ours, "--out", out)
    assert status == 0
    assert "DigitsNet: 31 arrays" in printed
    assert "added 3 num_batches_tracked, each 0" in printed
    assert f"wrote {out}, {out.stat().st_size:,} bytes" in printed
    first, exported = (torch.load(path, weights_only=True) for path in (DIGITS, out))
    assert exported.keys() == first.keys()
    for key in first:
        counter = key.endswith("num_batches_tracked")
        assert torch.equal(exported[key], torch.zeros_like(first[key]) if counter else first[key])


def test_json_tells_the_same(tmp_path, capsys):
    ours, out = tmp_path / "se.safetensors", tmp_path / "se.safetensors.out.bin"
    save(ours, SELayer(9, 3).init(jax.random.key(0), jnp.zeros((1, 2, 2, 9))), SELayer(9, 3))
    status, printed, err = run(capsys, "export", ours, "--out", out, "--json")
    assert (status, err) == (0, "")
    assert json.loads(printed) == {
        "file": str(ours),
        "format": "flax_attn",
        "model": "SELayer",
        "arguments": {"channel": 9, "reduction": 3},
        "dialect": "native",
        "arrays": 2,
        "counters": 0,
        "out": str(out),
        "out_format": "torch",
        "bytes": out.stat().st_size,
    }


def test_what_strict_loading_needs():
    """PyTorch misses no counter in a plain dict, but does in one with the metadata of state_dict()."""
    torch = pytest.importorskip("torch")
    net = torch.nn.BatchNorm1d(3)
    state = net.state_dict()
    del state["num_batches_tracked"]
    net.load_state_dict(dict(state), strict=True)
    with pytest.raises(RuntimeError, match="num_batches_tracked"):
        net.load_state_dict(state, strict=True)
    state["num_batches_tracked"] = torch.zeros((), dtype=torch.int64)
    net.load_state_dict(state, strict=True)
    net.load_state_dict(dict(state), strict=True)


class Norms(Module):
    """Normalizations with and without running statistics."""

    def setup(self):
        self.counted = BatchNorm2d(3)
        self.mean = BatchNorm2d(3, momentum=None)
        self.untracked = BatchNorm2d(3, track_running_stats=False)
        self.instance = InstanceNorm2d(3, affine=True, track_running_stats=True)
        self.plain = InstanceNorm2d(3)
        self.frozen = FrozenBatchNorm2d(3)

    def __call__(self, x):
        for layer in (self.counted, self.mean, self.untracked, self.instance, self.plain, self.frozen):
            x = layer(x)
        return x


def test_counters_are_those_of_pytorch():
    torch = pytest.importorskip("torch")
    twin = torch.nn.ModuleDict(
        {
            "counted": torch.nn.BatchNorm2d(3),
            "mean": torch.nn.BatchNorm2d(3, momentum=None),
            "untracked": torch.nn.BatchNorm2d(3, track_running_stats=False),
            "instance": torch.nn.InstanceNorm2d(3, affine=True, track_running_stats=True),
            "plain": torch.nn.InstanceNorm2d(3),
        }
    )
    variables = traverse_util.flatten_dict(Norms().init(jax.random.key(0), jnp.zeros((2, 4, 4, 3))), sep="/")
    export = export_of(Norms(), variables, [((2, 4, 4, 3), 0)])
    state = export.state_dict(variables)
    assert export.counters == ("counted.num_batches_tracked", "instance.num_batches_tracked")
    assert {key for key in state if not key.startswith("frozen.")} == twin.state_dict().keys()
    assert state["counted.num_batches_tracked"].dtype == np.int64
    bare = Sequential([BatchNorm2d(3)]).init(jax.random.key(0), jnp.zeros((2, 4, 4, 3)))
    found = export_of(Sequential([BatchNorm2d(3)]), traverse_util.flatten_dict(bare, sep="/"), [((2, 4, 4, 3), 0)])
    assert found.counters == ("0.num_batches_tracked",)
    assert export_of(BatchNorm2d(3), {}, [((2, 4, 4, 3), 0)]).counters == ("num_batches_tracked",)


@pytest.mark.parametrize(
    ("name", "dialect"), [("DETR", "hf"), ("DETR", "hf_no_timm"), ("SENet", "timm"), ("SENet", "cadene")]
)
def test_exported_in_a_dialect_and_read_back(tmp_path, name, dialect):
    entry = first_entry(name)
    mapping = entry_plan(entry)
    rng = np.random.default_rng(0)
    native = {key: rng.random(shape, np.float32) for key, shape in mapping.shapes.items()}
    save(tmp_path / "flax.safetensors", mapping.from_torch(native), entry.module())
    out = tmp_path / "out.pth"
    assert main(["export", str(tmp_path / "flax.safetensors"), "--out", str(out), "--dialect", dialect, "--quiet"]) == 0
    written = load(out)
    assert written.keys() != native.keys()
    again = mapping.to_torch(mapping.from_torch(written, dialect))
    assert again.keys() == native.keys()
    assert all(again[key].tobytes() == native[key].tobytes() for key in native)
    counters = {key.rpartition(".")[0] for key in written if key.endswith("num_batches_tracked")}
    batch_norms = set() if name == "DETR" else {k.rpartition(".")[0] for k in written if k.endswith("running_mean")}
    assert counters == batch_norms


def test_a_dialect_that_cannot_be_written_is_one_sentence(tmp_path, capsys):
    entry = first_entry("SENet")
    rng = np.random.default_rng(0)
    native = {key: rng.random(shape, np.float32) for key, shape in entry_plan(entry).shapes.items()}
    save(tmp_path / "flax.safetensors", entry_plan(entry).from_torch(native), entry.module())
    arguments = ["export", tmp_path / "flax.safetensors", "--out", tmp_path / "x.pth", "--dialect", "inplace_abn"]
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "")
    assert "inplace_abn can be read and not written" in err
    assert os.listdir(tmp_path) == ["flax.safetensors"]
    assert find_dialect("inplace_abn").name in err


def test_a_file_that_names_no_module_needs_one(tmp_path, capsys):
    bare, named, out = tmp_path / "bare", tmp_path / "named", tmp_path / "out.pth"
    variables = SELayer(9, 3).init(jax.random.key(0), jnp.zeros((1, 2, 2, 9)))
    save(bare, variables)
    save(named, variables, SELayer(9, 3))
    given = ["--model", "SELayer", "--arg", "channel=9", "--arg", "reduction=3"]
    assert "names no module; say which it is for with --model" in run(capsys, "export", bare, "--out", out)[2]
    assert (
        "names its module, flax_attn.blocks.se:SELayer: leave out"
        in run(capsys, "export", named, "--out", out, *given)[2]
    )
    assert not out.exists()
    assert run(capsys, "export", bare, "--out", out, *given)[0] == 0
    assert load(out)["fc.0.weight"].shape == (3, 9)
    status, _, err = run(capsys, "export", bare, "--out", out, "--model", "SELayer", "--arg", "channel=16")
    assert status == 2
    assert "the variables do not fit SELayer: 2 differences" in err


OWN = """
import flax.linen as nn
import flax_attn.layers as layers

class Net(layers.Module):
    width: int = 4

    @nn.compact
    def __call__(self, x):
        return layers.Linear(3, self.width, name="fc")(x)
"""


@pytest.mark.parametrize("named", [False, True])
def test_a_class_of_a_user(tmp_path, capsys, monkeypatch, named):
    (tmp_path / "own_net_to_export.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    import own_net_to_export

    net = own_net_to_export.Net(width=5)
    variables = net.init(jax.random.key(0), jnp.zeros((1, 3)))
    save("net.safetensors", variables, net if named else None)
    model = ["--model", "own_net_to_export:Net", *([] if named else ["--arg", "width=5"])]
    arguments = ["export", "net.safetensors", "--out", "net.pth"]
    status, _, err = run(capsys, *arguments, *model)
    assert status == 2
    assert "say what it is called with: --input 2,33,29,3" in err
    assert run(capsys, *arguments, *model, "--input", "1,3")[0] == 0
    np.testing.assert_array_equal(load("net.pth")["fc.weight"], np.asarray(variables["params"]["fc"]["kernel"]).T)
    if named:
        assert "import it yourself" in run(capsys, *arguments)[2]


@pytest.mark.parametrize("file", ["digits", "safetensors", "text"])
def test_other_files_are_refused(tmp_path, capsys, file):
    import safetensors.numpy

    path = tmp_path / "file"
    if file == "digits":
        path.write_bytes(Path(DIGITS).read_bytes())
    elif file == "safetensors":
        safetensors.numpy.save_file({"x": np.ones(3)}, path, {"format": "pt"})
    else:
        path.write_text("hello")
    status, out, err = run(capsys, "export", path, "--out", tmp_path / "out.pth")
    assert (status, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert ("expected Flax variables that convert or save wrote" in err) == (file != "text")
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("name", ["net", "net.npz", "net.ckpt"])
def test_an_unknown_suffix_is_refused(tmp_path, capsys, name):
    _, _, err = run(capsys, "export", tmp_path / "not there", "--out", tmp_path / name)
    assert "expected a name that ends in .pth, .pt, .bin or .safetensors, or the option --format" in err
    save(tmp_path / "se", SELayer(9).init(jax.random.key(0), jnp.zeros((1, 2, 2, 9))), SELayer(9))
    for form in {form.name for form in FORMATS}:
        assert run(capsys, "export", tmp_path / "se", "--out", tmp_path / name, "--format", form)[0] == 0
        assert read(tmp_path / name).format == ("zip pickle" if form == "torch" else "safetensors")


def test_half_precision_is_exported_as_it_is(tmp_path):
    torch = pytest.importorskip("torch")
    variables = from_torch(DigitsNet(), load(DIGITS), jnp.zeros((1, 8, 8, 1)))
    save(tmp_path / "a.safetensors", jax.tree.map(lambda x: x.astype(jnp.bfloat16), variables), DigitsNet())
    assert main(["export", str(tmp_path / "a.safetensors"), "--out", str(tmp_path / "a.pth"), "--quiet"]) == 0
    exported = torch.load(tmp_path / "a.pth", weights_only=True)
    assert exported["fc.1.weight"].dtype == torch.bfloat16
    kernel = restore(tmp_path / "a.safetensors")["params"]["fc"]["1"]["kernel"]
    assert exported["fc.1.weight"].view(torch.int16).numpy().tobytes() == kernel.T.tobytes()


def test_variables_that_do_not_fit_are_listed():
    with pytest.raises(MismatchError, match="the variables do not fit SELayer: 3 differences"):
        export_of(SELayer(9), {}).state_dict({"params/x": np.zeros(2)})
