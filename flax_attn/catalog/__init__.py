"""The one list of every public class, and of every published network. The tests, the benchmark, the command line and
the pages in ``docs/`` walk it."""

import inspect
import sys
from collections.abc import Callable

from flax_attn.catalog.blocks import BLOCKS
from flax_attn.catalog.entry import IMAGE, PLAIN, Entry, Make, Published, channels_first, channels_last
from flax_attn.catalog.models import MODELS
from flax_attn.catalog.published import PUBLISHED, preprocess_of
from flax_attn.constructor import LINEN_ONLY, PRECISION
from flax_attn.layers import Module
from flax_attn.names import close_names as close_names

CATALOG = BLOCKS + MODELS

FLAX_ONLY = {*LINEN_ONLY, *PRECISION, "mesh_axis", "line_block", "query_block", "scale_init", "kernel_init"}
"""Arguments that a twin does not have: where and in which precision a module runs, and initialisers handed down."""


def find_entries(name: str) -> list[Entry]:
    """The entries of the class or constructor called ``name``. ValueError if there is none."""
    entries = [entry for entry in CATALOG + PUBLISHED if entry.cls.__name__ == name]
    if not entries:
        close = close_names(name, [entry.cls.__name__ for entry in CATALOG + PUBLISHED])
        raise ValueError(f"no model is called {name!r}{close}; `flax-attn-convert models` lists them")
    return entries


def second_names() -> dict[str, str]:
    """The classes that have one constructor of their own name: "NonLocalNet" to "non_local_net"."""
    classes = {entry.cls.__name__.lower(): entry.cls.__name__ for entry in CATALOG}
    plain = {entry.name: entry.name.replace("_", "") for entry in PUBLISHED}
    return {classes[lower]: name for name, lower in plain.items() if lower in classes}


def arguments(cls: Callable[..., Module]) -> dict[str, inspect.Parameter]:
    """The arguments of ``cls`` that say which network it is: all but its precision and linen's own arguments."""
    return {name: p for name, p in inspect.signature(cls).parameters.items() if name not in FLAX_ONLY}


def paper(module: str) -> tuple[str, str]:
    """What line 1 of a module's docstring cites: the title; authors, year and address."""
    title, _, source = (sys.modules[module].__doc__ or "").partition("\n")[0].partition(" - ")
    return title, source
