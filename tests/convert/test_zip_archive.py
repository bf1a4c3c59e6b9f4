"""Zip archives: what PyTorch's reader accepts is read, and what two readers could see differently is refused."""

import os
import struct
import tracemalloc
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from convert import CheckpointError, load
from convert.errors import RefusedError
from convert.files.source import PIECE, Source
from convert.files.torch_file import read_zip
from convert.files.zip_archive import Entry, read_archive
from tests.helpers import checkpoint_bytes as files

LONG = np.random.default_rng(0).integers(0, 4, 3 * PIECE + 5, np.uint8).tobytes()
CONTENTS = {"text": b"some text\n", "empty": b"", "folder/": b"", "long": LONG}
STATE = files.mapping(files.state())


def source(tmp_path: Path, raw: bytes) -> Source:
    (tmp_path / "x").write_bytes(raw)
    return Source(tmp_path / "x")


def entries(tmp_path: Path, raw: bytes) -> dict[str, Entry]:
    return read_archive(source(tmp_path, raw))


def patched(raw: bytes, signature: bytes, offset: int, pattern: str, *numbers: int) -> bytes:
    """``raw`` with other numbers in the last record that begins with ``signature``."""
    changed = bytearray(raw)
    struct.pack_into(f"<{pattern}", changed, raw.rindex(signature) + offset, *numbers)
    return bytes(changed)


def on_disk_1(raw: bytes) -> bytes:
    """``raw`` whose disks are counted from 1."""
    raw = patched(raw, b"PK\5\6", 4, "2H", 1, 1)
    for start in range(len(raw)):
        if raw.startswith(b"PK\1\2", start):
            raw = raw[: start + 34] + b"\1\0" + raw[start + 36 :]
    return raw


def refused(tmp_path: Path, raw: bytes, *words: str) -> None:
    with pytest.raises(RefusedError) as caught:
        _ = [entry.read(0, entry.size) for entry in entries(tmp_path, raw).values()]
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize("deflated", [False, True])
def test_entries_are_read_whole_and_in_parts(tmp_path, deflated):
    found = entries(tmp_path, files.zip_bytes(CONTENTS, deflated))
    assert list(found) == [f"archive/{name}" for name in CONTENTS]
    for name, content in CONTENTS.items():
        entry = found[f"archive/{name}"]
        assert entry.stream().read() == entry.read(0, entry.size).tobytes() == content
    for start, count in ((5, 10), (2 * PIECE - 3, 7), (PIECE, PIECE), (len(LONG) - 4, 4), (0, 3), (len(LONG), 0)):
        part = found["archive/long"].read(start, count)
        assert part.tobytes() == LONG[start : start + count]
        assert part.flags.writeable


@pytest.mark.parametrize("deflated", [False, True])
def test_a_part_of_an_entry_costs_a_part_of_it(tmp_path, deflated):
    entry = entries(tmp_path, files.zip_bytes({"long": LONG * 3}, deflated))["archive/long"]
    tracemalloc.start()
    assert entry.read(len(LONG), 100).tobytes() == LONG[:100]
    assert tracemalloc.get_traced_memory()[1] < 5 * PIECE
    tracemalloc.stop()


def test_a_stored_entry_is_read_once_where_all_of_it_is_needed(tmp_path, monkeypatch):
    entry = entries(tmp_path, files.zip_bytes({"long": LONG}))["archive/long"]
    read, counts = Source.read, []
    monkeypatch.setattr(Source, "read", lambda self, start, count: counts.append(count) or read(self, start, count))
    entry.read(0, len(LONG))
    assert counts == [len(LONG)]
    entry.read(5, 10)
    assert counts == [len(LONG), 10]


@pytest.mark.parametrize("deflated", [False, True])
def test_compressed_checkpoints_are_read(tmp_path, deflated):
    path = source(tmp_path, files.zip_file(STATE, deflated)).path
    got = load(path)
    np.testing.assert_array_equal(got["conv.weight"], files.NUMBERS.reshape(3, 4))
    np.testing.assert_array_equal(got["norm.weight"], files.HALVES)
    assert got["conv.weight"].flags.writeable
    torch = pytest.importorskip("torch")
    np.testing.assert_array_equal(torch.load(path, weights_only=True)["conv.bias"].numpy(), got["conv.bias"])


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw,
        lambda raw: patched(raw, b"PK\5\6", 20, "H", 4) + b"note",
        lambda raw: raw + b"bytes behind the end",
        on_disk_1,
        files.with_zip64,
        lambda raw: files.with_zip64(raw, size=500),
        lambda raw: patched(raw, b"PK\1\2", 34, "H", 1),
        lambda raw: patched(raw, b"PK\3\4", 14, "3L", 0, 0, 0),
        lambda raw: patched(raw, b"PK\3\4", 6, "H", 8),
        lambda raw: patched(raw, b"PK\1\2", 16, "L", 0),
    ],
    ids=[
        "plain",
        "comment",
        "tail",
        "disk 1",
        "zip64",
        "zip64 size",
        "entry disk",
        "streamed",
        "flag 3",
        "no checksum",
    ],
)
def test_what_torch_accepts_is_accepted(tmp_path, change):
    path = source(tmp_path, change(files.zip_file(STATE))).path
    got = load(path)
    np.testing.assert_array_equal(got["conv.weight"], files.NUMBERS.reshape(3, 4))
    torch = pytest.importorskip("torch")
    np.testing.assert_array_equal(torch.load(path, weights_only=True)["conv.weight"].numpy(), got["conv.weight"])


