"""What a command prints, and where. Nothing that a file or a user gives reaches the terminal unescaped."""

import json
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any, NoReturn

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from convert.errors import CheckpointError
from convert.mismatch import MismatchError
from convert.tensors import Lazy, as_numpy
from convert.writing.leaves import size

OUTSIDE, REFUSED, INTERRUPTED, CLOSED = 1, 2, 130, 141
"""Exit statuses: a difference is larger than the tolerance; the input cannot be used, or a bug; Ctrl-C; nobody reads
the output any more."""

LARGE = 50_000_000
"""A file of so many bytes gets a progress bar."""

FEW = 20
"""So many differences are listed without ``--all``."""

PADDED = 100
"""Columns of a table are not padded to more than this."""


def printable(text: str, encoding: str = "utf-8") -> str:
    """``text`` on one line: characters that steer a terminal, or that ``encoding`` lacks, as escapes such as \\x1b."""
    if not text.isprintable():
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text.encode(encoding, "backslashreplace").decode(encoding)


def printable_lines(text: str, encoding: str = "utf-8") -> str:
    """``text`` with each of its lines ``printable``."""
    return "\n".join(printable(line, encoding) for line in text.split("\n"))


class SafeConsole(Console):
    """A console that prints text as it is: square brackets are no markup, and nothing steers the terminal."""

    def __init__(self, **options: Any):
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    def print(self, *objects: Any, **options: Any) -> None:
        """What ``Console.print`` does, with every string ``printable``, line by line."""
        super().print(
            *(printable_lines(each, self.encoding) if isinstance(each, str) else each for each in objects), **options
        )

    def on_broken_pipe(self) -> NoReturn:
        """End without a word when nobody reads the output any more, as ``head`` does after its last line."""
        self.quiet = True
        raise BrokenPipeError


class Terminal:
    """Prints results to standard output and progress to standard error; ``quiet`` leaves out progress and summaries."""

    def __init__(self, quiet: bool):
        self.quiet = quiet
        self.out = SafeConsole()
        if not self.out.is_terminal:
            self.out = SafeConsole(width=200)

    def progress(self, what: str) -> AbstractContextManager:
        """Show ``what`` with a spinner until the ``with`` block ends."""
        if self.quiet:
            return nullcontext()
        console = SafeConsole(stderr=True)
        spinner = "dots" if console.encoding.startswith("utf") else "line"
        return console.status(Text(printable(what, console.encoding)), spinner=spinner)

    def say(self, text: str, style: str | None = None) -> None:
        """Print a line of a summary, which ``--quiet`` leaves out."""
        if not self.quiet:
            self.out.print(text, style=style, soft_wrap=True)

    def table(self, rows: Iterable[Sequence[str]]) -> None:
        """Print rows with aligned columns. Nothing in them is cut or wrapped."""
        cells = [[printable(cell, self.out.encoding) for cell in row] for row in rows]
        columns = zip(*cells, strict=True)
        widths = [max(min(len(cell), PADDED) for cell in column) for column in columns]
        lines = ("  ".join(f"{cell:{n}}" for cell, n in zip(row, widths, strict=True)).rstrip() for row in cells)
        self.out.print("\n".join(lines), soft_wrap=True)

    def json(self, value: Mapping[str, Any]) -> None:
        """Print ``value`` as one JSON object on one line of standard output."""
        self.out.print(json.dumps(value), soft_wrap=True)

    @contextmanager
    def steps(self, what: str, leaves: Mapping[Any, Any]) -> Iterator[dict[Any, Any]]:
        """The same leaves, but each moves a progress bar when it is made, until the ``with`` block ends.

        The bar counts the tensors. It is shown on a terminal, if all leaves together have more than 50 MB.
        Keys that have the same leaf still have the same one.
        """
        total, console = sum(map(size, leaves.values())), SafeConsole(stderr=True)
        if self.quiet or total < LARGE or not console.is_terminal:
            yield dict(leaves)
            return
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(printable(what, console.encoding), total=len(leaves))

            def watched(leaf: Any) -> Lazy:
                def make() -> Any:
                    array = as_numpy(leaf)
                    bar.advance(task)
                    return array

                return Lazy(tuple(leaf.shape), leaf.dtype, make)

            distinct = {id(leaf): watched(leaf) for leaf in leaves.values()}
            yield {key: distinct[id(leaf)] for key, leaf in leaves.items()}
            bar.update(task, completed=len(leaves))


def ended(command: Callable[[], int], every: bool = False) -> int:
    """Run ``command``, and return its exit status, or that of its failure, of which standard error tells.

    Args:
        every: list every difference in place of the first ``FEW``.
    """
    try:
        status = command()
        if sys.stdout is not None:
            sys.stdout.flush()
        return status
    except BrokenPipeError:
        _abandon(sys.stdout)
        return CLOSED
    except KeyboardInterrupt:
        complain("interrupted")
        return INTERRUPTED
    except MemoryError:
        complain("there is not enough memory for this file")
    except (ValueError, OSError) as error:
        complain(told(error, every))
    except Exception:
        complain(f"this is a bug, please report it\n{traceback.format_exc()}")
    return REFUSED


def told(error: Exception, every: bool = False) -> str:
    """The message of ``error``, with at most ``FEW`` differences if not ``every`` one is asked for."""
    if isinstance(error, MismatchError) and not every and len(error.problems) > FEW:
        return f"{error.text(FEW)}: --all shows them"
    return printable(str(error)) if isinstance(error, CheckpointError) else str(error)


def complain(text: str) -> None:
    """Print what went wrong to standard error."""
    with suppress(OSError):
        if sys.stderr is not None:
            print(printable_lines(f"flax-attn-convert: {text}", sys.stderr.encoding or "ascii"), file=sys.stderr)


def _abandon(stream: Any) -> None:
    """Send what is left in ``stream`` to nowhere, so that Python does not complain at its end."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
