"""The options that several commands have."""

import argparse
import ast
from pathlib import Path
from typing import Any

from convert.dialects import AUTO, DIALECTS, NATIVE
from convert.files.hub import is_remote
from flax_attn.names import close_names


def add_file(command: argparse.ArgumentParser, required: bool = True) -> None:
    """Add the checkpoint file to a command, and the options that say where in it the state dict is."""
    count = None if required else "?"
    kinds = "a file of torch.save or safetensors, a folder with one, an index of shards, or hf://owner/name"
    command.add_argument("file", type=checkpoint_path, nargs=count, help=f"the checkpoint: {kinds}")
    command.add_argument("--wrapper", help="the key, or keys joined by dots, under which the file has the state dict")
    command.add_argument(
        "--prefix", help="read only the keys below this prefix, such as model., and remove it from them"
    )
    strict = "refuse a file whose pickle names a class or function that no state dict needs"
    command.add_argument("--strict-pickle", action="store_true", help=strict)


def checkpoint_path(text: str) -> str | Path:
    """A path, or an address on the Hugging Face Hub, of which a path would drop a slash."""
    return text if is_remote(text) else Path(text)


def add_model(command: argparse.ArgumentParser, required: bool) -> None:
    """Add the options that say which model the file is for."""
    default = "" if required else " (default: the one published network that the file fits)"
    command.add_argument("--model", required=required, help=f"the model, by its name in the list of `models`{default}")
    command.add_argument(
        "--dialect",
        type=dialect_name,
        default=AUTO,
        metavar="NAME",
        help=f"the code whose names the keys are: {AUTO} (the default) finds it out from the keys, {NATIVE} stands for "
        f"the names that this package uses; one of {', '.join(dialect_names())}",
    )
    add_arguments(command)
    command.add_argument("--all", action="store_true", help="where the file does not fit, list every difference")


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the arguments of the model to a command."""
    about = "an argument of the model, as `models` lists it; may be given several times"
    command.add_argument("--arg", type=key_value, action="append", default=[], metavar="NAME=VALUE", help=about)


def add_inputs(command: argparse.ArgumentParser, when: str) -> None:
    """Add the shapes of the inputs to a command that needs them ``when`` the catalog does not tell."""
    about = f"{when}: the shape of an input, channels last, such as 2,33,29,3; 2,7:10 stands for integers below 10"
    shown = f"{about}; may be given several times"
    command.add_argument("--input", type=input_shape, action="append", default=[], metavar="SHAPE", help=shown)


def dialect_names() -> list[str]:
    """What ``--dialect`` may be."""
    return [AUTO, NATIVE, *(dialect.name for dialect in DIALECTS)]


def dialect_name(text: str) -> str:
    """``text`` if it is one of ``dialect_names``; an error with near ones if not."""
    if text not in (known := dialect_names()):
        close = close_names(text, known) or f"; there are {', '.join(known)}"
        raise argparse.ArgumentTypeError(f"no dialect is called {text!r}{close}")
    return text


def seed(text: str) -> int:
    """The seed of random numbers, as numpy and JAX both take it."""
    if not (text.isascii() and text.isdecimal()) or int(text[:20]) >= 2**32:
        raise argparse.ArgumentTypeError(f"expected an integer from 0 to {2**32 - 1}, got {text!r}")
    return int(text)


def key_value(text: str) -> tuple[str, Any]:
    """``planes=64`` -> ("planes", 64). A value that is no Python literal stays a string."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"expected name=value, got {text!r}")
    try:
        return key, ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return key, value


def input_shape(text: str) -> tuple[tuple[int, ...], int]:
    """``2,33,29,3`` -> ((2, 33, 29, 3), 0): floats. ``2,7:10`` -> ((2, 7), 10): integers below 10."""
    shape, colon, below = text.partition(":")
    try:
        sizes, limit = tuple(int(size) for size in shape.split(",")), int(below) if colon else 0
    except ValueError:
        sizes, limit = (), -1
    if not sizes or min(sizes) < 1 or (colon and limit < 1):
        raise argparse.ArgumentTypeError(f"expected a shape such as 2,33,29,3, or 2,7:10 for integers, got {text!r}")
    return sizes, limit
