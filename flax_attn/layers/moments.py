"""Mean, variance and a shift and scale of arrays, with gradients that sum over the array as few times as they can."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def moments(x: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    """Mean and biased variance over ``axes``, which are kept with length 1; for floating point numbers.

    The rounding error of the mean is the mean of what is left after the first one is subtracted, and is added to it.
    """
    first = x.mean(axes, keepdims=True)
    rest = (x - first).mean(axes, keepdims=True)
    variance = jnp.square(x - first).mean(axes, keepdims=True) - jnp.square(rest)
    return first + rest, jnp.maximum(variance, 0)


@moments.defjvp
def _moments_jvp(axes: tuple[int, ...], primals: tuple[Array], tangents: tuple[Array]) -> tuple[Any, Any]:
    """The variance does not change to first order with the mean that is subtracted: one sum less in the gradient."""
    (x,), (dx,) = primals, tangents
    mean, var = moments(x, axes)
    return (mean, var), (dx.mean(axes, keepdims=True), 2 * ((x - mean) * dx).mean(axes, keepdims=True))


@jax.custom_jvp
def affine(x: Array, mean: Array, slope: Array, bias: Array) -> Array:
    """``(x - mean) * slope + bias``; the last three broadcast to x, and their gradients are sums of small products."""
    return (x - mean) * slope + bias


@affine.defjvp
def _affine_jvp(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> tuple[Array, Array]:
    """Gathers the tangents of ``mean`` and ``bias`` before they meet x, so that the gradient sums over x once."""
    (x, mean, slope, bias), (dx, dmean, dslope, dbias) = primals, tangents
    return affine(x, mean, slope, bias), dx * slope + ((x - mean) * dslope + (dbias - dmean * slope))
