"""A file that save_torch wrote is what torch.save would have written: torch and our own reader agree bit for bit."""

import struct
import zipfile

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from convert import CheckpointError, load, save_torch
from convert.files.pickle_writer import STORAGES, UNTYPED
from convert.files.torch_writer import ALIGNMENT
from convert.tensors import Lazy

DTYPES = [*STORAGES, *UNTYPED]
SHAPES = [(2, 3), (), (0, 3), (2, 0, 3), (1,), (3, 1, 2, 1)]


def random_bits(name, shape, rng):
    dtype = np.dtype(getattr(ml_dtypes, name, name))
    below = 2 if name == "bool" else 256
    count = int(np.prod(shape)) * dtype.itemsize
    return rng.integers(0, below, count, dtype=np.uint8).view(dtype).reshape(shape)


def bits(tensor):
    import torch

    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def same_bits(state_dict, path):
    """Whether torch and ``load`` read from ``path`` what ``state_dict`` holds."""
    torch = pytest.importorskip("torch")
    theirs, ours = torch.load(path, weights_only=True), load(path)
    assert list(theirs) == list(ours) == list(state_dict)
    for key, array in state_dict.items():
        assert tuple(theirs[key].shape) == ours[key].shape == array.shape
        assert str(theirs[key].dtype) == f"torch.{array.dtype.name}"
        assert ours[key].dtype == array.dtype.newbyteorder("=")
        assert bits(theirs[key]) == ours[key].tobytes() == array.astype(array.dtype.newbyteorder("<")).tobytes()
    return theirs


@pytest.mark.parametrize("name", DTYPES)
def test_every_dtype_and_shape(tmp_path, name):
    rng = np.random.default_rng(0)
    state = {f"layer.{shape}": random_bits(name, shape, rng) for shape in SHAPES}
    save_torch(tmp_path / "net.pth", state)
    same_bits(state, tmp_path / "net.pth")


def test_arrays_of_every_kind(tmp_path):
    base = np.arange(24, dtype=np.float32).reshape(4, 6)
    state = {
        "big-endian": base.astype(">f4"),
        "transposed": base.T,
        "every second": base[::2, ::-3],
        "broadcast": np.broadcast_to(base[0], (3, 6)),
        "ключ.重み.\t\n": base,
        "scalar": np.float16(2.5),
    }
    save_torch(tmp_path / "net.pth", state)
    same_bits(state, tmp_path / "net.pth")
    save_torch(
        tmp_path / "net.pth", {"x": jnp.arange(3), "y": Lazy((2,), np.dtype("int8"), lambda: np.ones(2, "int8"))}
    )
    assert load(tmp_path / "net.pth")["x"].tolist() == [0, 1, 2]
    assert load(tmp_path / "net.pth")["y"].tolist() == [1, 1]


def test_torch_tensors_are_written_too(tmp_path):
    torch = pytest.importorskip("torch")
    net = torch.nn.Linear(3, 2)
    save_torch(tmp_path / "net.pth", net.state_dict())
    read = torch.load(tmp_path / "net.pth", weights_only=True)
    assert all(torch.equal(read[key], value) for key, value in net.state_dict().items())


def test_tied_arrays_share_a_storage(tmp_path):
    torch = pytest.importorskip("torch")
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    lazy = Lazy((3,), np.dtype("float32"), lambda: np.ones(3, np.float32))
    state = {"a": array, "b": array[:], "c": array.T, "d": lazy, "e": lazy, "f": array.copy()}
    save_torch(tmp_path / "net.pth", state)
    read = torch.load(tmp_path / "net.pth", weights_only=True)
    places = [read[key].untyped_storage().data_ptr() for key in state]
    assert places[0] == places[1]
    assert places[3] == places[4]
    assert len(set(places)) == 4
    assert torch.equal(read["c"], read["a"].T)


def starts(path):
    """The name of every entry of a zip archive, and where its content begins."""
    raw = path.read_bytes()
    for entry in zipfile.ZipFile(path).infolist():
        name, extra = struct.unpack("<HH", raw[entry.header_offset + 26 :][:4])
        assert raw[entry.header_offset + 30 :][:name].decode() == entry.filename
        yield entry.filename, entry.header_offset + 30 + name + extra


