"""The list of the models and the published networks, as ``flax-attn-convert models [WORD]`` prints it."""

import argparse
import re
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from inspect import Parameter
from typing import Any

from convert.commands.terminal import Terminal
from flax_attn.catalog import CATALOG, PUBLISHED, arguments, close_names, paper, second_names
from flax_attn.layers import Module

WIDTH, COLUMN = 100, 25
FEW = 12
"""Up to so many models are listed with their arguments, their paper and their published files."""


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the options of ``models``."""
    filtering = "list only models with WORD in their name, a file or the title of the paper; * is a wildcard"
    command.add_argument("word", nargs="?", default="", metavar="WORD", help=filtering)


def run(options: argparse.Namespace, terminal: Terminal) -> int:
    """List the models and the published networks that a checkpoint can be converted for."""
    for line in listing(options.word):
        terminal.out.print(line, soft_wrap=True)
    return 0


@dataclass(frozen=True)
class Item:
    """A model of the list.

    Args:
        second: the class of the same name as this constructor.
    """

    name: str
    make: Callable[..., Module]
    second: str = ""
    files: tuple[str, ...] = ()
    assumed: str = ""

    @property
    def about(self) -> str:
        """The first sentence about the model."""
        first = " ".join((self.make.__doc__ or "").partition("\n\n")[0].split()).replace("``", "")
        return f"(class {self.second}) {first}" if self.second else first

    def matches(self, word: str) -> bool:
        """Whether ``word`` is in a name or in a file, or is a word of the paper's title; * and ? are wildcards."""
        names = [name.lower() for name in (self.name, self.second, *self.files)]
        if re.search(r"[*?]", word):
            return any(fnmatchcase(name, word.lower()) for name in names)
        title = re.findall(r"\w+", paper(self.make.__module__)[0].lower())
        return word.lower() in title or any(word.lower() in name for name in names)

    def details(self) -> list[str]:
        """Lines that tell the arguments, the paper, the published files, and what no file tells."""
        title, source = paper(self.make.__module__)
        told = {
            "arguments": signature(self.make) or "none",
            "paper": f"{title}, {source}" if source else "",
            "files": ", ".join(self.files),
            "assumed": self.assumed,
        }
        return [line for label, text in told.items() if text for line in indented(f"{label}: {text}")]


def items() -> list[Item]:
    """All models: the classes of the catalog, then the constructors of the published networks."""
    second = second_names()
    names = {name: cls for cls, name in second.items()}
    classes = {entry.cls.__name__: entry.cls for entry in CATALOG}
    found = [Item(name, cls) for name, cls in classes.items() if name not in second]
    return found + [Item(e.name, e.cls, names.get(e.name, ""), files=e.files, assumed=e.assumed) for e in PUBLISHED]


def listing(word: str = "") -> list[str]:
    """A line for each model that ``word`` matches, and more lines if there are few. ValueError if there is none."""
    chosen = [item for item in items() if item.matches(word)]
    if not chosen:
        close = close_names(word, [item.name for item in items()])
        raise ValueError(f"no model matches {word!r}{close}; `flax-attn-convert models` lists them all")
    width = min(COLUMN, max(len(item.name) for item in chosen))
    lines = []
    for item in chosen:
        name = f"{item.name:{width}}  "
        lines.append(name + textwrap.shorten(item.about, WIDTH - len(name), placeholder=" ..."))
        lines += item.details() if len(chosen) <= FEW else []
    return lines


def indented(text: str) -> list[str]:
    """The text in lines of at most ``WIDTH`` columns, each but the first indented twice."""
    return textwrap.wrap(text, WIDTH, initial_indent=" " * 4, subsequent_indent=" " * 8, break_on_hyphens=False)


def signature(make: Callable[..., Module]) -> str:
    """The arguments of ``make``, with their defaults."""
    shown = [(p.name, p.default) for p in arguments(make).values()]
    return ", ".join(name if default is Parameter.empty else f"{name}={spelled(default)}" for name, default in shown)


def spelled(value: Any) -> str:
    """A value as it is written in Python; a class by its name."""
    return value.__name__ if isinstance(value, type) else repr(value)
