"""The two file formats of ``torch.save``: a zip archive since PyTorch 1.6, and a row of pickles before."""

import io
import mmap
import struct
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from convert.errors import DamagedError, RefusedError, damage, shown
from convert.files.pickled import Storage, Tensor
from convert.files.pickles import Machine

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001

ZIP_DAMAGE = (
    *(zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError, OverflowError, MemoryError),
    *(OSError, struct.error),
)
"""What ``zipfile`` raises for a damaged archive. RuntimeError: an entry is marked as encrypted. OSError: an offset is
negative. MemoryError: an entry claims to be larger than the memory."""


@dataclass(frozen=True, eq=False)
class TorchFile:
    """``tree`` of plain containers whose leaves are each a ``Tensor``, and the bytes of each storage they view."""

    format: str
    tree: Any
    storages: dict[str | int, np.ndarray]
    big_endian: bool = False
    _swapped: dict[tuple, np.ndarray] = field(default_factory=dict)

    def array(self, tensor: Tensor) -> np.ndarray:
        """``tensor`` as a read-only view of the file; nothing is read until the numbers are used.

        Tensors of one storage share memory. Big-endian numbers are read, and swapped, here and now.

        Raises:
            RefusedError: if the tensor reaches outside its storage, or the storage outside the file.
        """
        storage, dtype = tensor.storage, tensor.dtype
        if storage.key not in self.storages:
            raise RefusedError(f"expected the data of storage {shown(str(storage.key))}, found none")
        start, stop = (n * storage.dtype.itemsize for n in (storage.start, storage.start + storage.count))
        needed = start + tensor.reach * dtype.itemsize
        if not needed <= stop <= len(self.storages[storage.key]):
            raise RefusedError(f"expected a tensor of shape {tensor.size} to lie within its storage, it does not")
        begin = start + tensor.offset * dtype.itemsize
        strides = [n * dtype.itemsize for n in tensor.stride]
        with damage(ValueError, OverflowError):
            if 0 in tensor.size:
                return np.empty(tensor.size, dtype)
            return np.ndarray(tensor.size, dtype, self._bytes(storage.key, dtype), begin, strides)

    def _bytes(self, key: str | int, dtype: np.dtype) -> np.ndarray:
        raw = self.storages[key]
        if not self.big_endian:
            return raw
        if (key, dtype) not in self._swapped:
            self._swapped[key, dtype] = raw.view(dtype).byteswap().view(np.uint8)
            self._swapped[key, dtype].flags.writeable = False
        return self._swapped[key, dtype]


def map_file(path: Path) -> mmap.mmap:
    """The file as read-only memory."""
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def read_zip(path: Path) -> TorchFile:
    """Read ``x/data.pkl``, ``x/byteorder`` (absent: little) and the storages ``x/data/key`` of a zip archive.

    Raises:
        RefusedError: if it is another kind of archive, or its pickle holds what no state dict needs.
        DamagedError: if the archive or its pickle is damaged.
    """
    raw = np.frombuffer(map_file(path), np.uint8)
    with damage(*ZIP_DAMAGE):
        archive = zipfile.ZipFile(path)
    with archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        folder = _folder(entries)
        with damage(*ZIP_DAMAGE):
            pickled = archive.read(f"{folder}/data.pkl")
            byteorder = archive.read(f"{folder}/byteorder") if f"{folder}/byteorder" in entries else b"little"
    machine = Machine()
    tree = machine.run(io.BytesIO(pickled))
    if byteorder not in (b"little", b"big"):
        raise RefusedError(f"expected the byte order to be little or big, got {shown(repr(byteorder))}")
    found = {key: entries.get(f"{folder}/data/{key}") for key in machine.storages}
    storages = {key: _stored(raw, entry) for key, entry in found.items() if entry}
    return TorchFile("zip pickle", tree, storages, big_endian=byteorder == b"big")


def _folder(entries: dict[str, zipfile.ZipInfo]) -> str:
    """The one folder that holds ``data.pkl``."""
    folders = [
        name.removesuffix("/data.pkl") for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")
    ]
    if len(folders) != 1:
        raise RefusedError(f"expected a zip archive of torch.save, got one of {shown(', '.join(entries)) or 'nothing'}")
    if f"{folders[0]}/constants.pkl" in entries:
        raise RefusedError("expected a state dict, got a TorchScript archive")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
        raise RefusedError("expected an uncompressed zip archive, as torch.save writes it, got a compressed one")
    return folders[0]


def _stored(raw: np.ndarray, entry: zipfile.ZipInfo) -> np.ndarray:
    """The bytes of ``entry``, which begin after its local header and the two fields of that header that vary."""
    header = raw[entry.header_offset :][:30].tobytes()
    if not header.startswith(b"PK\3\4") or len(header) < 30:
        raise DamagedError(f"no header where {shown(entry.filename)} should begin")
    name, extra = struct.unpack("<HH", header[26:])
    start = entry.header_offset + 30 + name + extra
    content = raw[start : start + entry.file_size]
    if len(content) != entry.file_size:
        raise DamagedError(f"{entry.file_size} bytes of {shown(entry.filename)} claimed, {len(content)} there")
    return content


def read_legacy(path: Path) -> TorchFile:
    """Read five pickles (magic number, protocol, system, object, storage keys), and then the data of each storage.

    The data are a count as int64, and the elements. Both are little-endian on any system: so PyTorch writes and reads.

    Raises:
        RefusedError: if the data are cut short, or the pickles hold what no state dict needs.
        DamagedError: if a pickle is damaged.
    """
    mapped = map_file(path)
    if [Machine().run(mapped), Machine().run(mapped)] != [MAGIC, PROTOCOL]:
        raise RefusedError(f"expected PyTorch's magic number and protocol {PROTOCOL}, got others")
    Machine().run(mapped)
    machine = Machine()
    tree = machine.run(mapped)
    keys = Machine().run(mapped)
    if type(keys) is not list or any(type(key) not in (str, int) or key not in machine.storages for key in keys):
        raise RefusedError("expected a list of the keys of storages after the object, got something else")
    raw, storages = np.frombuffer(mapped, np.uint8)[mapped.tell() :], {}
    for key in keys:
        storages[key], raw = _counted(raw, machine.storages[key])
    return TorchFile("legacy pickle", tree, storages)


def _counted(raw: np.ndarray, storage: Storage) -> tuple[np.ndarray, np.ndarray]:
    """The elements of ``storage``, which follow their count at the beginning of ``raw``, and the bytes after them."""
    name, end = shown(str(storage.key)), 8 + storage.count * storage.dtype.itemsize
    if len(raw) < end:
        raise RefusedError(f"expected {end} bytes for storage {name}, found the last {len(raw)} of the file")
    if int.from_bytes(raw[:8].tobytes(), "little") != storage.count:
        raise RefusedError(f"expected {storage.count} numbers in storage {name}, found another count")
    return raw[8:end], raw[end:]
