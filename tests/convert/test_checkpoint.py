"""Checkpoint files are read bit for bit and run nothing, whatever is in them; ours appear whole or not at all."""

import argparse
import contextlib
import errno
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import tracemalloc
import zipfile
from collections import Counter, OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import traverse_util

from convert import CheckpointError, load, read, restore, save
from convert.files.pickled import DTYPES
from convert.files.safetensors_file import SAFETENSORS
from convert.files.torch_file import MAGIC
from convert.files.tree import WRAPPERS
from tests.helpers.handmade import (
    NUMBERS,
    STATE,
    bits,
    call,
    mapping,
    name,
    nothing_runs,
    refused,
    storage,
    tensor,
    value,
    write_legacy,
    write_zip,
)

DATA = Path(__file__).parents[3] / "shared" / "data"


both_formats = pytest.mark.parametrize("write", [write_zip, write_legacy])


def torch_save(path: Path, tree: Any, is_zip: bool, **kwargs: Any) -> Path:
    pytest.importorskip("torch").save(tree, path, _use_new_zipfile_serialization=is_zip, **kwargs)
    return path


def noise(dtype: np.dtype, *shape: int) -> np.ndarray:
    """Random bits, hence NaNs with payloads, infinities and subnormal numbers."""
    count = int(np.prod(shape, dtype=int))
    raw = np.random.default_rng(0).integers(0, 256, count * dtype.itemsize, np.uint8)
    return (raw & 1 if dtype.kind == "b" else raw).view(dtype).reshape(shape)


# What torch writes


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("dotted", DTYPES)
def test_every_dtype_comes_back_bit_for_bit(tmp_path, dotted, is_zip):
    torch = pytest.importorskip("torch")
    raw = noise(DTYPES[dotted], 3, 5)
    x = torch.tensor(raw.view(np.uint8)).view(getattr(torch, dotted.removeprefix("torch.")))
    got = load(torch_save(tmp_path / "x.pth", OrderedDict(x=x, scalar=x[0, 0], empty=x[:0]), is_zip))
    assert [bits(got[key]) for key in ("x", "scalar", "empty")] == [bits(raw), bits(raw[0, 0]), bits(raw[:0])]


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
def test_views_keep_strides_and_share_memory(tmp_path, is_zip):
    torch = pytest.importorskip("torch")
    base = torch.arange(60.0).reshape(3, 4, 5)
    views = dict(base=base, transposed=base.transpose(0, 2), sliced=base[1:, ::2, 3:], diagonal=base[0].diagonal())
    views |= dict(expanded=base[0, 0, 1].expand(2, 1000), parameter=torch.nn.Parameter(base[2]), scalar=base[2, 3, 4])
    got = load(torch_save(tmp_path / "x.pth", views, is_zip))
    for key, x in views.items():
        np.testing.assert_array_equal(got[key], x.detach().numpy())
        assert got[key].strides == tuple(4 * step for step in x.stride())
        assert np.shares_memory(got[key], got["base"])
        assert got[key].flags.writeable


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_what_else_torch_writes_is_read_as_inert(tmp_path, protocol):
    torch = pytest.importorskip("torch")
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    net[0].weight.note = "a parameter with an attribute"
    optimizer = torch.optim.Adam(net.parameters()).state_dict()
    extras = dict(optimizer=optimizer, epoch=3, big=10**30, text="\u00e4", bytes=b"x", names=("a", None, True), z=1j)
    extras |= dict(args=argparse.Namespace(lr=0.1), loss=np.float64(0.5), history=np.ones(3), lists=defaultdict(list))
    extras |= dict(device=torch.device("cpu"), size=torch.Size([1]), dtype=torch.half, sets=[{1, 2}, frozenset({1})])
    tree = {**extras, "counts": Counter(a=1), "state_dict": net.state_dict(keep_vars=True)}
    for is_zip in (True, False):
        path = torch_save(tmp_path / "x.pth", tree, is_zip, pickle_protocol=protocol)
        with nothing_runs():
            got = read(path)
        assert (got.wrapper, got.beside) == ("state_dict", (*extras, "counts"))
        assert got.extras["history"].tolist() == [1, 1, 1]
        for key, x in net.state_dict().items():
            assert bits(got.arrays[key]) == bits(x.numpy())


