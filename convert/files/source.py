"""An open file that is read in pieces. It is not mapped: a file that shrinks is an error, and no crash."""

import io
import os
import stat
import time
import weakref
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from convert.errors import CheckpointError, RefusedError, name_file

PIECE = 1 << 20
"""How many bytes are read at a time where nothing else decides."""

FLAGS = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
TICK_NS = 10_000_000
"""Systems tell the time of a change only to so many nanoseconds."""


class Readable(Protocol):
    """Bytes that can be read from any place: of a file, of a part of one, or of an entry of an archive."""

    @property
    def size(self) -> int:
        """How many bytes there are."""

    def read(self, start: int, count: int) -> np.ndarray:
        """The bytes ``start`` to ``start + count`` in an array of their own."""


class Source:
    """A file that is open for reading, for as long as anything refers to it. It must not change in that time.

    A file that is replaced by another one of the same name stays readable.

    Args:
        path: a regular file.

    Raises:
        RefusedError: if ``path`` is a folder, a device or a pipe.
        OSError: if there is no such file, or it may not be read.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self._descriptor = os.open(self.path, FLAGS)
        weakref.finalize(self, os.close, self._descriptor).atexit = False
        about = os.fstat(self._descriptor)
        if not stat.S_ISREG(about.st_mode):
            kind = "folder" if stat.S_ISDIR(about.st_mode) else "device or pipe"
            raise RefusedError(f"expected a file, got a {kind}")
        if 0 <= time.time_ns() - about.st_mtime_ns < TICK_NS:
            time.sleep(TICK_NS / 1e9)
        self._state = self._now()
        self.size = self._state[0]

    def _now(self) -> tuple[int, int, int]:
        about = os.fstat(self._descriptor)
        return about.st_size, about.st_mtime_ns, about.st_ino

    def read(self, start: int, count: int) -> np.ndarray:
        """The bytes ``start`` to ``start + count``, which must be in the file, in a writable array of their own.

        Raises:
            CheckpointError: if the file changed since it was opened, cannot be read, or does not fit into memory.
        """
        buffer = self.buffer(count)
        with name_file(self.path, "could not be read"):
            complete = _fill(self._descriptor, buffer.data, start)
            if not complete or self._now() != self._state:
                raise RefusedError("the file changed while it was read; read it again when nothing writes to it")
        return buffer

    def buffer(self, count: int) -> np.ndarray:
        """An array for ``count`` bytes. CheckpointError if the memory is too small for it."""
        try:
            return np.empty(count, np.uint8)
        except MemoryError:
            raise CheckpointError(f"{self.path}: expected arrays that fit into memory, got {count} bytes") from None

    def stream(self, start: int = 0, stop: int | None = None) -> "Stream":
        """The bytes ``start`` to ``stop`` for a reader that goes through them once."""
        return Stream(self, start, self.size if stop is None else stop)


def _fill(descriptor: int, view: memoryview, start: int) -> bool:
    """Read the bytes from ``start`` on into ``view``. False if the file ends before."""
    done = 0
    while done < len(view):
        if hasattr(os, "preadv"):
            count = os.preadv(descriptor, [view[done:]], start + done)
        else:
            os.lseek(descriptor, start + done, os.SEEK_SET)
            piece = os.read(descriptor, min(PIECE, len(view) - done))
            count = len(piece)
            view[done : done + count] = piece
        if not count:
            return False
        done += count
    return True


class Part:
    """The bytes ``start`` to ``start + size`` of a file."""

    def __init__(self, source: Source, start: int, size: int):
        self.source, self.start, self.size = source, start, size

    def read(self, start: int, count: int) -> np.ndarray:
        """The bytes ``start`` to ``start + count`` of the part."""
        return self.source.read(self.start + start, count)


class _Window(io.RawIOBase):
    """What ``Stream`` fills its buffer from."""

    def __init__(self, readable: Readable, start: int, stop: int):
        self.readable_bytes, self.position, self.stop = readable, start, stop

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def readinto(self, buffer: Any) -> int:
        count = min(len(buffer), self.stop - self.position)
        if count:
            buffer[:count] = self.readable_bytes.read(self.position, count).data
        self.position += count
        return count


class Stream(io.BufferedReader):
    """The bytes ``start`` to ``stop`` of ``readable`` as a file, for ``pickletools``: read, readline, tell.

    To read more bytes than there are costs no memory.
    """

    def __init__(self, readable: Readable, start: int, stop: int):
        self._stop = stop
        super().__init__(_Window(readable, start, stop), max(1, min(stop - start, PIECE)))

    def read(self, size: int | None = -1, /) -> bytes:
        """The next ``size`` bytes, or fewer at the end."""
        if size is None or not 0 <= size <= PIECE:
            left = self._stop - self.tell()
            size = left if size is None or size < 0 else min(size, left)
        return super().read(size)
