"""Puts a new file or folder in the place of an old one as a whole: a reader finds the old one or the new one.

It is first written beside its target, under a name such as ``.net.pth.flax_attn-712-0f3a9c5e7b1d2846.tmp``. The process
holds a lock (flock) on it, which ends with the process. What a killed process left behind has no lock any more, so the
next process that writes to the same target removes it.
"""

import hashlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

from convert.errors import RefusedError, name_file

LOCKS: Any = import_module("fcntl") if os.name == "posix" else None

KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
)
"""What can be at a path and is no file that could be replaced."""

LONG = 180
"""A target whose name has more bytes is called by a hash in the names beside it, because a name has at most 255."""


def check_target(path: str | os.PathLike, source: str | os.PathLike | None = None, folder: bool = False) -> None:
    """Refuse a ``path`` to which nothing can be written, before anything is read.

    Args:
        source: a file, or a folder of files, that is read; the target must be none of these.
        folder: whether a folder will be written. Then nothing may be at ``path``.

    Raises:
        CheckpointError: if a folder, device, pipe or socket is there, or a file that must not be written; if there is
            no folder to write to; if the target is the source, by whatever path or link.
    """
    with name_file(path, "could not be written"):
        if folder:
            _old_folder(path)
        elif _old_file(path) and any(_same(path, file) for file in _files(source)):
            raise RefusedError("could not be written: expected another file than those to read, got one of them")


@contextmanager
def replaced(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """A new file, open for writing in binary mode. If the ``with`` block succeeds, it replaces the file at ``path``.

    If the block fails, the old file stays, and the new one is removed. The new file gets the mode of the old one, and
    its owner where that is allowed. A symbolic link stays, and the file behind it is replaced.

    Raises:
        CheckpointError: for any failure of the system, and where ``check_target`` raises it.
    """
    with name_file(path, "could not be written"):
        old = _old_file(path)
        target = Path(os.path.realpath(path))
        with _temporary(target, folder=False) as temporary, open(temporary, "r+b") as file:
            _set_mode(temporary, old)
            yield file
            file.flush()
            os.fsync(file.fileno())
            if LOCKS is None:
                file.close()
            os.replace(temporary, target)
        _sync(target.parent)


@contextmanager
def new_folder(path: str | os.PathLike) -> Iterator[Path]:
    """The path of a folder to make. If the ``with`` block succeeds, what it made is moved to ``path``, else removed.

    Raises:
        CheckpointError: for any failure of the system, and if anything is at ``path`` already.
    """
    with name_file(path, "could not be written"):
        _old_folder(path)
        target = Path(os.path.realpath(path))
        with _temporary(target, folder=True) as temporary:
            yield temporary / target.name
            for folder, _, files in os.walk(temporary / target.name):
                for file in files:
                    _sync(Path(folder, file))
                _sync(Path(folder))
            _old_folder(path)
            os.rename(temporary / target.name, target)
        _sync(target.parent)


def _old_file(path: str | os.PathLike) -> os.stat_result | None:
    """The status of the file at ``path``; None if there is none, but a folder to make it in."""
    try:
        old = os.stat(path)
    except FileNotFoundError:
        _check_folder(path)
        return None
    kinds = [kind for is_such, kind in KINDS if is_such(old.st_mode)]
    if kinds or not stat.S_ISREG(old.st_mode):
        raise RefusedError(f"could not be written: expected a file or a new name, got {', '.join(kinds) or 'neither'}")
    if not os.access(path, os.W_OK):
        raise RefusedError("could not be written: expected a file that may be changed, got one that is read-only")
    return old


def _old_folder(path: str | os.PathLike) -> None:
    if os.path.lexists(path):
        raise RefusedError("could not be written: expected a new name for a folder, got one that exists")
    _check_folder(path)


def _check_folder(path: str | os.PathLike) -> None:
    folder = Path(os.path.realpath(path)).parent
    if not folder.is_dir():
        raise RefusedError(f"could not be written: expected an existing folder, there is none at {folder}")


def _files(source: str | os.PathLike | None) -> list[Path]:
    """The files that are read with ``source``: itself, those of a folder, and those beside an index of several."""
    if source is None:
        return []
    path = Path(source)
    folder = path if path.is_dir() else path.parent if path.name.endswith(".index.json") else None
    return list(folder.iterdir()) if folder and folder.is_dir() else [path]


def _same(path: str | os.PathLike, file: Path) -> bool:
    with suppress(OSError):
        return os.path.samefile(path, file)
    return False


def _set_mode(temporary: Path, old: os.stat_result | None) -> None:
    """Give the new file the owner and the mode of the old one, or the mode of any new file."""
    if old is None or os.name != "posix":
        return
    with suppress(OSError):
        os.chown(temporary, old.st_uid, old.st_gid)
    os.chmod(temporary, old.st_mode & 0o777)


@contextmanager
def _temporary(target: Path, folder: bool) -> Iterator[Path]:
    """A new file or folder beside ``target``, with a lock. It is removed in the end if it is still there."""
    _remove_stale(target)
    mode = 0o600 if target.exists() else 0o666
    while True:
        temporary = target.with_name(f"{_beginning(target)}{os.getpid()}-{secrets.token_hex(8)}.tmp")
        descriptor = -1
        try:
            if folder:
                temporary.mkdir()
            else:
                os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode))
            descriptor = os.open(temporary, os.O_RDONLY) if LOCKS else -1
            if _locked(descriptor, wait=True) and temporary.exists():
                yield temporary
                return
        finally:
            _remove(temporary)
            if descriptor >= 0:
                os.close(descriptor)


def _beginning(target: Path) -> str:
    """What the names of the temporary files for ``target`` begin with."""
    name = os.fsencode(target.name)
    short = target.name if len(name) <= LONG else hashlib.sha256(name).hexdigest()
    return f".{short}.flax_attn-"


def _remove_stale(target: Path) -> None:
    """Remove the temporary files and folders for ``target`` that processes left which are gone."""
    ours = re.compile(re.escape(_beginning(target)) + r"\d+-[0-9a-f]{16}\.tmp")
    with suppress(OSError):
        for entry in list(os.scandir(target.parent)):
            plain = entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False)
            if ours.fullmatch(entry.name) and plain:
                _remove_unlocked(Path(entry.path))


def _remove_unlocked(path: Path) -> None:
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            if _locked(descriptor, wait=False):
                _remove(path)
        finally:
            os.close(descriptor)


def _locked(descriptor: int, wait: bool) -> bool:
    """Lock a file. A new one can be used without a lock where there are none; an old one cannot be judged then."""
    try:
        LOCKS.flock(descriptor, LOCKS.LOCK_EX | (0 if wait else LOCKS.LOCK_NB))
    except (OSError, AttributeError):
        return wait
    return True


def _remove(path: Path) -> None:
    with suppress(OSError):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _sync(path: Path) -> None:
    """Have the system write a file, or the names in a folder, to the disk. Some systems cannot do that to folders."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