@pytest.mark.parametrize(
    ("file", "wrapper", "prefix", "key", "shape"),
    [
        ("nonlocal_mnist/net.pth", None, "module.", "conv_1.0.weight", (32, 1, 3, 3)),
        ("ram_mnist/ram_6_8x8_2_model_best.pth.tar", "model_state", "", "sensor.fc1.weight", (128, 64)),
        ("ram_mnist/ram_6_8x8_2_model_best_3ac8824.pth.tar", "state_dict", "", "sensor.fc1.weight", (128, 64)),
    ],
)
def test_published_checkpoints(file, wrapper, prefix, key, shape):
    if not (DATA / file).exists():
        pytest.skip(f"{DATA / file} is not there")
    got = read(DATA / file)
    assert (got.format, got.wrapper, got.prefix) == ("legacy pickle", wrapper, prefix)
    assert got.arrays[key].shape == shape
    assert all(np.isfinite(array).all() for array in got.arrays.values())


# What torch would have written elsewhere, or long ago


@both_formats
@pytest.mark.parametrize(
    ("kind", "location"), [("torch.FloatStorage", "cuda:0"), ("torch.cuda.FloatStorage", "cuda:7")]
)
def test_cuda_storages(tmp_path, write, kind, location):
    got = load(write(tmp_path / "x", mapping(w=tensor(storage(kind, "0", location)))))
    np.testing.assert_array_equal(got["w"], NUMBERS.reshape(2, 3))


@pytest.mark.parametrize("dotted", DTYPES)
def test_big_endian_zip(tmp_path, dotted):
    raw = noise(DTYPES[dotted], 6)
    flat = storage("torch.storage.UntypedStorage", "0", "cpu", raw.nbytes)
    rest = [value((6,)), value((1,)), value(False), value(None), name(dotted)]
    body = mapping(w=call("torch._utils._rebuild_tensor_v3", flat, value(0), *rest))
    got = load(write_zip(tmp_path / "x", body, raw.byteswap().tobytes(), byteorder=b"big"))
    assert bits(got["w"]) == bits(raw)
    assert got["w"].flags.writeable


def test_legacy_data_are_little_endian_on_any_machine(tmp_path):
    body = mapping(w=tensor(storage("torch.FloatStorage", "0", "cpu", 6, None)))
    path = write_legacy(tmp_path / "x", body, little_endian=False)
    np.testing.assert_array_equal(load(path)["w"], NUMBERS.reshape(2, 3))
    torch = pytest.importorskip("torch")
    np.testing.assert_array_equal(torch.load(path, weights_only=True)["w"].numpy(), NUMBERS.reshape(2, 3))


def test_legacy_views_of_a_storage(tmp_path):
    def view(start: int, count: int) -> bytes:
        return mapping(w=tensor(storage("torch.FloatStorage", "0", "cpu", 6, ("v", start, count)), 1, (2,), (1,)))

    np.testing.assert_array_equal(load(write_legacy(tmp_path / "x", view(2, 3)))["w"], [3, 4])
    for start, count in ((2, 2), (4, 3), (-1, 3), (2**62, 3)):
        refused(write_legacy(tmp_path / "x", view(start, count)), "expected")


def test_ordered_dict_of_python_2(tmp_path):
    pairs = b"](" + b"".join(b"](" + value(key) + tensor() + b"e" for key in "ba") + b"e"
    assert list(load(write_zip(tmp_path / "x", call("collections.OrderedDict", pairs)))) == ["b", "a"]


def test_zip_of_another_name_and_no_name(tmp_path):
    path = write_zip(tmp_path / "x", STATE)
    assert bits(load(path)["b"]) == bits(NUMBERS[1::2])
    assert bits(load(str(path))["b"]) == bits(NUMBERS[1::2])


# Where the state dict is


@both_formats
@pytest.mark.parametrize(
    ("body", "wrapper"),
    [
        (STATE, None),
        *((mapping(epoch=value(1), **{key: STATE}), key) for key in WRAPPERS),
        (mapping(model_ema=mapping(x=tensor()), model=STATE), "model"),
        (mapping(loss=tensor(), state_dict=STATE), "state_dict"),
        (mapping(model=mapping(state_dict=STATE, config=value({}))), "model.state_dict"),
        (mapping(encoder=STATE, optimizer=mapping(state=b"}(" + value(0) + STATE + b"u")), "encoder"),
    ],
)
def test_wrappers(tmp_path, write, body, wrapper):
    got = read(write(tmp_path / "x", body))
    assert got.wrapper == wrapper
    assert list(got.arrays) == ["w", "b"]


