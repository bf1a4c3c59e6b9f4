"""What a command prints, and where."""

import json
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from convert.tensors import Lazy, as_numpy
from convert.writing.leaves import size

OUTSIDE, REFUSED = 1, 2
"""Exit statuses: a difference is larger than the tolerance; the input cannot be used."""

LARGE = 50_000_000
"""A file of so many bytes gets a progress bar."""


class Terminal:
    """Prints results to standard output and progress to standard error; ``quiet`` leaves out progress and summaries."""

    def __init__(self, quiet: bool):
        self.quiet = quiet
        self.out = Console(highlight=False)
        if not self.out.is_terminal:
            self.out = Console(highlight=False, width=200)

    def progress(self, what: str) -> AbstractContextManager:
        """Show ``what`` with a spinner until the ``with`` block ends."""
        return nullcontext() if self.quiet else Console(stderr=True).status(what)

    def say(self, text: str) -> None:
        """Print a line of a summary, which ``--quiet`` leaves out."""
        if not self.quiet:
            self.out.print(text, soft_wrap=True)

    def json(self, value: Mapping[str, Any]) -> None:
        """Print ``value`` as one JSON object on one line of standard output."""
        print(json.dumps(value))

    @contextmanager
    def steps(self, what: str, leaves: Mapping[Any, Any]) -> Iterator[dict[Any, Any]]:
        """The same leaves, but each moves a progress bar when it is made, until the ``with`` block ends.

        The bar counts the tensors. It is shown on a terminal, if all leaves together have more than 50 MB.
        Keys that have the same leaf still have the same one.
        """
        total, console = sum(map(size, leaves.values())), Console(stderr=True)
        if self.quiet or total < LARGE or not console.is_terminal:
            yield dict(leaves)
            return
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(escape(what), total=len(leaves))

            def watched(leaf: Any) -> Lazy:
                def make() -> Any:
                    array = as_numpy(leaf)
                    bar.advance(task)
                    return array

                return Lazy(tuple(leaf.shape), leaf.dtype, make)

            distinct = {id(leaf): watched(leaf) for leaf in leaves.values()}
            yield {key: distinct[id(leaf)] for key, leaf in leaves.items()}
            bar.update(task, completed=len(leaves))
