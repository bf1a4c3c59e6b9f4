"""A file is read in pieces: one that changes meanwhile is refused, and what was read belongs to the caller."""

import gc
import os
import pickle
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from convert import CheckpointError
from convert.errors import RefusedError, name_file
from convert.files.pickled import DTYPES, Storage, Tensor
from convert.files.source import PIECE, Source
from convert.files.torch_file import TorchFile, read_legacy, read_zip
from tests.helpers import checkpoint_bytes as files

CONTENT = bytes(range(256)) * 40


def source(tmp_path: Path, content: bytes = CONTENT) -> Source:
    (tmp_path / "x").write_bytes(content)
    return Source(tmp_path / "x")


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_what_is_read_is_writable_and_owned(tmp_path):
    file = source(tmp_path)
    got = file.read(3, 5)
    got[:] = 0
    assert (file.size, file.read(3, 5).tobytes(), file.read(0, 0).tobytes()) == (len(CONTENT), CONTENT[3:8], b"")
    assert (tmp_path / "x").read_bytes() == CONTENT


@pytest.mark.parametrize("change", ["shrinks", "is emptied", "grows", "is written again", "is touched"])
def test_a_file_that_changes_is_refused_by_its_own_name(tmp_path, change):
    file, path = source(tmp_path), tmp_path / "x"
    changes = {
        "shrinks": lambda: os.truncate(path, 100),
        "is emptied": lambda: os.truncate(path, 0),
        "grows": lambda: path.write_bytes(CONTENT + b"more"),
        "is written again": lambda: path.write_bytes(CONTENT[::-1]),
        "is touched": lambda: os.utime(path, (0, 0)),
    }
    changes[change]()
    with pytest.raises(CheckpointError, match="x: the file changed while it was read"), name_file("out", "failed"):
        file.read(0, len(CONTENT))
    with pytest.raises(CheckpointError, match="x: the file changed"):
        file.stream().read(3)


def test_a_file_that_is_replaced_stays_readable(tmp_path):
    file = source(tmp_path)
    (tmp_path / "new").write_bytes(b"new")
    os.replace(tmp_path / "new", tmp_path / "x")
    assert file.read(0, len(CONTENT)).tobytes() == CONTENT
    os.unlink(tmp_path / "x")
    assert file.read(1, 1).tobytes() == b"\1"


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files where the system lists them")
def test_the_file_is_closed_when_nothing_needs_it(tmp_path):
    gc.collect()
    before = open_files()
    (tmp_path / "y").write_bytes(files.zip_file(files.mapping(files.state())))
    file = read_zip(Source(tmp_path / "y"))
    lazy = file.lazy(file.tree["conv.weight"])
    assert open_files() == before + 1
    del file
    gc.collect()
    np.testing.assert_array_equal(lazy.make(), files.NUMBERS.reshape(3, 4))
    del lazy
    gc.collect()
    assert open_files() == before


def test_folders_and_pipes_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, kind in ((tmp_path, "folder"), (tmp_path / "pipe", "device or pipe"), (Path(os.devnull), "device")):
        with pytest.raises(RefusedError, match=f"expected a file, got a {kind}"):
            Source(path)
    with pytest.raises(FileNotFoundError):
        Source(tmp_path / "missing")


def test_a_stream_reads_like_a_file(tmp_path):
    lines = b"abc\ndef\n" + bytes(3 * PIECE) + b"end\n"
    stream = source(tmp_path, lines).stream(2, len(lines) - 1)
    assert (stream.tell(), stream.readline(), stream.read(2), stream.tell()) == (2, b"c\n", b"de", 6)
    assert len(stream.read(2 * PIECE + 5)) == 2 * PIECE + 5
    assert stream.readline()[-3:] == b"end"
    assert (stream.read(1), stream.readline(), stream.tell()) == (b"", b"", len(lines) - 1)


def test_systems_without_preadv_read_the_same(tmp_path, monkeypatch):
    file = source(tmp_path, CONTENT * 200)
    monkeypatch.delattr(os, "preadv", raising=False)
    assert file.read(5, file.size - 7).tobytes() == (CONTENT * 200)[5:-2]
    os.truncate(tmp_path / "x", 100)
    with pytest.raises(CheckpointError, match="the file changed"):
        file.read(50, 100)


@pytest.mark.parametrize("size", [2**31, 2**62, 2**100, -1, None])
def test_reading_more_than_there_is_costs_nothing(tmp_path, size):
    stream = source(tmp_path).stream(10)
    tracemalloc.start()
    assert stream.read(size) == CONTENT[10:]
    assert tracemalloc.get_traced_memory()[1] < 10 * len(CONTENT)
    tracemalloc.stop()


def test_an_array_beyond_the_memory_is_one_sentence(tmp_path):
    with pytest.raises(CheckpointError, match="expected arrays that fit into memory"):
        source(tmp_path).read(0, 2**62)


# Tensors


