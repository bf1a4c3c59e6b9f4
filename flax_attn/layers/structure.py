"""Traces of a module that show its structure: the paths, shapes and dtypes of its leaves, but no initial values.

To trace the random numbers of all initial values takes as long as to trace half of a network."""

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from flax.linen import initializers


@dataclass
class Trace(threading.local):
    """How many traces of this thread are for the structure alone."""

    depth: int = 0


TRACE = Trace()

SHAPED = {"flax_attn.layers.init", initializers.zeros.__module__, initializers.normal.__module__}
"""The files of the initializers that are known to give what they are asked for: an array of this shape and dtype."""


@contextmanager
def structure_alone() -> Iterator[None]:
    """Leave out the initial values of the modules that are traced inside: their parameters are zeros there."""
    TRACE.depth += 1
    try:
        yield
    finally:
        TRACE.depth -= 1


def left_out(initializer: Any) -> bool:
    """Whether the values of ``initializer`` are left out: ``structure_alone`` holds, and the shape is known."""
    return TRACE.depth > 0 and getattr(initializer, "__module__", None) in SHAPED


@contextmanager
def uncollected() -> Iterator[None]:
    """Make no search for garbage inside. A trace makes many objects that live on, which are searched in vain."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
