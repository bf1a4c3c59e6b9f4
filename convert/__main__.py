"""The command line, ``flax-attn-convert`` or ``python -m convert``."""

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version

from convert.commands import converting, demonstration, inspecting, listing, verifying
from convert.commands.terminal import REFUSED, Terminal

COMMANDS = {
    "inspect": inspecting,
    "models": listing,
    "convert": converting,
    "verify": verifying,
    "demo": demonstration,
}


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    about = "Convert PyTorch checkpoints into Flax variables, without PyTorch."
    top = argparse.ArgumentParser(prog="flax-attn-convert", description=about)
    top.add_argument("--version", action="version", version=version("flax_attn"))
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        command = commands.add_parser(name, help=module.run.__doc__, description=module.run.__doc__)
        command.add_argument("--quiet", action="store_true", help="print no progress and no summary")
        command.set_defaults(run=module.run)
        module.add_options(command)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns 0, or 1 if a difference exceeds the tolerance, or 2 if the input cannot be used."""
    options = parser().parse_args(arguments)
    try:
        return options.run(options, Terminal(options.quiet))
    except (ValueError, OSError) as error:
        print(f"flax-attn-convert: {error}", file=sys.stderr)
        return REFUSED


if __name__ == "__main__":
    sys.exit(main())
