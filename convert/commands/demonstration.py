"""The command ``demo``: converts the checkpoint that is part of this package."""

import argparse
from pathlib import Path

from convert import demo
from convert.commands.terminal import OUTSIDE, Terminal
from convert.writing.targets import check_target


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the options of ``demo``."""
    picture = Path("flax_attn_demo.png")
    shown = "the picture of the attention maps to write (default: %(default)s)"
    command.add_argument("--out", type=Path, default=picture, help=shown)


def run(options: argparse.Namespace, terminal: Terminal) -> int:
    """Convert the checkpoint that is part of this package, and compare the result with PyTorch's logits."""
    check_target(options.out)
    with terminal.progress("converting and running DigitsNet"):
        result = demo.run()
        demo.picture(result, options.out)
    right = round(result.accuracy * len(result.labels))
    terminal.out.print("DigitsNet: a PyTorch checkpoint, converted without PyTorch", soft_wrap=True)
    terminal.out.print(
        f"largest difference from PyTorch's logits: {result.difference:.1e}, {'ok' if result.within else 'OUTSIDE'}"
    )
    terminal.out.print(f"held-out digits: {right} of {len(result.labels)} right, {result.accuracy:.2%}")
    terminal.out.print(f"attention maps: {options.out}", soft_wrap=True)
    return 0 if result.within else OUTSIDE