@pytest.mark.parametrize("disks", [0, 5, 2**32 - 1])
def test_the_number_of_disks_of_zip64_does_not_matter(tmp_path, disks):
    assert len(load(source(tmp_path, files.with_zip64(files.zip_file(STATE), disks)).path)) == 4


def test_sizes_in_the_zip64_field(tmp_path):
    name, content = b"archive/data.pkl", b"N." * 30
    extra = struct.pack("<2HL2H3Q", 99, 4, 7, 1, 24, len(content), len(content), 0)
    numbers = (b"PK\1\2", 45, 45, 0, 0, 0, 0, zlib.crc32(content), 2**32 - 1, 2**32 - 1, len(name), len(extra), 0)
    central = struct.pack("<4s6H3L5H2L", *numbers, 0, 0, 0, 2**32 - 1) + name + extra
    local = struct.pack("<4s5H3L2H", b"PK\3\4", 45, 8, 0, 0, 0, 0, 0, 0, len(name), 0) + name + content
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, len(central), len(local), 0)
    (entry,) = entries(tmp_path, local + central + end).values()
    assert entry.read(0, entry.size).tobytes() == content


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda raw: b"", "no end record"),
        (lambda raw: raw[: raw.rindex(b"PK\5\6")], "no end record"),
        (lambda raw: raw + bytes(70_000), "no end record"),
        (lambda raw: patched(raw, b"PK\5\6", 16, "L", len(raw)), "does not lie within the file"),
        (lambda raw: patched(raw, b"PK\5\6", 12, "L", 60), "does not lie within the file"),
        (lambda raw: patched(raw, b"PK\5\6", 8, "2H", 9999, 9999), "does not lie within the file"),
        (lambda raw: patched(raw, b"PK\5\6", 16, "L", 3), "directory of the archive is cut short"),
        (lambda raw: patched(raw, b"PK\1\2", 32, "H", 500), "directory of the archive is cut short"),
        (lambda raw: patched(raw, b"PK\5\6", 4, "2H", 1, 0), "several files"),
        (lambda raw: patched(raw, b"PK\5\6", 8, "H", 1), "several files"),
        (lambda raw: patched(files.with_zip64(raw), b"PK\6\7", 8, "Q", 2**63), "zip64 record"),
        (lambda raw: patched(raw, b"PK\1\2", 8, "H", 1), "archive/text encrypted"),
        (lambda raw: patched(raw, b"PK\1\2", 10, "H", 12), "archive/text packed by bzip2"),
        (lambda raw: patched(raw, b"PK\1\2", 10, "H", 77), "archive/text packed by method 77"),
        (lambda raw: patched(raw, b"PK\1\2", 24, "L", 3), "its two sizes differ"),
        (lambda raw: patched(raw, b"PK\1\2", 20, "2L", 4999, 4999), "4999 bytes"),
        (lambda raw: patched(raw, b"PK\1\2", 42, "L", 2**32 - 1), "begins behind the end"),
        (lambda raw: patched(raw, b"PK\1\2", 42, "L", 1), "no header"),
        (lambda raw: patched(raw, b"PK\3\4", 0, "4s", b"PK\7\7"), "no header"),
        (lambda raw: patched(raw, b"PK\3\4", 30, "s", b"A"), "another name"),
        (lambda raw: patched(raw, b"PK\3\4", 26, "H", 3), "another name"),
        (lambda raw: patched(raw, b"PK\1\2", 16, "L", 1), "checksum"),
        (lambda raw: raw.replace(b"some text", b"some test"), "checksum"),
        (lambda raw: patched(raw, b"PK\1\2", 20, "2L", 40, 40), "overlap"),
    ],
)
def test_what_contradicts_itself_is_refused(tmp_path, change, word):
    refused(tmp_path, change(files.zip_bytes({"data/0": bytes(9), "text": b"some text\n"})), word)