def test_wrapper_of_choice(tmp_path):
    body = mapping(student=STATE, teacher=mapping(inner=mapping(x=tensor())), epoch=value(1))
    path = write_zip(tmp_path / "x", mapping(state_dict=STATE, other=body))
    assert list(load(path, "other.teacher.inner")) == ["x"]
    for wrapper in ("other.teacher", "other.epoch", "other.no", "x", ""):
        refused(path, "expected", wrapper=wrapper)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (mapping(student=STATE, teacher=STATE, epoch=value(1)), ["student (dict)", "teacher (dict)", "epoch (int)"]),
        (mapping(epoch=value(1), name=value("x"), bias=value(None)), ["epoch (int)", "bias (NoneType)"]),
        (mapping(w=tensor(), x=call("numpy.core.multiarray._reconstruct")), ["at x", "a complete numpy array"]),
        (b"}(" + value(0) + tensor() + b"u", ["0 (Tensor)"]),
        (tensor(), ["got Tensor"]),
        (value([1, 2]), ["got list"]),
        (value({}), ["a dict of nothing"]),
        (mapping(**{f"key{i}": value(i) for i in range(50)}), ["key7 (int) and 42 more"]),
        (mapping(**{"a\nb" * 100: value(1)}), ["a\\nb"]),
    ],
)
def test_no_state_dict_is_one_sentence(tmp_path, body, words):
    refused(write_zip(tmp_path / "x", body), "expected", *words)


def test_entries_that_are_no_tensors_are_beside_the_state_dict(tmp_path):
    body = mapping(w=tensor(), epoch=value(1), name=value("x"), bias=value(None))
    got = read(write_zip(tmp_path / "x", body))
    assert list(got.arrays) == ["w"]
    assert got.extras == {"epoch": 1, "name": "x", "bias": None}


def test_entries_that_need_not_be_tensors(tmp_path):
    body = mapping(w=tensor(), _metadata=value({}), **{"fc._extra_state": value(None)})
    assert list(load(write_zip(tmp_path / "x", body))) == ["w"]


@pytest.mark.parametrize(
    ("keys", "prefix", "stripped"),
    [
        (["module.se_module.fc1", "module.w"], "module.", ["se_module.fc1", "w"]),
        (["se_module.fc1", "se_module.fc2"], "", ["se_module.fc1", "se_module.fc2"]),
        (["module.a", "b"], "", ["module.a", "b"]),
        (["module.module.a", "module.b"], "module.", ["module.a", "b"]),
        (["_orig_mod.module.module.a"], "_orig_mod.module.module.", ["a"]),
        (["modules.a"], "", ["modules.a"]),
    ],
)
def test_prefix_is_stripped_at_the_start_of_every_key_or_not_at_all(tmp_path, keys, prefix, stripped):
    write_zip(tmp_path / "x.pth", mapping(**dict.fromkeys(keys, tensor())))
    safetensors.numpy.save_file(dict.fromkeys(keys, NUMBERS), tmp_path / "x.safetensors")
    for file in ("x.pth", "x.safetensors"):
        got = read(tmp_path / file)
        assert got.prefix == prefix
        assert sorted(got.arrays) == sorted(stripped)


# Damage


def samples(folder: Path) -> dict[str, Path]:
    safetensors.numpy.save_file({"w": NUMBERS, "b": NUMBERS[:2]}, folder / "safetensors", {"format": "pt"})
    return {
        "zip": write_zip(folder / "zip", mapping(epoch=value(3), state_dict=STATE), byteorder=b"little"),
        "legacy": write_legacy(folder / "legacy", mapping(epoch=value(3), state_dict=STATE)),
        "safetensors": folder / "safetensors",
    }


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_truncated_files_are_refused(tmp_path, kind):
    content = samples(tmp_path)[kind].read_bytes()
    for length in range(0, len(content), 3):
        (tmp_path / "cut").write_bytes(content[:length])
        refused(tmp_path / "cut", "expected")


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
def test_truncated_files_of_torch_are_refused(tmp_path, is_zip):
    torch = pytest.importorskip("torch")
    content = torch_save(tmp_path / "x", torch.nn.Linear(3, 5).state_dict(), is_zip).read_bytes()
    for length in range(0, len(content), 97):
        (tmp_path / "x").write_bytes(content[:length])
        refused(tmp_path / "x", "expected")


