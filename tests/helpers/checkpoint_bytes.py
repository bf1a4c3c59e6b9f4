"""Small checkpoint files as bytes, made without PyTorch: what torch.save, torch.jit.save and safetensors write."""

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from convert.files.torch_file import MAGIC

NUMBERS = np.arange(12, dtype=np.float32)
HALVES = np.arange(5, dtype=np.float16)
NONE = b"N"
STORAGES = {"0": ("torch.FloatStorage", NUMBERS), "1": ("torch.HalfStorage", HALVES)}


def value(plain: Any) -> bytes:
    """The opcodes that leave ``plain`` on the stack."""
    return pickle.dumps(plain, 2)[2:-1]


def name(dotted: str) -> bytes:
    return "c{}\n{}\n".format(*dotted.rsplit(".", 1)).encode()


def storage(key: str = "0", count: Any = None, kind: str | None = None, view: bytes = b"") -> bytes:
    """A reference to a storage. ``view`` is behind it in legacy files, as a rule ``NONE``."""
    count = len(STORAGES[key][1]) if count is None else count
    named = value("storage") + name(kind or STORAGES[key][0]) + value(key) + value("cpu")
    return b"(" + named + value(count) + view + b"tQ"


def tensor(flat: bytes | None = None, offset: Any = 0, size: Any = (3, 4), stride: Any = (4, 1)) -> bytes:
    flat = storage() if flat is None else flat
    hooks = name("collections.OrderedDict") + b")R"
    arguments = flat + value(offset) + value(size) + value(stride) + b"\x89" + hooks
    return name("torch._utils._rebuild_tensor_v2") + b"(" + arguments + b"tR"


def mapping(entries: Mapping[str, bytes]) -> bytes:
    """A dict. Its keys are put into the memo, and got from there for a dict with the key "again"."""
    stored = b"".join(value(key) + b"q" + bytes([index]) + entry for index, (key, entry) in enumerate(entries.items()))
    return b"}(" + stored + b"u"


def pickled(body: bytes, protocol: int = 2) -> bytes:
    return b"\x80" + bytes([protocol]) + body + b"."


def state(view: bytes = b"") -> dict[str, bytes]:
    """A state dict: the opcodes of each of its tensors. Two share a storage."""
    flat = storage(view=view)
    shared = tensor(flat, offset=4, size=(2, 2), stride=(1, 4))
    half = tensor(storage("1", view=view), size=(5,), stride=(1,))
    scalar = tensor(flat, 3, size=(), stride=())
    return {"conv.weight": tensor(flat), "conv.bias": shared, "norm.weight": half, "norm.scalar": scalar}


def data_entries(folder: str = "data") -> dict[str, bytes]:
    return {f"{folder}/{key}": numbers.tobytes() for key, (_, numbers) in STORAGES.items()}


def zip_bytes(entries: Mapping[str, bytes], deflated: bool = False, folder: str = "archive") -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED) as archive:
        for key, content in entries.items():
            info = zipfile.ZipInfo(f"{folder}/{key}")
            info.compress_type = archive.compression
            archive.writestr(info, content)
    return file.getvalue()


def with_zip64(raw: bytes, disks: int = 1, first_disk: int = 0, size: int = 44) -> bytes:
    """``raw`` with its end record moved to the zip64 form."""
    end = raw.rindex(b"PK\5\6")
    _, _, _, here, count, length, start, _ = struct.unpack("<4s4H2LH", raw[end : end + 22])
    record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", size, 45, 45, 0, first_disk, here, count, length, start)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, end, disks)
    odd = struct.pack("<4s4H2LH", b"PK\5\6", 65535, 65535, 65535, 65535, 2**32 - 1, 2**32 - 1, 0)
    return raw[:end] + record + locator + odd


def zip_file(body: bytes, deflated: bool = False) -> bytes:
    """What torch.save writes, and with ``deflated`` what is left of it when it was packed again."""
    rest = {"byteorder": b"little", **data_entries(), "version": b"3\n"}
    return zip_bytes({"data.pkl": pickled(body), **rest}, deflated)


def legacy_file(body: bytes, keys: Sequence[str] = tuple(STORAGES)) -> bytes:
    """What torch.save wrote before PyTorch 1.6."""
    head = b"".join(pickle.dumps(part, 2) for part in (MAGIC, 1001, {"little_endian": True}))
    data = [struct.pack("<q", len(STORAGES[key][1])) + STORAGES[key][1].tobytes() for key in keys]
    return head + pickled(body) + pickle.dumps(list(keys), 2) + b"".join(data)


def script_object(dotted: str, attributes: Mapping[str, bytes]) -> bytes:
    return name(f"__torch__.{dotted}") + b")\x81" + mapping(attributes) + b"b"


def script_file(entries: Mapping[str, bytes]) -> bytes:
    """What torch.jit.save writes for a module with the tensors ``entries`` in a child, and one constant."""
    child = script_object("Block", {"training": b"\x89", **entries})
    code = {"code/__torch__.py": b"class Net(Module):\n  pass\n"}
    constants = {"constants/0": NUMBERS.tobytes(), "constants.pkl": pickled(b"(" + tensor() + b"t")}
    body = pickled(script_object("Net", {"block": child}))
    return zip_bytes({**data_entries(), "data.pkl": body, **code, **constants, "version": b"3\n"})


def safetensors_entry(dtype: str, shape: Sequence[int], start: int, stop: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}


def safetensors_header() -> dict[str, Any]:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    header["conv.weight"] = safetensors_entry("F32", (3, 4), 0, 48)
    header["norm.weight"] = safetensors_entry("F16", (5,), 48, 58)
    return header


def safetensors_file(header: Any, data: bytes = NUMBERS.tobytes() + HALVES.tobytes()) -> bytes:
    """``header`` is JSON as text or bytes, or what becomes that."""
    text = header if isinstance(header, str | bytes) else json.dumps(header)
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw + data