def test_two_entries_of_one_name_or_place_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x", "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for content in (b"one", b"two"):
            archive.writestr("archive/data.pkl", content)
    refused(tmp_path, (tmp_path / "x").read_bytes(), "two entries of the name archive/data.pkl")
    one, two = b"PK\3\4" + bytes(22) + struct.pack("<2H", 1, 0) + b"a", struct.pack("<4s6H3L5H2L", b"PK\1\2", *[0] * 16)
    headers = patched(two, b"PK\1\2", 28, "H", 1) + b"a" + patched(two, b"PK\1\2", 28, "H", 1) + b"a"
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 2, 2, len(headers), len(one), 0)
    refused(tmp_path, one + headers + end, "two entries of the name a")


@pytest.mark.parametrize(
    ("size", "stream", "word"),
    [
        (9, zlib.compress(bytes(10), wbits=-15), "does not end after its size of 9 bytes"),
        (11, zlib.compress(bytes(10), wbits=-15), "shorter than its size of 11 bytes"),
        (10, zlib.compress(bytes(10), wbits=-15)[:-1], "shorter than|does not end"),
        (0, zlib.compress(bytes(10), wbits=-15), "does not end after its size of 0 bytes"),
        (10, b"\xff" * 10, "damaged"),
        (PIECE, zlib.compress(bytes(PIECE + 1), wbits=-15), "does not end after"),
    ],
)
def test_deflated_entries_have_their_size(tmp_path, size, stream, word):
    raw = files.zip_bytes({"text": stream})
    raw = patched(patched(raw, b"PK\1\2", 10, "H", 8), b"PK\1\2", 16, "L2L", 0, len(stream), size)
    entry = entries(tmp_path, raw)["archive/text"]
    for start, count in ((0, size), (0, 1 if size else 0)):
        with pytest.raises(RefusedError, match=word):
            entry.read(start, count)


def test_zip_bombs_are_refused_before_they_are_inflated(tmp_path):
    raw = files.zip_bytes({"zeros": bytes(65 << 20)}, deflated=True)
    file = source(tmp_path, raw)
    tracemalloc.start()
    with pytest.raises(RefusedError, match=f"got {len(raw)} bytes that inflate to {65 << 20}"):
        read_archive(file)
    assert tracemalloc.get_traced_memory()[1] < PIECE
    tracemalloc.stop()
    assert (
        entries(tmp_path, files.zip_bytes({"zeros": bytes(60 << 20)}, deflated=True))["archive/zeros"].size == 60 << 20
    )


def test_pickles_that_inflate_to_millions_of_opcodes_are_refused(tmp_path):
    body = files.mapping({**files.state(), "more": b"N0" * (2 << 20) + b"N"})
    refused_file = source(tmp_path, files.zip_bytes({"data.pkl": files.pickled(body)}, deflated=True))
    with pytest.raises(RefusedError, match=r"expected a pickle, got \d+ bytes that inflate to"):
        read_zip(refused_file)


def test_checksums_that_torch_did_not_write_are_not_checked(tmp_path):
    torch = pytest.importorskip("torch")
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"w": torch.arange(6.0)}, tmp_path / "x")
    finally:
        torch.serialization.set_crc32_options(True)
    np.testing.assert_array_equal(load(tmp_path / "x")["w"], np.arange(6))


def test_names_that_differ_in_capital_letters_are_refused(tmp_path):
    for name in ("BYTEORDER", "data.PKL"):
        raw = files.zip_bytes({"data.pkl": files.pickled(STATE), **files.data_entries(), name: b"big"})
        with pytest.raises(CheckpointError, match=f"small letters in the archive, got archive/{name}"):
            load(source(tmp_path, raw).path)


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["archive_format", "models/model.json", "data/weights/weight_0"], "a program of torch.export"),
        ([".data/extern_modules", ".data/0.storage", "model/m.pkl"], "an archive of torch.package"),
    ],
)
def test_other_archives_of_torch_are_named(tmp_path, names, kind):
    with pytest.raises(RefusedError, match=f"expected a state dict, got {kind}; save model.state_dict"):
        read_zip(source(tmp_path, files.zip_bytes(dict.fromkeys(names, b""))))


def test_many_entries_cost_little(tmp_path):
    raw = files.zip_bytes({f"data/{i}": b"1" for i in range(2000)})
    tracemalloc.start()
    found = entries(tmp_path, raw)
    assert tracemalloc.get_traced_memory()[1] < 8 * len(raw)
    tracemalloc.stop()
    assert found["archive/data/1999"].read(0, 1).tobytes() == b"1"
    assert os.path.getsize(tmp_path / "x") == len(raw)