def test_the_archive_has_the_parts_of_torch_save(tmp_path):
    torch = pytest.importorskip("torch")
    state = {"a": np.ones((3, 5), np.float32), "b": np.ones(1, np.int8), "c": np.ones(7, np.int64)}
    save_torch(tmp_path / "ours.pth", state)
    torch.save({key: torch.from_numpy(value) for key, value in state.items()}, tmp_path / "theirs.pth")
    ours, theirs = zipfile.ZipFile(tmp_path / "ours.pth"), zipfile.ZipFile(tmp_path / "theirs.pth")
    assert ours.testzip() is None
    contents = [
        {name.partition("/")[2]: file.read(name) for name in file.namelist() if not name.endswith(("pkl", "_id"))}
        for file in (ours, theirs)
    ]
    assert contents[0] == contents[1]
    assert ours.namelist()[0] == "archive/data.pkl"
    places = dict(starts(tmp_path / "ours.pth"))
    assert all(start % ALIGNMENT == 0 for start in places.values())
    mapped = torch.load(tmp_path / "ours.pth", weights_only=True, mmap=True)
    assert torch.equal(mapped["c"], torch.ones(7, dtype=torch.int64))


def test_the_same_arrays_give_the_same_file(tmp_path):
    for name in ("a.pth", "b.pth"):
        save_torch(tmp_path / name, {"a": np.ones((3, 5), np.float32)})
    assert (tmp_path / "a.pth").read_bytes() == (tmp_path / "b.pth").read_bytes()


def test_large_entries_and_archives_use_zip64(tmp_path, monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 5000)
    rng = np.random.default_rng(0)
    state = {str(i): random_bits("float32", (i * 400,), rng) for i in range(6)}
    save_torch(tmp_path / "net.pth", state)
    raw = (tmp_path / "net.pth").read_bytes()
    assert b"PK\6\6" in raw
    assert b"PK\6\7" in raw
    monkeypatch.undo()
    assert zipfile.ZipFile(tmp_path / "net.pth").testzip() is None
    assert all(start % ALIGNMENT == 0 for _, start in starts(tmp_path / "net.pth"))
    same_bits(state, tmp_path / "net.pth")


def test_many_keys(tmp_path):
    state = {f"layers.{i}.weight": np.full(2, i, np.float32) for i in range(3000)}
    save_torch(tmp_path / "net.pth", state)
    same_bits(state, tmp_path / "net.pth")


@pytest.mark.parametrize("fits", [(2**31 - 1,), (2**31,), (2**40, 0), (2**63 - 1, 0)])
def test_sizes_of_any_width(tmp_path, fits):
    torch = pytest.importorskip("torch")
    shape = fits if 0 in fits else (fits[0], 0)
    save_torch(tmp_path / "net.pth", {"x": Lazy(shape, np.dtype("int8"), lambda: np.empty(shape, "int8"))})
    assert tuple(torch.load(tmp_path / "net.pth", weights_only=True)["x"].shape) == shape


def test_one_array_is_held_at_a_time(tmp_path):
    import tracemalloc

    def lazy():
        return Lazy((10**6,), np.dtype("float32"), lambda: np.ones(10**6, np.float32))

    tracemalloc.start()
    try:
        save_torch(tmp_path / "net.pth", {str(i): lazy() for i in range(10)})
        assert tracemalloc.get_traced_memory()[1] < 1.5 * 4 * 10**6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("state_dict", "words"),
    [
        ({"a": np.array(["x"])}, "dtypes that PyTorch has, got <U1 at a"),
        ({"a": np.array([None])}, "got object at a"),
        ({"a": np.zeros(2, np.longdouble)}, "at a"),
        ({"a": np.zeros(2, "M8[s]")}, "at a"),
        ({"a": np.zeros(2, ml_dtypes.int4)}, "got int4 at a"),
        ([np.zeros(2)], "a dict of arrays, got list"),
        (
            {"a": Lazy((2,), np.dtype("int8"), lambda: np.zeros(3, "int8"))},
            r"expected int8 \(2,\) at a, got int8 \(3,\)",
        ),
        ({"a": Lazy((2,), np.dtype("int8"), lambda: np.zeros(2, "int16"))}, "got int16"),
    ],
)
def test_what_cannot_be_written_is_one_sentence(tmp_path, state_dict, words):
    with pytest.raises(CheckpointError, match=words) as caught:
        save_torch(tmp_path / "net.pth", state_dict)
    assert str(caught.value).startswith(f"{tmp_path / 'net.pth'}: ")
    assert list(tmp_path.iterdir()) == []
