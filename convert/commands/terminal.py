"""What a command prints, and where."""

from contextlib import AbstractContextManager, nullcontext

from rich.console import Console

OUTSIDE, REFUSED = 1, 2
"""Exit statuses: a difference is larger than the tolerance; the input cannot be used."""


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
