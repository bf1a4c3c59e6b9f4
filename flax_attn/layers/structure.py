"""Traces of a module that show its structure: the paths, shapes and dtypes of its leaves, but no initial values.

To trace the random numbers of all initial values can take as long as to trace half of a network."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
from flax.linen import initializers

STRUCTURE: Any = jax.make_user_context(False)
"""Whether initial values are left out. JAX keeps what it traces with another value of a context apart."""

SHAPED = {"flax_attn.layers.init", initializers.zeros.__module__, initializers.normal.__module__}
"""The files of the initializers that are known to give what they are asked for: an array of this shape and dtype."""


@contextmanager
def structure_alone() -> Iterator[None]:
    """Leave out the initial values of the modules that are traced inside: their parameters are zeros there.

    Nothing is searched for garbage inside, because a trace makes many objects that live on.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        with STRUCTURE(True):
            yield
    finally:
        if enabled:
            gc.enable()


def left_out(initializer: Any) -> bool:
    """Whether the values of ``initializer`` are left out: ``structure_alone`` holds, and the shape is known."""
    return STRUCTURE.value and getattr(initializer, "__module__", None) in SHAPED