# Malice


class Evil:
    def __reduce__(self) -> tuple:
        return open, ("touched", "w")


COMMAND = value("touch touched")
STORAGE = value("storage") + name("torch.Size") + value("0") + value("cpu") + value(6)
TENSOR = name("torch._utils._rebuild_tensor")

RUNNING = [
    (value(Evil()), "open"),
    (call("os.system", COMMAND), "os.system"),
    (call("posix.system", COMMAND), "posix.system"),
    (call("subprocess.Popen", COMMAND), "subprocess.Popen"),
    (call("builtins.eval", value("open('touched', 'w')")), "builtins.eval"),
    (call("__builtin__.exec", value("open('touched', 'w')")), "__builtin__.exec"),
    (call("builtins.getattr", name("torch.Size"), value("__init__")), "builtins.getattr"),
    (call("torch.load", value("x")), "torch.load"),
    (call("_pickle.loads", value(b"")), "_pickle.loads"),
    (call("importlib.import_module", value("touched")), "importlib.import_module"),
    (call("torch._utils._import_dotted_name", value("os.system")), "torch._utils._import_dotted_name"),
    (call("builtins.map", name("os.system"), value(["touch touched"])), "os.system"),
    (call("functools.partial", name("os.system"), COMMAND) + b")R", "os.system"),
    (value("os") + value("system") + b"\x93" + COMMAND + b"\x85R", "os.system"),
    (b"(" + COMMAND + b"ios\nsystem\n", "os.system"),
    (b"(" + name("os.system") + COMMAND + b"o", "os.system"),
    (name("os.system") + COMMAND + b"\x85}\x92", "os.system"),
    (name("os.system") + COMMAND + b"\x85\x81" + value({"x": 1}) + b"b", "os.system"),
]

HARMLESS = [
    value("collections") + value("OrderedDict.__init__") + b"\x93",
    b"\x82\x01",
    b"Ptouched\n",
    name("torch.Size") + value({"x": 1}) + b"b",
    tensor() + value((False, None, {})) + b"b",
    call("torch.float32", value(1)),
    b"(" + value("module") + name("torch.Size") + value("f.py") + value("source") + b"tQ",
    b"(" + STORAGE + b"tQ",
    TENSOR + b")R",
    TENSOR + value((1, 2, 3, 4)) + b"R",
]

BROKEN = [
    (name("torch.Size") + value("x") + value(1) + b"s", "refuses to change a value of class Name"),
    (value(()) + value(1) + b"a", "refuses to change a value of class tuple"),
    (value("eval") + value(()) + b"R", "damaged"),
    (name("os.system") + value("touch touched") + b"R", "damaged"),
    (b"\x97", "refers to data outside the file"),
    (b"0" * 50, "damaged"),
    (b"h\x63", "recalls value 99"),
]


def beside(evil: bytes) -> list[bytes]:
    """Files whose state dict is good, with ``evil`` beside it, and among its entries."""
    return [mapping(w=tensor(), x=evil), mapping(state_dict=mapping(w=tensor()), x=value([]) + evil + b"a")]


@both_formats
@pytest.mark.parametrize(("evil", "word"), RUNNING)
def test_nothing_in_a_file_runs(tmp_path, monkeypatch, write, evil, word):
    monkeypatch.chdir(tmp_path)
    for body in beside(evil):
        path = write(tmp_path / "x.pth", body)
        with nothing_runs():
            checkpoint = read(path)
            assert str(checkpoint.extras)
        assert bits(checkpoint.arrays["w"]) == bits(NUMBERS.reshape(2, 3))
        sentences = [sentence for dotted, sentence in checkpoint.names.items() if word in dotted]
        assert sentences
        assert all(sentence.startswith("pickle.load would run code") for sentence in sentences)
        with nothing_runs(), pytest.raises(CheckpointError, match=r"refuses .*, which is not on the list"):
            read(path, strict_pickle=True)
    refused(write(tmp_path / "x.pth", evil), "expected")
    refused(write(tmp_path / "x.pth", mapping(state_dict=evil)), "expected")
    assert os.listdir() == ["x.pth"]


