"""Attention along the rows and the columns of images, in blocks of lines.

Training with a 1024x1024 image of 64 channels takes 27 GB with all lines at one time, and 2.7 GB in blocks of lines
(``python -m examples.attention_memory``).
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from flax_attn.layers.layout import in_memory
from flax_attn.layers.module import einsum, require
from flax_attn.layers.plain import has_known_shape

WEIGHTS_AT_ONCE = 2**24
"""How many weights ``criss_cross_attention`` computes at one time, where ``line_block`` does not say otherwise."""


WIDE = 256
"""From this many channels of the values on, ``weighted_lines`` puts the weights of each line transposed in memory."""


def weighted_lines(weights: Float[Array, "n a b g"], values: Float[Array, "n a g c"]) -> Float[Array, "n a b c"]:
    """The sums of the values of each line, with the weights of each position of the line.

    XLA on a CPU computes products of small matrices on one thread, unless the left ones lie transposed in memory.
    """
    if values.shape[-1] < WIDE:
        return einsum("nabg,nagc->nabc", weights, values)
    return einsum("nagb,nagc->nabc", in_memory(weights.swapaxes(2, 3)), values)


def check_line_block(who: str, line_block: int | None, mesh_axis: str | None) -> None:
    """Refuse a negative number of lines, and blocks of lines with a ``mesh_axis``."""
    require(line_block is None or line_block >= 0, f"{who}: expected line_block None or >= 0, got {line_block}")
    fits = not line_block or mesh_axis is None
    require(fits, f"{who}: expected line_block None or 0 with mesh_axis={mesh_axis!r}, got {line_block}")


def needs_blocks(query: Array, line_block: int | None, attention_weights: bool, mesh_axis: str | None) -> bool:
    """Whether criss-cross attention is computed in blocks of lines. Refuse them where all lines must be together."""
    who = "criss_cross_attention"
    check_line_block(who, line_block, mesh_axis)
    together = "with attention_weights=True" if attention_weights else "where h or w is sharded"
    whole = attention_weights or mesh_axis is not None or any(jax.typeof(query).sharding.spec[1:3])
    require(not (whole and line_block), f"{who}: expected line_block None or 0 {together}, got {line_block}")
    if line_block is not None:
        return line_block > 0 and query.size > 0
    n, h, w, _ = query.shape
    return not whole and has_known_shape(query) and n * h * w * max(h, w) > WEIGHTS_AT_ONCE


def in_blocks(
    query: Float[Array, "n h w d"], key: Float[Array, "n h w d"], value: Float[Array, "n h w c"], line_block: int | None
) -> Float[Array, "n h w c"]:
    """The weighted mean, with ``line_block`` rows or columns at one time.

    The first pass over the rows and the columns computes the denominators, the second one the sums of values.
    """
    columns = turn(query), turn(key), turn(value)
    total_of = partial(by_lines, partial(line_totals, own=True), line_block)
    total_of_column = partial(by_lines, partial(line_totals, own=False), line_block)
    total = jnp.logaddexp(total_of(query, key), turn(total_of_column(*columns[:2])))
    row = by_lines(partial(line_sums, own=True), line_block, query, key, value, total)
    return row + turn(by_lines(partial(line_sums, own=False), line_block, *columns, turn(total)))


def by_lines(
    function: Callable[..., Array], line_block: int | None, *arrays: Float[Array, "n a b ..."]
) -> Float[Array, "n a b ..."]:
    """``function(*arrays)``, a function of lines along axis 2, with ``line_block`` lines at one time."""
    n, _, b, _ = arrays[0].shape
    count = line_block or max(1, WEIGHTS_AT_ONCE // (n * b * b))
    lines = tuple(x.swapaxes(0, 1) for x in arrays)
    return lax.map(jax.checkpoint(lambda line: function(*line)), lines, batch_size=count).swapaxes(0, 1)


def line_energies(query: Float[Array, "n b d"], key: Float[Array, "n b d"], own: bool) -> Float[Array, "n b b"]:
    """The energies of each position of a line for all positions of it; ``own`` says whether it meets itself."""
    energies = einsum("nbd,ngd->nbg", query, key, wide=True)
    return energies if own else energies + own_position(energies.shape[-1])


def line_totals(query: Float[Array, "n b d"], key: Float[Array, "n b d"], own: bool) -> Float[Array, "n b"]:
    """The logarithm of the sum of exp(energy) over the line of each position."""
    return jax.nn.logsumexp(line_energies(query, key, own), -1)


def line_sums(
    query: Float[Array, "n b d"],
    key: Float[Array, "n b d"],
    value: Float[Array, "n b c"],
    total: Float[Array, "n b"],
    own: bool,
) -> Float[Array, "n b c"]:
    """The weighted sum of the values of the line of each position, with weights exp(energy - total)."""
    weights = jnp.exp(line_energies(query, key, own) - total[..., None])
    return einsum("nbg,ngc->nbc", weights.astype(value.dtype), value)


def turn(x: Float[Array, "n a b ..."], mesh_axis: str | None = None) -> Float[Array, "n b a ..."]:
    """x with axes 1 and 2 swapped. If axis 1 was sharded over a mesh axis, the new axis 1 is sharded over it."""
    explicit = jax.typeof(x).sharding.spec
    if any(explicit):
        return jax.sharding.reshard(x.swapaxes(1, 2), explicit)
    if mesh_axis is None:
        return x.swapaxes(1, 2)
    free = P.UNCONSTRAINED
    spec = P(free, mesh_axis, None, *[free] * (x.ndim - 3))
    x = lax.with_sharding_constraint(x, spec)
    return lax.with_sharding_constraint(x.swapaxes(1, 2), spec)


def own_position(size: int) -> np.ndarray:
    """(size, size), to add to energies: -1.7e38 where a position meets itself, 0 elsewhere.

    The number is finite, so that the only position of a line of length 1 has a derivative.
    """
    return np.where(np.eye(size, dtype=bool), np.finfo(np.float32).min / 2, 0).astype(np.float32)
