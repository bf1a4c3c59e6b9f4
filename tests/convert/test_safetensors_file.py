"""Safetensors files: whatever the library reads is read bit for bit, and what it refuses is refused in one sentence."""

import json
import os
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy

from convert import CheckpointError, load, read
from convert.files.safetensors_file import SAFETENSORS, is_safetensors, numpy_dtype, read_safetensors
from convert.files.source import Source
from tests.helpers import checkpoint_bytes as files

DATA = np.array([1.5, -2.5], np.float32).tobytes()
FIELDS = '"dtype":"F32","shape":[2],"data_offsets":[0,8]'
ENTRY = "{" + FIELDS + "}"


def write(tmp_path: Path, header: Any, data: bytes = DATA) -> Path:
    (tmp_path / "x").write_bytes(files.safetensors_file(header, data))
    return tmp_path / "x"


def library(path: Path) -> dict[str, np.ndarray]:
    with safetensors.safe_open(path, "numpy") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


ACCEPTED = {
    "plain": '{"w":%s}',
    "other order": '{"w":{"data_offsets":[0,8],"shape":[2],"dtype":"F32"}}',
    "another field": '{"w":{"note":[1,{"a":null}],"x":-5,' + FIELDS + "}}",
    "twice another field": '{"w":{"x":1,"x":2,' + FIELDS + "}}",
    "a list": '{"w":["F32",[2],[0,8]]}',
    "dtype as an object": '{"w":{"dtype":{"F32":null},"shape":[2],"data_offsets":[0,8]}}',
    "escaped field": '{"w":{"\\u0064type":"F32","shape":[2],"data_offsets":[0,8]}}',
    "the same key twice": '{"w":{"dtype":"F16","shape":[4],"data_offsets":[0,8]},"w":%s}',
    "no metadata": '{"__metadata__":null,"w":%s}',
    "metadata": '{"__metadata__":{"a":"1","a":"2"},"w":%s}',
    "escaped metadata": '{"\\u005f_metadata__":{"a":"b"},"w":%s}',
    "space before": ' \n{"w":%s}',
    "space behind": '{"w":%s} \n\t\r',
    "empty key": '{"":%s}',
    "emoji": '{"\\ud83d\\ude00":%s}',
    "zero byte in the key": '{"a\\u0000b":%s}',
    "large number elsewhere": '{"w":{"x":' + "9" * 50 + "," + FIELDS + "}}",
    "tiny number elsewhere": '{"w":{"x":1e-999,' + FIELDS + "}}",
    "nested": '{"w":{"x":' + "[" * 125 + "]" * 125 + "," + FIELDS + "}}",
    "brackets in a text": '{"w":{"x":"' + "[" * 200 + '\\"[",' + FIELDS + "}}",
    "empty tensor": '{"w":%s,"z":{"dtype":"F16","shape":[0,3],"data_offsets":[8,8]}}',
    "33 dimensions": '{"w":{"dtype":"F32","shape":[' + "1," * 32 + '2],"data_offsets":[0,8]}}',
    "scalar": '{"w":{"dtype":"F64","shape":[],"data_offsets":[0,8]}}',
}


