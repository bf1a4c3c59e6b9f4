"""Arrays that a CPU writes to memory before it goes on. Trap: XLA on a CPU puts the transpositions of arrays into the
products that follow, which makes them slow.

``jax.lax.optimization_barrier`` prevents this, but it stands in the way of a TPU. So it is a primitive of its own, that
is a barrier on a CPU and nothing on any other platform. XLA removes the barrier before it fuses elementwise operations:
only ``not_inlined`` separates those.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.xla_metadata import set_xla_metadata
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float


def in_memory(x: Array) -> Array:
    """x, in the layout of its axes; so is the gradient."""
    return in_memory_p.bind(x)


def split_heads(x: Float[Array, "n l c"], heads: int) -> Float[Array, "n h l d"]:
    """Split the channels into ``heads`` equal runs, one for each head."""
    return in_memory(x.reshape(*x.shape[:2], heads, x.shape[2] // heads).swapaxes(1, 2))


def join_heads(x: Float[Array, "n h l d"]) -> Float[Array, "n l c"]:
    """Undo ``split_heads``."""
    return jax.lax.collapse(in_memory(x).swapaxes(1, 2), 2)


def not_inlined(function: Callable[..., Array]) -> Callable[..., Array]:
    """``function`` as one that XLA calls, for use on a CPU: its arrays and its result are written to memory.

    Otherwise XLA fuses the operations around it into it, and computes them again for each use in it.
    """

    def call(*arrays: Array) -> Array:
        with set_xla_metadata(inlineable="false"):
            return jax.jit(function)(*arrays)

    return call


def _transpose(cotangent: Array, _: Any) -> list[Array]:
    return [in_memory(cotangent)]


def _batch(arrays: Any, axes: Any) -> tuple[Array, int]:
    (x,), (axis,) = arrays, axes
    return in_memory(jnp.moveaxis(x, axis, 0)), 0


in_memory_p = Primitive("flax_attn_in_memory")
in_memory_p.def_impl(lambda x: x)
in_memory_p.def_abstract_eval(lambda x: x)
ad.deflinear2(in_memory_p, _transpose)
batching.primitive_batchers[in_memory_p] = _batch
mlir.register_lowering(in_memory_p, lambda _, x: [x])
mlir.register_lowering(in_memory_p, mlir.lower_fun(jax.lax.optimization_barrier, multiple_results=False), "cpu")
