"""The command line, ``flax-attn-convert`` or ``python -m convert``."""

import argparse
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import version
from typing import Any

from convert.commands.terminal import Terminal, ended

COMMANDS = {
    "inspect": "inspecting",
    "models": "listing",
    "convert": "converting",
    "export": "exporting",
    "verify": "verifying",
    "demo": "demonstration",
}
"""The file in ``convert.commands`` of each command."""


def parser(only: str = "") -> argparse.ArgumentParser:
    """The commands and their options.

    Args:
        only: the command that will be parsed. The files of the other commands are not imported then, and their options
            are missing. By default, all commands are complete.
    """
    about = "Convert PyTorch checkpoints into Flax variables, without PyTorch."
    top = argparse.ArgumentParser(prog="flax-attn-convert", description=about)
    top.add_argument("--version", action="version", version=version("flax_attn"))
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    for name, file in COMMANDS.items():
        if only in COMMANDS and name != only:
            commands.add_parser(name)
            continue
        module = import_module(f"convert.commands.{file}")
        command = commands.add_parser(name, help=module.run.__doc__, description=module.run.__doc__)
        command.add_argument("--quiet", action="store_true", help="print no progress and no summary")
        command.set_defaults(run=module.run)
        module.add_options(command)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns 0, or 1 if a difference exceeds the tolerance, or 2 if the input cannot be used."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    options = parser(given[0] if given else "").parse_args(given)
    with ended_by_signals(arguments is None):
        return ended(lambda: options.run(options, Terminal(options.quiet)), getattr(options, "all", False))


@contextmanager
def ended_by_signals(main_program: bool) -> Iterator[None]:
    """SIGTERM and SIGHUP end the main program with exit status 143 or 129, after temporary files are removed."""
    names = ("SIGTERM", "SIGHUP") if main_program and threading.current_thread() is threading.main_thread() else ()
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    caught = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]

    def end(number: int, frame: Any) -> None:
        for other in caught:
            signal.signal(other, signal.SIG_IGN)
        raise SystemExit(128 + number)

    for number in caught:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in caught:
            signal.signal(number, signal.SIG_DFL)


if __name__ == "__main__":
    sys.exit(main())
