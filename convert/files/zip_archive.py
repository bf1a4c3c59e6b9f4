"""Reads zip archives: the few kinds that hold checkpoints, and strictly, so that two readers cannot see two files.

Follows: the format description of PKWARE, APPNOTE.TXT. Lenient where miniz is, with which PyTorch reads archives.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from convert.errors import DamagedError, RefusedError, damage, shown
from convert.files.source import PIECE, Source, Stream

END = struct.Struct("<4s4H2LH")
END_64 = struct.Struct("<4sQ2H2L4Q")
LOCATOR = struct.Struct("<4sLQL")
CENTRAL = struct.Struct("<4s6H3L5H2L")
LOCAL = struct.Struct("<4s5H3L2H")

LONGEST_COMMENT = 2**16 - 1
LARGE = 2**32 - 1
"""Stands for a number that is in the zip64 field instead."""

STORED, DEFLATED = 0, 8
METHODS = {1: "shrink", 6: "implode", 9: "deflate64", 12: "bzip2", 14: "lzma", 93: "zstd", 95: "xz", 99: "AES"}
ENCRYPTED = 1 | 1 << 6 | 1 << 13
"""The flags of an entry whose bytes, or whose header, are encrypted."""

BOMB_BYTES, BOMB_RATIO = 64 << 20, 100


@dataclass(eq=False, slots=True)
class Entry:
    """One file in an archive. Its checksum is checked when the first of its bytes are read, if one is recorded."""

    source: Source
    name: str
    size: int
    start: int
    packed: int
    deflated: bool
    checksum: int
    checked: bool = False
    marks: dict[int, tuple[int, Any]] = field(default_factory=dict)

    def read(self, start: int, count: int) -> np.ndarray:
        """The bytes ``start`` to ``start + count`` in a writable array of their own.

        Raises:
            DamagedError: if the entry does not have its checksum or its size.
        """
        if self.deflated:
            self._check(self._inflated(0))
            return self._cut(start, count)
        if (start, count) == (0, self.size):
            content = self.source.read(self.start, count)
            self._check(iter([content]))
            return content
        self._check(self._stored())
        return self.source.read(self.start + start, count)

    def stream(self) -> Stream:
        """All bytes, for a reader that goes through them once."""
        return Stream(self, 0, self.size)

    def _check(self, pieces: Iterator[Any]) -> None:
        if not self.checked and (self.deflated or self.checksum):
            found = 0
            for piece in pieces:
                found = zlib.crc32(piece, found)
            if self.checksum not in (0, found):
                raise DamagedError(f"{shown(self.name)} does not have the checksum that is recorded for it")
        self.checked = True

    def _stored(self) -> Iterator[np.ndarray]:
        for start in range(0, self.size, PIECE):
            yield self.source.read(self.start + start, min(PIECE, self.size - start))

    def _cut(self, start: int, count: int) -> np.ndarray:
        """``count`` bytes of a deflated entry."""
        content, index, done = self.source.buffer(count), start // PIECE, 0
        skip = start - index * PIECE
        for piece in self._inflated(index) if count else ():
            part = piece[skip : skip + count - done]
            content[done : done + len(part)] = np.frombuffer(part, np.uint8)
            done, skip = done + len(part), 0
            if done == count:
                break
        return content

    def _inflated(self, index: int) -> Iterator[bytes]:
        """The pieces of a deflated entry from ``index`` on. ``marks`` keeps where each of them begins."""
        position, state = self.marks.setdefault(0, (self.start, zlib.decompressobj(-15)))
        position, state = self.marks[index]
        state = state.copy()
        for start in range(index * PIECE, self.size, PIECE):
            count = min(PIECE, self.size - start)
            piece, position = self._inflate(state, position, count)
            if len(piece) < count:
                raise DamagedError(f"{shown(self.name)} is shorter than its size of {self.size} bytes")
            self.marks.setdefault(start // PIECE + 1, (position, state.copy()))
            yield piece
        more, _ = self._inflate(state, position, 1)
        if more or not state.eof:
            raise DamagedError(f"{shown(self.name)} does not end after its size of {self.size} bytes")

    def _inflate(self, state: Any, position: int, count: int) -> tuple[bytes, int]:
        """The next ``count`` bytes, fewer at the end, and the position of the packed bytes behind them."""
        pieces = []
        while count:
            left = self.start + self.packed - position
            packed = self.source.read(position, min(left, 1 << 16)).tobytes()
            with damage(zlib.error):
                piece = state.decompress(packed, count)
            position += len(packed) - len(state.unconsumed_tail)
            if not piece and (state.eof or not packed):
                break
            pieces.append(piece)
            count -= len(piece)
        return b"".join(pieces), position


def read_archive(source: Source) -> dict[str, Entry]:
    """The entries of a zip archive by name. Their bytes are read later.

    Raises:
        DamagedError: if the archive contradicts itself, or is cut short.
        RefusedError: if an entry is encrypted, packed by another method than deflate, or far too large.
    """
    count, start, size = _end(source)
    if start + size > source.size or size < count * CENTRAL.size:
        raise DamagedError("the directory of the archive does not lie within the file")
    directory = source.read(start, size).tobytes()
    entries: dict[str, Entry] = {}
    extents = [(start, start + size, "the directory")]
    for header, raw_name, extra in _headers(directory, count):
        entry, begin = _entry(source, header, raw_name, extra=extra)
        if entry.name in entries:
            raise DamagedError(f"the archive has two entries of the name {shown(entry.name)}")
        entries[entry.name] = entry
        extents.append((begin, entry.start + entry.packed, entry.name))
    for before, after in pairwise(sorted(extents)):
        if after[0] < before[1]:
            raise DamagedError(f"{shown(before[2])} and {shown(after[2])} overlap in the archive")
    total = sum(entry.size for entry in entries.values() if entry.deflated)
    if total > BOMB_BYTES and total > BOMB_RATIO * source.size:
        raise RefusedError(f"expected an archive of a checkpoint, got {source.size} bytes that inflate to {total}")
    return entries


def _end(source: Source) -> tuple[int, int, int]:
    """The number of entries, and where the central directory starts and how long it is."""
    length = min(source.size, END.size + LONGEST_COMMENT)
    tail = source.read(source.size - length, length).tobytes()
    found = tail.rfind(b"PK\5\6", 0, max(0, length - END.size + 4))
    if found < 0:
        raise DamagedError("the zip archive has no end record")
    _, disk, first, here, count, size, start, _ = END.unpack_from(tail, found)
    large = _end_64(source, source.size - length + found)
    if large is not None:
        disk, first, here, count, size, start = large
    if here != count or (disk, first) not in ((0, 0), (1, 1)):
        raise RefusedError("expected a zip archive in one file, got a part of one that is in several files")
    return count, start, size


def _end_64(source: Source, end: int) -> tuple[int, ...] | None:
    """What the zip64 record says, whose locator lies before ``end``. None if the archive has none."""
    if end < LOCATOR.size + END_64.size:
        return None
    signature, _, position, _ = LOCATOR.unpack(source.read(end - LOCATOR.size, LOCATOR.size).data)
    if signature != b"PK\6\7":
        return None
    if position + END_64.size > source.size:
        raise DamagedError("the zip64 record of the archive lies outside the file")
    signature, _, _, _, *numbers = END_64.unpack(source.read(position, END_64.size).data)
    return tuple(numbers) if signature == b"PK\6\6" else None


def _headers(directory: bytes, count: int) -> Iterator[tuple[tuple, bytes, bytes]]:
    """The numbers, name and extra fields of each entry in the central directory."""
    position = 0
    for _ in range(count):
        if position + CENTRAL.size > len(directory):
            raise DamagedError("the directory of the archive is cut short")
        header = CENTRAL.unpack_from(directory, position)
        name, extra, comment = (int(n) for n in header[10:13])
        start, position = position + CENTRAL.size, position + CENTRAL.size + name + extra + comment
        if header[0] != b"PK\1\2" or position > len(directory):
            raise DamagedError("the directory of the archive is cut short, or bytes of it were changed")
        yield header, directory[start : start + name], directory[start + name : start + name + extra]


def _entry(source: Source, header: tuple, raw_name: bytes, extra: bytes) -> tuple[Entry, int]:
    """The entry that ``header`` of the central directory describes, and where its local header begins."""
    flags, method, checksum = header[3], header[4], header[7]
    name = raw_name.decode("utf-8", "surrogateescape")
    if flags & ENCRYPTED:
        raise RefusedError(f"expected a zip archive without a password, got {shown(name)} encrypted")
    if method not in (STORED, DEFLATED):
        known = METHODS.get(method, f"method {method}")
        raise RefusedError(f"expected a zip archive that is stored or deflated, got {shown(name)} packed by {known}")
    packed, size, begin = _sizes(header[8], header[9], header[16], extra=extra)
    if method == STORED and packed != size:
        raise DamagedError(f"{shown(name)} is stored, but its two sizes differ")
    start = _data_start(source, name, raw_name, begin=begin)
    if start + packed > source.size:
        raise DamagedError(f"{packed} bytes of {shown(name)} claimed, {max(0, source.size - start)} there")
    entry = Entry(source, name, size, start=start, packed=packed, deflated=method == DEFLATED, checksum=checksum)
    return entry, begin


def _sizes(packed: int, size: int, begin: int, extra: bytes) -> tuple[int, int, int]:
    """The three numbers, each replaced by that of the zip64 field if it is ``LARGE``."""
    numbers = {"size": size, "packed": packed, "begin": begin}
    position = 0
    while LARGE in numbers.values() and position + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, position)
        position += 4
        if kind == 1:
            large = struct.iter_unpack("<Q", extra[position : position + length // 8 * 8][: length // 8 * 8])
            for key in [key for key, number in numbers.items() if number == LARGE]:
                numbers[key] = next(large, (numbers[key],))[0]
            break
        position += length
    return numbers["packed"], numbers["size"], numbers["begin"]


def _data_start(source: Source, name: str, raw_name: bytes, begin: int) -> int:
    """Where the bytes of an entry start. Its local header must bear the same name as the central directory."""
    if begin + LOCAL.size + len(raw_name) > source.size:
        raise DamagedError(f"{shown(name)} begins behind the end of the file")
    raw = source.read(begin, LOCAL.size + len(raw_name)).tobytes()
    header = LOCAL.unpack_from(raw)
    if header[0] != b"PK\3\4":
        raise DamagedError(f"no header where {shown(name)} should begin")
    if header[9] != len(raw_name) or raw[LOCAL.size :] != raw_name:
        raise DamagedError(f"{shown(name)} has another name where its bytes begin")
    return begin + LOCAL.size + header[9] + header[10]