@both_formats
@pytest.mark.parametrize("odd", HARMLESS)
def test_odd_objects_beside_a_state_dict_do_not_matter(tmp_path, monkeypatch, write, odd):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "x.pth", mapping(state_dict=mapping(w=tensor()), x=odd))
    with nothing_runs():
        got = read(path)
        assert "x" in got.extras
    assert bits(got.arrays["w"]) == bits(NUMBERS.reshape(2, 3))
    assert os.listdir() == ["x.pth"]


@both_formats
@pytest.mark.parametrize(("broken", "word"), BROKEN)
def test_broken_pickles_are_refused(tmp_path, monkeypatch, write, broken, word):
    monkeypatch.chdir(tmp_path)
    for body in [broken, *beside(broken)]:
        refused(write(tmp_path / "x.pth", body), word)
    assert os.listdir() == ["x.pth"]


@both_formats
@pytest.mark.parametrize(
    "arguments",
    [
        *({"offset": offset} for offset in (1, -1, 2**62, 2**70, None)),
        *(
            {"size": size}
            for size in ((3, 3), (2, -3), (2,), (2.0, 3), (True, 3), [2, 3], ("2", "3"), (2**70, 3), None)
        ),
        *({"size": (5,), "stride": (stride,)} for stride in (2, -1, 2**60, 2**62, 2**63, 0.5)),
        {"size": (2**62, 2**62), "stride": (0, 0)},
        {"size": (1,) * 65, "stride": (1,) * 65},
        *({"flat": storage("torch.FloatStorage", "0", "cpu", count)} for count in (7, 5, 2**62, 2**70, -1, None, "6")),
        *({"flat": storage("torch.FloatStorage", key)} for key in ("1", 1, None, ("0",))),
        {"flat": storage("torch.DoubleStorage")},
        {"flat": value(None)},
    ],
)
def test_tensors_outside_their_storage_are_refused(tmp_path, write, arguments):
    refused(write(tmp_path / "x", mapping(w=tensor(**arguments))), "expected")


def test_expanded_tensors_cost_nothing(tmp_path):
    path = write_zip(tmp_path / "x", mapping(w=tensor(size=(10**9,), stride=(0,))))
    assert load(path)["w"].strides == (0,)


DEEP = 100_000


@both_formats
@pytest.mark.parametrize(
    "bomb",
    [
        b")" + b"\x85" * DEEP,
        b"]" * DEEP + b"a" * (DEEP - 1),
        b"}" + b")" + b"\x85" * DEEP + b"Ns",
        b"}q\0" + b"".join(value(key) + b"h\0s" for key in WRAPPERS),
        b")q\0" + b"h\0h\0\x86q\0" * 1000,
        b"Nr\xff\xff\xff\xff",
        b"N" + b"p999999999999\n",
        b"X\xff\xff\xff\x7f",
        b"\x8e" + b"\xff" * 7 + b"\x7f",
        b"\x96" + b"\xff" * 7 + b"\x7f",
        b"\x8b\xff\xff\xff\x7f",
        b"L" + b"9" * 10_000 + b"L\n",
        b"I" + b"9" * 10_000 + b"\n",
        b"](" + b"N" * 10_000 + b"eq\0" + (name("collections.OrderedDict") + b"h\0\x85R0") * 1000,
        b"(" + b"N" * 10_000 + b"tq\0" + (name("torch.Size") + b"h\0\x85R0") * 1000,
        name("torch._tensor._rebuild_from_type_v2") * 10_000 + b")" + b"(NN" * 10_000,
    ],
    ids=range(16),
)
def test_bombs_cost_little(tmp_path, write, bomb):
    path = write(tmp_path / "x", mapping(w=tensor(), x=bomb))
    tracemalloc.start()
    try:
        with nothing_runs(), contextlib.suppress(CheckpointError):
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 100 * path.stat().st_size + 1_000_000
    finally:
        tracemalloc.stop()


