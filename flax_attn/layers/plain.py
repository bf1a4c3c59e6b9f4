"""The forms that a user of flax.linen would write, to measure ours against them."""

import contextlib
from typing import Any

import jax
from jaxtyping import Array

PLAIN: Any = jax.make_user_context(False)
"""Whether layers are computed in their plain forms. JAX keeps what it traces with another value of a context apart."""


def plain_forms() -> contextlib.AbstractContextManager:
    """A context in which convolutions are those of ``jax.lax``, and dense attention computes all weights at once."""
    return PLAIN(True)


def has_known_shape(*arrays: Array) -> bool:
    """Whether all lengths of the arrays are numbers, and none is one of ``jax.export.symbolic_shape``."""
    return all(isinstance(length, int) for x in arrays for length in x.shape)