@pytest.mark.parametrize("header", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_what_the_library_reads_is_read(tmp_path, header):
    path = write(tmp_path, header.replace("%s", ENTRY))
    expected, got = library(path), load(path)
    assert got.keys() == expected.keys()
    for key, array in expected.items():
        assert (got[key].dtype, got[key].shape, got[key].tobytes()) == (array.dtype, array.shape, array.tobytes())
        assert got[key].flags.writeable
    with safetensors.safe_open(path, "numpy") as file:
        assert read(path).metadata == (file.metadata() or {})


REFUSED = {
    "no JSON": '{"w":%s,}',
    "bytes behind": '{"w":%s}\0',
    "not an object": '[{"w":%s}]',
    "nothing": '{"w":null}',
    "a list of two": '{"w":["F32",[2]]}',
    "a list of four": '{"w":["F32",[2],[0,8],1]}',
    "a field twice": '{"w":{"dtype":"F32",' + FIELDS + "}}",
    "a field missing": '{"w":{"dtype":"F32","shape":[2]}}',
    "metadata twice": '{"__metadata__":{},"__metadata__":{},"w":%s}',
    "number in the metadata": '{"__metadata__":{"a":1},"w":%s}',
    "metadata as a list": '{"__metadata__":[],"w":%s}',
    "float": '{"w":{"dtype":"F32","shape":[2.0],"data_offsets":[0,8]}}',
    "minus zero": '{"w":{"dtype":"F32","shape":[2],"data_offsets":[-0,8]}}',
    "true": '{"w":{"dtype":"F32","shape":[true,2],"data_offsets":[0,8]}}',
    "text": '{"w":{"dtype":"F32","shape":["2"],"data_offsets":[0,8]}}',
    "unknown dtype": '{"w":{"dtype":"F7","shape":[2],"data_offsets":[0,8]}}',
    "dtype in small letters": '{"w":{"dtype":"f32","shape":[2],"data_offsets":[0,8]}}',
    "dtype as a full object": '{"w":{"dtype":{"F32":[]},"shape":[2],"data_offsets":[0,8]}}',
    "three offsets": '{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8,9]}}',
    "wrong shape": '{"w":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}',
    "huge shape": '{"w":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,8]}}',
    "half a byte": '{"w":{"dtype":"F4","shape":[15],"data_offsets":[0,8]}}',
    "hole": '{"w":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}',
    "bytes left": '{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
    "overlap": '{"w":%s,"v":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}',
    "same place": '{"w":%s,"v":%s}',
    "backwards": '{"w":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}',
    "far away": '{"w":{"dtype":"F32","shape":[2],"data_offsets":[18446744073709551607,18446744073709551615]}}',
    "too far away": '{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,18446744073709551616]}}',
    "byte order mark": '\ufeff{"w":%s}',
    "half a character": '{"\\ud800":%s}',
    "half a character elsewhere": '{"w":{"x":["\\udc00"],' + FIELDS + "}}",
    "newline in the key": '{"a\nb":%s}',
    "NaN": '{"w":{"x":NaN,' + FIELDS + "}}",
    "infinity": '{"w":{"x":1e999,' + FIELDS + "}}",
    "5000 digits": '{"w":{"x":' + "9" * 5000 + "," + FIELDS + "}}",
    "leading zero": '{"w":{"x":01,' + FIELDS + "}}",
    "nested too deep": '{"w":{"x":' + "[" * 126 + "]" * 126 + "," + FIELDS + "}}",
    "nested far too deep": '{"w":{"x":' + "[" * 200_000 + "," + FIELDS + "}}",
    "not UTF-8": b'{"\xff":{}}',
}


@pytest.mark.parametrize("header", REFUSED.values(), ids=REFUSED.keys())
def test_what_the_library_refuses_is_refused(tmp_path, header):
    path = write(tmp_path, header if isinstance(header, bytes) else header.replace("%s", ENTRY))
    with pytest.raises(safetensors.SafetensorError):
        library(path)
    with pytest.raises(CheckpointError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: expected")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 300


@pytest.mark.parametrize("length", [3, 100_000_001, 2**32 - 1])
def test_headers_that_are_too_long_are_refused(tmp_path, length):
    (tmp_path / "x").write_bytes(struct.pack("<Q", length) + b"{}")
    with pytest.raises(CheckpointError, match=str(length)):
        load(tmp_path / "x")


def test_headers_of_millions_of_values_are_refused(tmp_path):
    path = write(tmp_path, '{"w":{"x":[' + "1," * 5_000_000 + "1]," + FIELDS + "}}")
    with pytest.raises(CheckpointError, match="expected a header of at most 5000000 values"):
        load(path)


@pytest.mark.parametrize("name", SAFETENSORS)
def test_every_dtype_is_read_bit_for_bit_and_late(tmp_path, name):
    raw = bytes(range(48)) if name != "BOOL" else bytes([0, 1] * 24)
    shape = (2, 24 // numpy_dtype(name).itemsize)
    path = write(tmp_path, {"w": files.safetensors_entry(name, shape, 0, 48)}, raw)
    lazy = read_safetensors(Source(path)).arrays["w"]
    assert (lazy.shape, lazy.dtype, lazy.make().tobytes()) == (shape, numpy_dtype(name), raw)
    assert load(path)["w"].dtype == lazy.dtype
    os.truncate(path, 60)
    with pytest.raises(CheckpointError, match="x: the file changed"):
        lazy.make()


@pytest.mark.parametrize(
    ("entry", "word"),
    [
        (files.safetensors_entry("F4", (16,), 8, 16), "got F4 at odd"),
        (files.safetensors_entry("F6_E2M3", (8, 1), 8, 14), "got F6_E2M3 at odd"),
        (files.safetensors_entry("F6_E3M2", (4,), 8, 11), "got F6_E3M2 at odd"),
        (files.safetensors_entry("F32", (0, 2**62, 8), 8, 8), "another at odd"),
        (files.safetensors_entry("F32", (1,) * 65, 8, 12), "another at odd"),
    ],
)
def test_what_numpy_cannot_hold_is_refused_where_it_is_used(tmp_path, entry, word):
    header = {"w": files.safetensors_entry("F32", (2,), 0, 8), "odd": entry}
    path = write(tmp_path, header, DATA + bytes(entry["data_offsets"][1] - 8))
    arrays = read_safetensors(Source(path)).arrays
    np.testing.assert_array_equal(arrays["w"].make(), [1.5, -2.5])
    with pytest.raises(CheckpointError, match=f"x: expected .*{word}"):
        arrays["odd"].make()
    with pytest.raises(CheckpointError, match=word):
        load(path)


def test_what_the_library_writes_is_read(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {"a": rng.random((3, 5)), "b": rng.random(7).astype(ml_dtypes.bfloat16), "c": np.zeros((0, 2), np.int8)}
    safetensors.numpy.save_file(arrays, tmp_path / "x", {"format": "pt"})
    got = load(tmp_path / "x")
    assert {key: array.tobytes() for key, array in got.items()} == {k: array.tobytes() for k, array in arrays.items()}
    got["a"][:] = 0
    assert load(tmp_path / "x")["a"].any()
    safetensors.numpy.save_file({}, tmp_path / "x")
    assert read_safetensors(Source(tmp_path / "x")).arrays == load(tmp_path / "x") == {}


def test_the_head_of_a_file_tells_its_kind():
    heads = [
        files.safetensors_file("{}"),
        files.safetensors_file(" \n{}"),
        files.safetensors_file("[]"),
        b"",
        b"\0" * 99,
    ]
    assert [is_safetensors(head) for head in heads] == [True, True, False, False, False]


def test_a_large_header_costs_little_more_than_its_length(tmp_path):
    header = {f"layer{i}.weight": files.safetensors_entry("F32", (2,), 8 * i, 8 * i + 8) for i in range(3000)}
    text = json.dumps(header)
    path = write(tmp_path, text, DATA * 3000)
    tracemalloc.start()
    arrays = read_safetensors(Source(path)).arrays
    assert tracemalloc.get_traced_memory()[1] < 4 * 1024 * len(header)
    tracemalloc.stop()
    np.testing.assert_array_equal(arrays["layer2999.weight"].make(), [1.5, -2.5])