# Other files


def tar_of(content: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("storages"), io.BytesIO(content))
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "an empty file"),
        (b"weights: none\n", "a text file"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "a JPEG image"),
        (b"\x89PNG\r\n\x1a\n", "a PNG image"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"\x93NUMPY\x01\0", "NumPy"),
        (b"\n<!DOCTYPE html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (pickle.dumps({"w": 1}, 2), "it holds no dict of tensors"),
        (bytes(range(256)), "something unknown"),
        (tar_of(b""), "a tar archive"),
        (pickle.dumps(MAGIC, 2) + pickle.dumps(1002, 2), "magic number"),
        (b"\xff\xff\0\0\0\0\0\0{}", "damaged"),
    ],
)
def test_other_files_are_named(tmp_path, content, word):
    (tmp_path / "x.pth").write_bytes(content)
    refused(tmp_path / "x.pth", "expected", word)


@pytest.mark.parametrize(
    ("entries", "word"),
    [
        ({}, "damaged"),
        ({"a.txt": b"", "weight.npy": b""}, "got one of a.txt, weight.npy"),
        ({"a/data.pkl": b"", "b/data.pkl": b""}, "b/data.pkl"),
        ({"net/data.pkl": b"N.", "net/byteorder": b"middle"}, "byte order"),
        ({"net/data.pkl": b""}, "damaged"),
    ],
)
def test_other_archives_are_named(tmp_path, entries, word):
    with zipfile.ZipFile(tmp_path / "x", "w") as archive:
        for entry, content in entries.items():
            archive.writestr(entry, content)
    refused(tmp_path / "x", "expected", word if entries else "unknown")


def test_no_file(tmp_path):
    refused(tmp_path / "x.pth", "could not be read: No such file")
    refused(tmp_path, "expected a folder with one checkpoint, got none in it")
    refused(Path(os.devnull), "expected a file, got a device")


def test_torch_is_not_imported(tmp_path):
    code = "import sys, convert; convert.load(sys.argv[1]); print('torch' in sys.modules)"
    command = [sys.executable, "-c", code, str(write_zip(tmp_path / "x", STATE))]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "False\n"


# Our own files


class Block(nn.Module):
    features: Any
    ratio: float = 0.25
    sizes: tuple[int, ...] = (1, 2)
    activation: Any = nn.relu
    dtype: Any = None


@pytest.mark.parametrize("dtype", SAFETENSORS.values())
def test_save_and_restore_are_bit_exact(tmp_path, dtype):
    raw = noise(DTYPES[f"torch.{dtype}"], 3, 5)
    for array in (raw, raw.T, raw[::-1, ::2], jnp.asarray(raw)):
        variables = {"params": {"fc": {"0": {"kernel": array}}, "scalar": array[0, 0]}, "batch_stats": {"w": array[:0]}}
        save(tmp_path / "x", variables)
        got, expected = (traverse_util.flatten_dict(tree, sep="/") for tree in (restore(tmp_path / "x"), variables))
        assert {key: bits(leaf) for key, leaf in got.items()} == {key: bits(leaf) for key, leaf in expected.items()}
        assert bits(read(tmp_path / "x").arrays["params/fc/0/kernel"]) == bits(array)


def test_save_of_big_endian_and_frozen_variables(tmp_path):
    save(tmp_path / "x", nn.FrozenDict({"params": {"w": NUMBERS.astype(">f4")}}))
    assert bits(restore(tmp_path / "x")["params"]["w"]) == bits(NUMBERS)


def test_the_file_is_what_safetensors_reads_and_no_number_lies_across_its_width(tmp_path):
    arrays = {"a": NUMBERS[:1].astype(np.int8), "b": NUMBERS.reshape(2, 3).T, "c": np.float64(3), "d": NUMBERS > 2}
    save(tmp_path / "x", arrays)
    got = safetensors.numpy.load_file(tmp_path / "x")
    assert {key: bits(leaf) for key, leaf in got.items()} == {key: bits(leaf) for key, leaf in arrays.items()}
    content = (tmp_path / "x").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    assert length % 8 == 0
    assert list(header) == ["__metadata__", "c", "b", "a", "d"]
    assert all(header[key]["data_offsets"][0] % leaf.dtype.itemsize == 0 for key, leaf in arrays.items())


