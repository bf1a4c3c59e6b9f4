"""What can be wrong with a file: each error is one sentence that says what was expected and what was found."""

from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike


class CheckpointError(ValueError):
    """A file could not be read or written. One sentence names the file, what was expected and what was found."""


class RefusedError(ValueError):
    """The content of a file is not what was expected. The message does not name the file: ``name_file`` adds it."""


class DamagedError(RefusedError):
    """The file is cut short, or bytes of it were changed; ``found`` says where that shows."""

    def __init__(self, found: str):
        super().__init__(f"expected a complete file, got a damaged one: {shown(' '.join(found.split()))}")


def shown(text: str) -> str:
    """``text`` from a file, made fit for a message: printable, and at most 80 characters long."""
    return ascii(text[:80])[1:-1] + "..." * (len(text) > 80)


@contextmanager
def damage(*classes: type[Exception]) -> Iterator[None]:
    """Turn exceptions of ``classes`` into a DamagedError.

    For a few lines that call a parser of another library on the bytes of a file. An exception of any other class is
    a bug, and stays what it is. So does a CheckpointError or RefusedError, which already says what is wrong.
    """
    try:
        yield
    except classes as error:
        if isinstance(error, CheckpointError | RefusedError):
            raise
        raise DamagedError(f"{type(error).__name__} {error}") from error


@contextmanager
def name_file(path: str | PathLike, failed: str) -> Iterator[None]:
    """Turn a RefusedError or an OSError into a CheckpointError that names the file.

    Args:
        failed: what an OSError means for the file: "could not be read".
    """
    try:
        yield
    except RefusedError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except OSError as error:
        reason = error.strerror or f"{type(error).__name__} {error}"
        raise CheckpointError(f"{path}: {failed}: {shown(' '.join(reason.split()))}") from error
