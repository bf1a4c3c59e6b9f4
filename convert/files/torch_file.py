"""The two file formats of ``torch.save``: a zip archive since PyTorch 1.6, and a row of pickles before."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from convert.errors import RefusedError, name_file, shown
from convert.files.pickled import Storage, Tensor
from convert.files.pickles import Machine
from convert.files.source import PIECE, Part, Readable, Source
from convert.files.zip_archive import Entry, read_archive
from convert.tensors import Lazy

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001

ALIGNMENT = 16
"""Memory is read from multiples of it, so that numbers of any width lie as they lie in their storage."""

PICKLE_RATIO = 50
"""How many times its packed size a large pickle may have. It is read one opcode at a time, which is slow."""

OTHER_ARCHIVES = {
    "archive_format": "a program of torch.export",
    "models/model.json": "a program of torch.export",
    ".data/extern_modules": "an archive of torch.package",
    ".data/python_version": "an archive of torch.package",
}
"""What an archive is that has one of these entries in its folder, and no ``data.pkl``."""


@dataclass(frozen=True, eq=False)
class TorchFile:
    """``tree`` of plain containers whose leaves are each a ``Tensor``, and the bytes of each storage they view.

    Args:
        format: "zip pickle", "legacy pickle" or "TorchScript archive".
        source: the file.
        tree: the object that was saved.
        storages: the bytes of each storage by its key.
        declared: what the pickle says of each storage where it mentions it first.
        big_endian: if the numbers are stored so.
        constants: of a TorchScript archive, what its ``constants.pkl`` holds.
        names: the names in the pickle that no state dict needs; see ``Machine``.
    """

    format: str
    source: Source
    tree: Any
    storages: Mapping[str | int, Readable]
    declared: Mapping[str | int, Storage]
    big_endian: bool = False
    constants: "TorchFile | None" = None
    names: Mapping[str, str] = field(default_factory=dict)

    def lazy(self, tensor: Tensor) -> Lazy:
        """``tensor`` as an array that is read when it is made, from the bytes that it needs.

        What is made is writable, and shares memory with nothing. It has the strides of the tensor.

        Raises:
            RefusedError: if the tensor reaches outside its storage, or the storage outside the file.
        """
        self._extent(tensor)
        return Lazy(tensor.size, tensor.dtype, partial(self._made, tensor))

    def _made(self, tensor: Tensor) -> np.ndarray:
        return self.arrays({"": tensor})[""]

    def arrays(self, tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
        """All ``tensors``, read now: writable, and independent of the file.

        Tensors whose bytes overlap share memory, as they do in PyTorch. Others do not.

        Raises:
            RefusedError: if a tensor reaches outside its storage, or the storage outside the file.
            CheckpointError: if the file changed since it was opened, or its bytes are damaged.
        """
        groups: dict[tuple, list] = defaultdict(list)
        for key, tensor in tensors.items():
            start, stop = self._extent(tensor)
            groups[self._group(tensor, start)].append((start, stop, key))
        made: dict[str, np.ndarray] = {}
        with name_file(self.source.path, "could not be read"):
            for extents in groups.values():
                for start, stop, inside in _spans(extents):
                    begin = start if self.big_endian else start - start % ALIGNMENT
                    raw = self._read(tensors[inside[0][1]], begin, stop)
                    made |= {key: _view(tensors[key], raw, first - begin) for first, key in inside}
        return {key: made[key] if key in made else np.empty(t.size, t.dtype) for key, t in tensors.items()}

    def _group(self, tensor: Tensor, start: int) -> tuple:
        """Tensors of one group may share memory. Big-endian bytes are swapped, which depends on the dtype."""
        key = tensor.storage.key
        return (key, tensor.dtype, start % tensor.dtype.itemsize) if self.big_endian else (key,)

    def _read(self, tensor: Tensor, start: int, stop: int) -> np.ndarray:
        """Bytes of the storage of ``tensor``, in the byte order of this machine."""
        raw = self.storages[tensor.storage.key].read(start, stop - start)
        if self.big_endian:
            raw.view(tensor.dtype).byteswap(inplace=True)
        return raw

    def _extent(self, tensor: Tensor) -> tuple[int, int]:
        """The first byte of its storage that the tensor needs, and the one behind the last."""
        storage, width = tensor.storage, tensor.dtype.itemsize
        if storage.key not in self.storages:
            raise RefusedError(f"expected the data of storage {shown(str(storage.key))}, found none")
        declared = self.declared[storage.key]
        if storage.dtype != declared.dtype or storage.start + storage.count > declared.count:
            raise RefusedError(f"expected one dtype and size of storage {shown(str(storage.key))}, got two")
        start, stop = (n * storage.dtype.itemsize for n in (storage.start, storage.start + storage.count))
        end = start + tensor.reach * width
        if not end <= stop <= self.storages[storage.key].size:
            raise RefusedError(f"expected a tensor of shape {tensor.size} to lie within its storage, it does not")
        strides = [step * width for step in tensor.stride]
        if max(math.prod(n for n in tensor.size if n) * width, *strides, *tensor.size, 0) >= 2**63:
            raise RefusedError(f"expected a tensor that an array can hold, got one of shape {tensor.size}")
        return (start, start) if 0 in tensor.size else (start + tensor.offset * width, end)


def _spans(extents: Iterable[tuple[int, int, str]]) -> list[tuple[int, int, list[tuple[int, str]]]]:
    """The extents that are not empty, with those that overlap merged: start, stop, and (start, key) of each inside."""
    spans: list[tuple[int, int, list[tuple[int, str]]]] = []
    for start, stop, key in sorted(extent for extent in extents if extent[0] < extent[1]):
        if spans and start < spans[-1][1]:
            first, last, inside = spans.pop()
            inside.append((start, key))
            spans.append((first, max(stop, last), inside))
        else:
            spans.append((start, stop, [(start, key)]))
    return spans


def _view(tensor: Tensor, raw: np.ndarray, start: int) -> np.ndarray:
    strides = tuple(step * tensor.dtype.itemsize for step in tensor.stride)
    return np.ndarray(tensor.size, tensor.dtype, raw.data, start, strides)


def read_zip(source: Source, strict: bool = False, entries: Mapping[str, Entry] | None = None) -> TorchFile:
    """Read ``x/data.pkl``, ``x/byteorder`` (absent: little) and the storages ``x/data/key`` of a zip archive.

    A TorchScript archive has also ``x/constants.pkl`` and ``x/constants/key``. Its code is not read.

    Args:
        entries: those of the archive, where they are read already.

    Raises:
        RefusedError: if it is another kind of archive, or its pickle holds what no state dict needs.
        DamagedError: if the archive or its pickle is damaged.
    """
    entries = read_archive(source) if entries is None else entries
    folder = _folder(entries)
    big_endian = _big_endian(entries.get(f"{folder}/byteorder"))
    found = partial(_pickled, source, entries, big_endian=big_endian, strict=strict)
    if f"{folder}/constants.pkl" not in entries:
        return found("zip pickle", f"{folder}/data")
    constants = found("TorchScript archive", f"{folder}/constants")
    return found("TorchScript archive", f"{folder}/data", constants=constants)


def _pickled(
    source: Source, entries: Mapping[str, Entry], format: str, name: str, strict: bool, **more: Any
) -> TorchFile:
    """The object in ``name.pkl`` with the storages ``name/key``."""
    entry, machine = entries[f"{name}.pkl"], Machine(strict)
    if entry.size > max(PIECE, PICKLE_RATIO * entry.packed):
        raise RefusedError(f"expected a pickle, got {entry.packed} bytes that inflate to {entry.size}")
    tree = machine.run(entry.stream())
    found = {key: entries.get(f"{name}/{key}") for key in machine.storages}
    storages = {key: entry for key, entry in found.items() if entry}
    about: dict[str, Any] = {"declared": machine.storages, "names": machine.names, **more}
    return TorchFile(format, source, tree, storages=storages, **about)


def _folder(entries: Mapping[str, Entry]) -> str:
    """The one folder that holds ``data.pkl``."""
    folders = [
        name.removesuffix("/data.pkl") for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")
    ]
    if len(folders) == 1:
        _check_case(entries, folders[0])
        return folders[0]
    for name in entries if not folders else ():
        if kind := OTHER_ARCHIVES.get(name.partition("/")[2]):
            raise RefusedError(f"expected a state dict, got {kind}; save model.state_dict() with torch.save instead")
    listed = shown(", ".join(list(entries)[:20])) or "nothing"
    raise RefusedError(f"expected a zip archive of torch.save, got one of {listed}")


def _check_case(entries: Mapping[str, Entry], folder: str) -> None:
    """Refuse names that PyTorch takes for others, because it does not tell capital letters from small ones."""
    known = {f"{folder}/{name}".lower() for name in ("data.pkl", "byteorder", "constants.pkl")}
    for name in entries:
        if name.lower() in known and name.removeprefix(f"{folder}/") not in ("data.pkl", "byteorder", "constants.pkl"):
            raise RefusedError(f"expected names in small letters in the archive, got {shown(name)}")


def _big_endian(entry: Entry | None) -> bool:
    """What the entry ``byteorder`` says."""
    found = b"little" if entry is None else entry.stream().read(8)
    if found not in (b"little", b"big"):
        raise RefusedError(f"expected the byte order to be little or big, got {shown(repr(found))}")
    return found == b"big"


def read_legacy(source: Source, strict: bool = False) -> TorchFile:
    """Read five pickles (magic number, protocol, system, object, storage keys), and then the data of each storage.

    The data are a count as int64, and the elements. Both are little-endian on any system: so PyTorch writes and reads.

    Raises:
        RefusedError: if the data are cut short, or the pickles hold what no state dict needs.
        DamagedError: if a pickle is damaged.
    """
    stream = source.stream()
    if [Machine().run(stream), Machine().run(stream)] != [MAGIC, PROTOCOL]:
        raise RefusedError(f"expected PyTorch's magic number and protocol {PROTOCOL}, got others")
    Machine().run(stream)
    machine = Machine(strict)
    tree = machine.run(stream)
    keys = Machine().run(stream)
    if type(keys) is not list or any(type(key) not in (str, int) or key not in machine.storages for key in keys):
        raise RefusedError("expected a list of the keys of storages after the object, got something else")
    position = stream.tell()
    storages: dict[str | int, Readable] = {}
    for key in keys:
        storages[key] = part = _counted(source, position, machine.storages[key])
        position = part.start + part.size
    about: dict[str, Any] = {"declared": machine.storages, "names": machine.names}
    return TorchFile("legacy pickle", source, tree, storages=storages, **about)


def read_pickle(source: Source, strict: bool = False) -> TorchFile:
    """Read a pickle that torch.save did not write. Its arrays are numpy's; it has no storages.

    Raises:
        RefusedError: if the pickle holds what no state dict needs.
        DamagedError: if the pickle is damaged.
    """
    machine = Machine(strict)
    tree = machine.run(source.stream())
    return TorchFile("pickle", source, tree, storages={}, declared={}, names=machine.names)


def _counted(source: Source, position: int, storage: Storage) -> Part:
    """The elements of ``storage``, which follow their count at ``position``."""
    name, size = shown(str(storage.key)), storage.count * storage.dtype.itemsize
    if source.size < position + 8 + size:
        found = f"found the last {max(0, source.size - position)} of the file"
        raise RefusedError(f"expected {8 + size} bytes for storage {name}, {found}")
    if int.from_bytes(source.read(position, 8).tobytes(), "little") != storage.count:
        raise RefusedError(f"expected {storage.count} numbers in storage {name}, found another count")
    return Part(source, position + 8, size)
