"""Checkpoint files written by hand, opcode by opcode, and a watch that nothing in them runs."""

import contextlib
import pickle
import struct
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convert import CheckpointError, read
from convert.files.torch_file import MAGIC

NUMBERS = np.arange(6, dtype=np.float32)


# Pickles by hand: a value is the opcodes that leave it on the stack.


def value(plain: Any) -> bytes:
    return pickle.dumps(plain, 2)[2:-1]


def name(dotted: str) -> bytes:
    return "c{}\n{}\n".format(*dotted.rsplit(".", 1)).encode()


def call(dotted: str, *arguments: bytes) -> bytes:
    return name(dotted) + b"(" + b"".join(arguments) + b"tR"


def mapping(**entries: bytes) -> bytes:
    return b"}(" + b"".join(value(key) + entry for key, entry in entries.items()) + b"u"


def storage(
    kind: str = "torch.FloatStorage", key: Any = "0", location: str = "cpu", count: Any = 6, *view: Any
) -> bytes:
    return b"(" + value("storage") + name(kind) + b"".join(map(value, (key, location, count, *view))) + b"tQ"


def tensor(flat: bytes | None = None, offset: Any = 0, size: Any = (2, 3), stride: Any = (3, 1)) -> bytes:
    return call(
        "torch._utils._rebuild_tensor", storage() if flat is None else flat, *map(value, (offset, size, stride))
    )


def write_zip(path: Path, body: bytes, data: bytes = NUMBERS.tobytes(), **entries: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for entry, content in {"data.pkl": b"\x80\x02" + body + b".", "data/0": data, **entries}.items():
            archive.writestr(f"archive/{entry}", content)
    return path


def write_legacy(
    path: Path, body: bytes, data: bytes = NUMBERS.tobytes(), count: int = 6, little_endian: bool = True
) -> Path:
    head = b"".join(pickle.dumps(part, 2) for part in (MAGIC, 1001, {"little_endian": little_endian}))
    keys = pickle.dumps(["0"], 2)
    path.write_bytes(head + b"\x80\x02" + body + b"." + keys + struct.pack("<q", count) + data)
    return path


STATE = mapping(w=tensor(), b=tensor(offset=1, size=(3,), stride=(2,)))


def bits(array: Any) -> tuple:
    return array.dtype.name, array.shape, np.asarray(array).tobytes()


RUNS = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "ctypes.dlopen", "pickle.find_class")
CHANGES = ("os.remove", "os.rename", "os.mkdir", "socket.connect")
seen: list | None = None


def audit(event: str, arguments: tuple) -> None:
    writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
    if seen is not None and (writes or event in RUNS + CHANGES):
        seen.append((event, arguments))


sys.addaudithook(audit)


@contextlib.contextmanager
def nothing_runs():
    """No process starts, no file changes, pickle looks up no class."""
    global seen
    seen = []
    try:
        yield
        assert seen == []
    finally:
        seen = None


def refused(path: Path, *words: str, wrapper: str | None = None) -> None:
    """One sentence with the name of the file and ``words``."""
    with nothing_runs(), pytest.raises(CheckpointError) as caught:
        read(path, wrapper)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert len(message) < len(str(path)) + 1600
    for word in words:
        assert word in message
