"""The formats that convert writes, restored as their own libraries restore them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import flax.serialization
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from convert import CheckpointError, demo, from_torch, load, restore, save_torch
from convert.__main__ import main
from convert.commands import terminal
from convert.commands.terminal import SafeConsole
from convert.tensors import Lazy
from convert.writing.formats import FORMATS, write_msgpack, write_npz, write_orbax
from flax_attn import DigitsNet

DIGITS = str(demo.FOLDER / "digits.pth")


def from_npz(path):
    with np.load(path) as file:
        return {tuple(key.split("/")): file[key] for key in file.files}


def from_msgpack(path):
    target = DigitsNet().init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    return flax.traverse_util.flatten_dict(flax.serialization.from_bytes(target, path.read_bytes()))


def from_orbax(path):
    import orbax.checkpoint

    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        return flax.traverse_util.flatten_dict(checkpointer.restore(path))


FORMS = {
    "net.safetensors": ("safetensors", lambda path: flax.traverse_util.flatten_dict(restore(path))),
    "net.npz": ("npz", from_npz),
    "net.msgpack": ("msgpack", from_msgpack),
    "net.MsgPack": ("msgpack", from_msgpack),
    "net": ("safetensors", lambda path: flax.traverse_util.flatten_dict(restore(path))),
    "folder": ("orbax", from_orbax),
}


def equal(found, expected):
    assert found.keys() == expected.keys()
    for path, array in expected.items():
        assert found[path].dtype == array.dtype
        assert np.asarray(found[path]).tobytes() == array.tobytes()


@pytest.mark.parametrize("name", FORMS)
def test_every_format_holds_the_variables_bit_for_bit(tmp_path, capsys, name):
    form, read = FORMS[name]
    option = ["--format", "orbax"] if form == "orbax" else []
    assert main(["convert", DIGITS, "--model", "DigitsNet", "--out", str(tmp_path / name), *option, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    files = [tmp_path / name] if (tmp_path / name).is_file() else list((tmp_path / name).rglob("*"))
    size = sum(path.stat().st_size for path in files if path.is_file())
    assert (facts["out"], facts["out_format"], facts["bytes"]) == (str(tmp_path / name), form, size)
    assert (facts["model"], facts["arguments"], facts["arrays"], facts["dialect"]) == ("DigitsNet", {}, 28, "native")
    assert facts["dropped"] == [key for key in load(DIGITS) if key.endswith("num_batches_tracked")]
    expected = from_torch(DigitsNet(), load(DIGITS), jnp.zeros((1, 8, 8, 1)))
    equal(read(tmp_path / name), flax.traverse_util.flatten_dict(expected))
    assert os.listdir(tmp_path) == [name]


def test_the_option_wins_over_the_suffix(tmp_path):
    out = tmp_path / "net.safetensors"
    assert main(["convert", DIGITS, "--model", "DigitsNet", "--out", str(out), "--format", "npz", "--quiet"]) == 0
    assert len(from_npz(out)) == 28


@pytest.mark.parametrize("name", ["net.pth", "net.h5", "net.ckpt", "net.orbax", "net.safetensor", "net.v2"])
def test_an_unknown_suffix_is_refused(tmp_path, capsys, name):
    assert main(["convert", str(tmp_path / "not there"), "--out", str(tmp_path / name)]) == 2
    sentence = "expected a name that ends in .safetensors, .msgpack or .npz, or the option --format, got neither"
    assert capsys.readouterr().err == f"flax-attn-convert: {tmp_path / name}: {sentence}\n"
    assert list(tmp_path.iterdir()) == []


def tree(*names):
    rng = np.random.default_rng(0)
    arrays = {}
    for name in names:
        dtype = np.dtype(getattr(ml_dtypes, name, name))
        raw = rng.integers(0, 2 if name == "bool" else 256, 6 * dtype.itemsize, dtype=np.uint8)
        arrays[name] = {"matrix": raw.view(dtype).reshape(2, 3), "scalar": raw.view(dtype)[:1].reshape(())}
    return {"params": {"b": arrays, "a": {"x": np.arange(3)}}}


NUMPY = ("bool", "int8", "uint16", "int64", "uint64", "float16", "float32", "float64", "complex64")
OTHERS = ("bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu")


def test_msgpack_is_what_flax_writes(tmp_path):
    variables = tree(*NUMPY, *OTHERS)
    variables["params"]["empty"] = {"x": np.zeros((0, 3))}
    lazy = Lazy((4,), np.dtype("int8"), lambda: np.arange(4, dtype=np.int8))
    write_msgpack(tmp_path / "x", {**variables, "lazy": lazy, "jax": jnp.ones(3), "big": np.ones(2, ">f4")})
    written = (tmp_path / "x").read_bytes()
    made = {**variables, "lazy": lazy.make(), "jax": np.ones(3, jnp.ones(3).dtype), "big": np.ones(2, "<f4")}
    assert written == flax.serialization.to_bytes(made)
    equal(
        flax.traverse_util.flatten_dict(flax.serialization.msgpack_restore(written)),
        flax.traverse_util.flatten_dict(made),
    )


@pytest.mark.parametrize("count", [0, 15, 16, 65535, 65536])
def test_msgpack_of_dicts_of_any_length(tmp_path, count):
    value = np.zeros((), np.int8)
    write_msgpack(tmp_path / "x", {"params": {str(i): value for i in range(count)}, "z": value})
    expected = {"params": {str(i): value for i in range(count)}, "z": value} if count else {"z": value}
    assert (tmp_path / "x").read_bytes() == flax.serialization.to_bytes(expected)


def test_msgpack_in_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(flax.serialization, "MAX_CHUNK_SIZE", 64)
    variables = {"params": {"w": np.arange(100, dtype=np.float32).reshape(10, 10)}}
    write_msgpack(tmp_path / "x", variables)
    found = flax.serialization.msgpack_restore((tmp_path / "x").read_bytes())
    np.testing.assert_array_equal(found["params"]["w"], variables["params"]["w"])


def test_npz_holds_what_numpy_has_and_nothing_else(tmp_path):
    variables = tree(*NUMPY)
    write_npz(tmp_path / "x.npz", variables)
    equal(from_npz(tmp_path / "x.npz"), flax.traverse_util.flatten_dict(variables))
    for name in OTHERS:
        with pytest.raises(CheckpointError, match=f"dtypes that npz has, got {name} at params/b/{name}/matrix"):
            write_npz(tmp_path / "y.npz", tree(name))
    assert os.listdir(tmp_path) == ["x.npz"]


def test_orbax_holds_every_dtype_and_names_what_it_cannot_hold(tmp_path, monkeypatch):
    variables = tree(*NUMPY, *OTHERS)
    write_orbax(tmp_path / "x", variables)
    equal(from_orbax(tmp_path / "x"), flax.traverse_util.flatten_dict(variables))
    with pytest.raises(CheckpointError, match="Orbax stores no empty array, such as params/e"):
        write_orbax(tmp_path / "y", {"params": {"e": np.zeros((0, 3))}})
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    with pytest.raises(ValueError, match="--format orbax needs Orbax: pip install orbax-checkpoint"):
        write_orbax(tmp_path / "y", variables)
    assert os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("write", [write_msgpack, write_npz, write_orbax])
@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"a/b": np.ones(2)}, "a/b"),
        ({"a": {0: np.ones(2)}}, "strings"),
        ({"a": 3.0}, "float at a"),
        ([], "nested dicts"),
    ],
)
def test_what_cannot_be_written_is_one_sentence(tmp_path, write, variables, words):
    with pytest.raises(CheckpointError, match=words) as caught:
        write(tmp_path / "x", variables)
    assert len(str(caught.value).splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_flax_files_are_not_converted_again(tmp_path, capsys):
    ours = tmp_path / "net.safetensors"
    assert main(["convert", DIGITS, "--model", "DigitsNet", "--out", str(ours), "--quiet"]) == 0
    for model in ([], ["--model", "DigitsNet"]):
        assert main(["convert", str(ours), *model, "--out", str(tmp_path / "x.npz")]) == 2
        sentence = capsys.readouterr().err
        assert "got Flax variables that convert or save wrote; the command export makes" in sentence
        assert len(sentence.splitlines()) == 1
    assert os.listdir(tmp_path) == ["net.safetensors"]


def test_parameters_in_half_precision_are_noted(tmp_path, capsys):
    state = {key: x.astype(np.float16) if x.dtype == np.float32 else x for key, x in load(DIGITS).items()}
    save_torch(tmp_path / "half.pth", state)
    arguments = ["convert", str(tmp_path / "half.pth"), "--model", "DigitsNet", "--out", str(tmp_path / "x.npz")]
    assert main(arguments) == 0
    note = "parameters are float16 and will train in float16, where Adam can give NaN; --dtype float32 casts them"
    assert note in capsys.readouterr().out
    assert main([*arguments, "--json"]) == 0
    assert note in json.loads(capsys.readouterr().out)["note"]
    assert main(["convert", DIGITS, *arguments[2:]]) == 0
    assert "note: " not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("option", "parameter", "statistic"),
    [([], "float16", "float32"), (["float32"], "float32", "float32"), (["keep"], "float16", "float16")],
)
def test_dtypes(tmp_path, option, parameter, statistic):
    state = {key: x.astype(np.float16) if x.dtype == np.float32 else x for key, x in load(DIGITS).items()}
    save_torch(tmp_path / "half.pth", state)
    arguments = ["convert", str(tmp_path / "half.pth"), "--model", "DigitsNet", "--out", str(tmp_path / "x.npz")]
    assert main([*arguments, "--quiet", *[f"--dtype={name}" for name in option]]) == 0
    found = from_npz(tmp_path / "x.npz")
    assert {array.dtype.name for path, array in found.items() if path[0] == "params"} == {parameter}
    assert {array.dtype.name for path, array in found.items() if path[0] == "batch_stats"} == {statistic}


def test_progress_is_shown_for_large_files_on_terminals(monkeypatch, capsys):
    leaves = {str(i): Lazy((2,), np.dtype("int8"), lambda: np.ones(2, np.int8)) for i in range(5)}
    leaves["tied"] = leaves["0"]

    def shown(quiet=False, terminal_=True, large=3):
        monkeypatch.setattr(terminal, "LARGE", large)
        monkeypatch.setattr(terminal, "SafeConsole", lambda **more: SafeConsole(force_terminal=terminal_, **more))
        with terminal.Terminal(quiet).steps("writing [/x]", leaves) as watched:
            assert watched["0"] is watched["tied"]
            assert all(leaf.make().sum() == 2 for key, leaf in watched.items() if key != "tied")
        return capsys.readouterr()

    printed = shown()
    assert "writing [/x]" in printed.err
    assert "6/6" in printed.err
    assert printed.out == ""
    assert shown(quiet=True).err == shown(terminal_=False).err == shown(large=100).err == ""


def test_a_file_is_converted_without_packages_that_only_others_need(tmp_path):
    file = Path(__file__).parents[2] / "convert" / "demo" / "digits.pth"
    script = (
        "import sys; from convert.__main__ import main\n"
        "assert main(sys.argv[1:]) == 0\n"
        "names = ('torch', 'orbax', 'optax', 'matplotlib', 'convert.comparing', 'convert.training')\n"
        "assert [name for name in names if name in sys.modules] == []"
    )
    arguments = ["convert", str(file), "--model", "DigitsNet", "--out", str(tmp_path / "out"), "--quiet"]
    root = {"PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, "-c", script, *arguments], check=True, env=os.environ | root)


def test_every_format_is_tested():
    assert {form.name for form in FORMATS} == {form for form, _ in FORMS.values()}


@pytest.mark.parametrize("name", ["net.npz", "net.msgpack", "folder"])
def test_the_converter_reads_every_format_that_it_writes(tmp_path, name, capsys):
    path, back, model = tmp_path / name, tmp_path / "back.pth", ["--model", "DigitsNet"]
    assert main(["convert", DIGITS, *model, f"--out={path}", *(["--format=orbax"] if name == "folder" else [])]) == 0
    expected, got = from_torch(DigitsNet(), load(DIGITS), jnp.zeros((1, 8, 8, 1))), restore(path)
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, got, expected)))
    capsys.readouterr()
    assert main(["inspect", str(path)]) == 0
    assert "Flax variables without the name of their module" in capsys.readouterr().out
    assert main(["export", str(path), *model, "--out", str(back)]) == 0
    state, exported = load(DIGITS), load(back)
    assert state.keys() == exported.keys()
    weights = [key for key in state if not key.endswith("num_batches_tracked")]
    assert all(np.array_equal(exported[key], state[key]) for key in weights)
    pytest.importorskip("torch")
    assert main(["verify", str(path), *model]) == 0


def test_npz_and_msgpack_files_of_others(tmp_path):
    state = {"fc.weight": np.ones((2, 3), "float32"), "fc.bias": np.asfortranarray(np.eye(3)), "n": np.array(3)}
    np.savez_compressed(tmp_path / "x.npz", **state)
    got = load(tmp_path / "x.npz")
    assert {key: x.tobytes() for key, x in got.items()} == {key: x.tobytes() for key, x in state.items()}
    np.savez(tmp_path / "y.npz", a=np.array([{}]), b=np.ones(2))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "x.npz").read_bytes()[:-40])
    (tmp_path / "m.msgpack").write_bytes(b"\x81\xa1a\x93")
    (tmp_path / "n.msgpack").write_bytes(b"\x81\xa1a\x01")
    for path in ("y.npz", "cut.npz", "m.msgpack", "n.msgpack"):
        with pytest.raises(CheckpointError, match="expected"):
            load(tmp_path / path)