def opened(tmp_path: Path, is_zip: bool = True) -> TorchFile:
    body = files.mapping(files.state(b"" if is_zip else files.NONE))
    file = source(tmp_path, files.zip_file(body) if is_zip else files.legacy_file(body))
    return read_zip(file) if is_zip else read_legacy(file)


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
def test_a_lazy_tensor_is_read_when_it_is_made(tmp_path, is_zip):
    file = opened(tmp_path, is_zip)
    lazy = {key: file.lazy(tensor) for key, tensor in file.tree.items()}
    assert (lazy["conv.bias"].shape, lazy["norm.weight"].dtype) == ((2, 2), np.dtype("float16"))
    bias, again = lazy["conv.bias"].make(), lazy["conv.bias"].make()
    np.testing.assert_array_equal(bias, [[4, 8], [5, 9]])
    bias[:] = 7
    np.testing.assert_array_equal(again, [[4, 8], [5, 9]])
    np.testing.assert_array_equal(lazy["norm.weight"].make(), files.HALVES)
    os.truncate(tmp_path / "x", 50)
    with pytest.raises(CheckpointError, match="x: the file changed"), name_file("out", "could not be written"):
        lazy["norm.weight"].make()


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
def test_tensors_share_memory_where_their_bytes_overlap(tmp_path, is_zip):
    file = opened(tmp_path, is_zip)
    storage = file.tree["conv.weight"].storage
    parts = {str(i): Tensor(storage, storage.dtype, i, size=(3,), stride=(1,)) for i in (0, 2, 5, 8)}
    got = file.arrays({**file.tree, **parts})
    assert all(np.shares_memory(got["conv.weight"], got[key]) for key in parts)
    assert not np.shares_memory(got["conv.weight"], got["norm.weight"])
    got["conv.weight"][:] = 0
    assert got["norm.scalar"] == 0
    parts = file.arrays(parts)
    shared = [np.shares_memory(parts[a], parts[b]) for a, b in (("0", "2"), ("2", "5"), ("5", "8"))]
    assert shared == [True, False, False]
    assert [array.tolist() for array in parts.values()] == [[0, 1, 2], [2, 3, 4], [5, 6, 7], [8, 9, 10]]


def test_many_tensors_over_one_storage_cost_it_once(tmp_path):
    count = 200_000
    body = files.mapping({"w": files.tensor(files.storage(count=count), size=(count,), stride=(1,))})
    entries = {"data.pkl": files.pickled(body), "data/0": np.arange(count, dtype=np.float32).tobytes()}
    file = read_zip(source(tmp_path, files.zip_bytes(entries)))
    storage = file.tree["w"].storage
    many = {str(i): Tensor(storage, storage.dtype, i, size=(count - 10_000,), stride=(1,)) for i in range(10_000)}
    many["expanded"] = Tensor(storage, storage.dtype, 5, size=(10**9, 10**6), stride=(0, 0))
    tracemalloc.start()
    got = file.arrays(many)
    assert tracemalloc.get_traced_memory()[1] < 4 * count + 10_000 * 1500
    tracemalloc.stop()
    assert (got["7"][0], got["expanded"][-1, -1], got["9999"][-1]) == (7, 5, 199_998)


@pytest.mark.parametrize(
    "wrong",
    [
        {"offset": 1},
        {"size": (4, 4)},
        {"stride": (2**62, 1)},
        {"size": (3, 0), "stride": (2**62, 1)},
        {"size": (2**62, 2**62), "stride": (0, 0)},
        {"size": (2**62, 2**62, 0), "stride": (1, 1, 1)},
        {"storage": Storage("1", DTYPES["torch.float32"], 0, count=5)},
        {"storage": Storage("0", DTYPES["torch.float32"], 0, count=13)},
        {"storage": Storage("0", DTYPES["torch.float16"], 0, count=12), "dtype": DTYPES["torch.float16"]},
        {"storage": Storage("9", DTYPES["torch.float32"], 0, count=12)},
    ],
)
def test_a_bad_tensor_is_refused_before_anything_is_read(tmp_path, wrong):
    file = opened(tmp_path)
    good = file.tree["conv.weight"]
    about = {"offset": 0, "size": good.size, "stride": good.stride, "storage": good.storage, "dtype": good.dtype}
    about |= wrong
    bad = Tensor(about["storage"], about["dtype"], about["offset"], size=about["size"], stride=about["stride"])
    os.truncate(tmp_path / "x", 0)
    for read in (file.lazy, lambda tensor: file.arrays({"w": tensor})):
        with pytest.raises(RefusedError, match="expected"):
            read(bad)


def test_legacy_storages_may_be_empty_and_bytes_may_follow(tmp_path):
    whole = files.legacy_file(files.mapping(files.state(files.NONE)))
    empty = files.tensor(files.storage(count=0, view=files.NONE), size=(0,), stride=(1,))
    head = files.legacy_file(files.mapping({"w": empty}), keys=())
    raw = head.removesuffix(pickle.dumps([], 2))
    assert read_legacy(source(tmp_path, whole + b"tail")).arrays({}) == {}
    path = tmp_path / "y"
    path.write_bytes(raw + b"\x80\x02]X\1\0\0\0" + b"0a." + struct.pack("<q", 0))
    file = read_legacy(Source(path))
    assert file.arrays(file.tree)["w"].shape == (0,)