def test_a_key_that_safetensors_cannot_hold_leaves_the_old_file(tmp_path):
    save(tmp_path / "x", {"w": NUMBERS})
    with pytest.raises(CheckpointError, match="could not be written: "):
        save(tmp_path / "x", {"\ud800": NUMBERS})
    np.testing.assert_array_equal(load(tmp_path / "x")["w"], NUMBERS)
    assert os.listdir(tmp_path) == ["x"]


def test_restored_leaves_may_be_changed_and_saved_to_the_same_file(tmp_path):
    save(tmp_path / "x", {"w": NUMBERS})
    variables = restore(tmp_path / "x")
    variables["w"] += 1
    save(tmp_path / "x", variables)
    save(tmp_path / "x", load(tmp_path / "x"))
    np.testing.assert_array_equal(load(tmp_path / "x")["w"], NUMBERS + 1)


def test_metadata(tmp_path):
    save(tmp_path / "x", {}, Block(3, sizes=(4, 5), dtype=jnp.bfloat16, name="block"))
    metadata = read(tmp_path / "x").metadata
    assert json.loads(metadata.pop("arguments")) == {"features": 3, "sizes": [4, 5], "dtype": "bfloat16"}
    assert (metadata.pop("format"), metadata.pop("module")) == ("flax_attn", "tests.convert.test_checkpoint:Block")
    assert metadata.keys() == {"flax_attn", "jax", "flax"}
    save(tmp_path / "x", {"params": {"w": NUMBERS}}, Block({"a": 8}, dtype=np.dtype("float64")))
    assert json.loads(read(tmp_path / "x").metadata["arguments"]) == {"features": {"a": 8}, "dtype": "float64"}


@pytest.mark.parametrize(
    ("variables", "module", "word"),
    [
        ({}, Block(3, activation=nn.gelu), "activation of Block"),
        ({}, Block(3, activation=object()), "activation of Block"),
        ({}, Block(3, sizes=np.ones(3)), "sizes of Block"),
        ({}, Block(dict), "features of Block"),
        ({"a/b": NUMBERS}, None, "a/b"),
        ({"a": {0: NUMBERS}}, None, "strings"),
        ({"a": {"b": 3.0}}, None, "float at a/b"),
        ({"a": None}, None, "NoneType at a"),
        ({"a": np.ones(2, complex)}, None, "complex128 at a"),
        ({"a": np.array("x")}, None, "at a"),
        (NUMBERS, None, "nested dicts"),
    ],
)
def test_what_cannot_be_saved_is_named(tmp_path, variables, module, word):
    with pytest.raises(CheckpointError, match=word):
        save(tmp_path / "x", variables, module)
    assert os.listdir(tmp_path) == []


def test_restore_refuses_the_files_of_others(tmp_path):
    safetensors.numpy.save_file({"w": NUMBERS}, tmp_path / "x", {"format": "pt"})
    write_zip(tmp_path / "y", STATE)
    safetensors.numpy.save_file({"a": NUMBERS, "a/b": NUMBERS}, tmp_path / "z", {"format": "flax_attn"})
    for file in "xyz":
        with pytest.raises(CheckpointError, match=f"{file}: expected"):
            restore(tmp_path / file)


@contextlib.contextmanager
def full_disk():
    """The system lets no file grow beyond 4 KiB."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@contextlib.contextmanager
def failing(function: str):
    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, function, fail)
        yield


@pytest.mark.parametrize("failure", [full_disk, lambda: failing("fsync"), lambda: failing("replace")])
def test_a_failed_save_leaves_the_old_file(tmp_path, failure):
    save(tmp_path / "x", {"w": NUMBERS})
    old = (tmp_path / "x").read_bytes()
    with failure(), pytest.raises(CheckpointError, match="could not be written: "):
        save(tmp_path / "x", {"w": np.zeros(10_000)})
    assert os.listdir(tmp_path) == ["x"]
    assert (tmp_path / "x").read_bytes() == old


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "x", tmp_path / "missing" / "x", tmp_path / "folder"):
        with pytest.raises(CheckpointError, match="could not be written: "):
            save(path, {"w": NUMBERS})
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]
