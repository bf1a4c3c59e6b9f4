"""Random choices. Trap: JAX draws random bits in a loop on a CPU, and each step of it reads and writes all of them."""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool

ROTATIONS = (13, 15, 26, 6), (17, 29, 16, 24)


@functools.partial(jax.jit, static_argnames=("p", "shape"))
def bernoulli(key: Array, p: float, shape: tuple[int, ...]) -> Bool[Array, "*shape"]:
    """The numbers of ``jax.random.bernoulli(key, p, shape)``. A CPU draws them in a tenth of the time.

    Other kinds of keys than JAX's usual ones, and 64-bit numbers, are left to JAX.
    """
    usual = str(jax.random.key_impl(key)) == "threefry2x32" and jax.config.jax_threefry_partitionable  # type: ignore[attr-defined]
    wide = jax.config.jax_enable_x64 or math.prod(shape) >= 2**32  # type: ignore[attr-defined]
    if wide or not usual:
        return jax.random.bernoulli(key, p, shape)
    drawn = functools.partial(jax.random.bernoulli, p=p, shape=shape)
    return lax.platform_dependent(key, cpu=lambda key: uniform(key, shape) < p, default=drawn)


def uniform(key: Array, shape: tuple[int, ...]) -> Array:
    """The float32 numbers of ``jax.random.uniform(key, shape)``."""
    index = jnp.zeros(shape, jnp.uint32)
    for axis, size in enumerate(shape):
        index = index * jnp.uint32(size) + lax.broadcasted_iota(jnp.uint32, shape, axis)
    first, second = threefry(key, jnp.zeros_like(index), index)
    bits = (first ^ second) >> 9 | jnp.float32(1).view(jnp.uint32)
    return lax.bitcast_convert_type(bits, jnp.float32) - 1


def threefry(key: Array, first: Array, second: Array) -> tuple[Array, Array]:
    """The two words with 20 rounds of Threefry, by Salmon, Moraes, Dror and Shaw 2011."""
    data = jax.random.key_data(key) if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else key
    keys = data[0], data[1], data[0] ^ data[1] ^ jnp.uint32(0x1BD11BDA)
    first, second = first + keys[0], second + keys[1]
    for i in range(5):
        for rotation in ROTATIONS[i % 2]:
            first = first + second
            second = first ^ (second << rotation | second >> 32 - rotation)
        first, second = first + keys[(i + 1) % 3], second + keys[(i + 2) % 3] + jnp.uint32(i + 1)
    return first, second
