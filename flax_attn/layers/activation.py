"""Activation functions. Traps: ``flax.linen.gelu`` is the tanh approximation, ``torch.nn.GELU`` is exact; at a kink,
JAX's gradient is often the mean of both sides, PyTorch's is always that of one side.

Every function takes an array of any shape and computes in float32 at least."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from flax_attn.layers.module import accumulator, require, require_floats

SELU_ALPHA, SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946


def in_float32(function: Callable[..., Array]) -> Callable[..., Array]:
    """``function``, computed in float32 at least, with a result in the dtype of its first argument."""

    @functools.wraps(function)
    def wide(x: Array, *args: Any, **kwargs: Any) -> Array:
        require_floats(function.__name__, x)
        x = jnp.asarray(x)
        return function(x.astype(accumulator(x.dtype)), *args, **kwargs).astype(x.dtype)

    return wide


def relu(x: Array) -> Array:
    """x where positive, 0 elsewhere; the gradient at 0 is 0."""
    return jax.nn.relu(jnp.asarray(x))


def relu6(x: Array) -> Array:
    """x between 0 and 6; the gradient at both limits is 0."""
    return hardtanh(x, 0.0, 6.0)


@in_float32
def leaky_relu(x: Array, negative_slope: float = 0.01) -> Array:
    """x where positive, ``negative_slope * x`` elsewhere; the gradient at 0 is the slope."""
    return jnp.where(x > 0, x, negative_slope * x)


def prelu(x: Array, weight: Array) -> Array:
    """x where positive, ``weight * x`` elsewhere.

    Args:
        weight: the slope: (1,), or (c,) for one slope a channel of the last axis.
    """
    require_floats("prelu", x, weight)
    x, weight = jnp.asarray(x), jnp.asarray(weight)
    sizes = (1, x.shape[-1] if x.ndim else 1)
    fits = weight.ndim <= 1 and weight.size in sizes
    require(fits, f"prelu: expected a weight of shape (1,) or ({sizes[1]},), got shape {weight.shape}")
    return jnp.where(x > 0, x, weight.astype(x.dtype) * x)


def hardtanh(x: Array, min_val: float = -1.0, max_val: float = 1.0) -> Array:
    """x between ``min_val`` and ``max_val``; the gradient at both limits is 0."""
    x = jnp.asarray(x)
    return jnp.where((x > min_val) & (x < max_val), x, lax.stop_gradient(jnp.clip(x, min_val, max_val)))


@in_float32
def hardsigmoid(x: Array) -> Array:
    """(x + 3) / 6 between 0 and 1."""
    return relu6(x + 3) / 6


@in_float32
def hardswish(x: Array) -> Array:
    """x * hardsigmoid(x); the gradient is 0 at -3 and 1 at 3."""
    return jnp.where(x >= 3, x, x * hardsigmoid(x))


@in_float32
def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x))."""
    return jax.nn.sigmoid(x)


@in_float32
def log_sigmoid(x: Array) -> Array:
    """The logarithm of the sigmoid; ``torch.nn.functional.logsigmoid``."""
    return jax.nn.log_sigmoid(x)


@in_float32
def tanh(x: Array) -> Array:
    """The hyperbolic tangent."""
    return jnp.tanh(x)


@in_float32
def silu(x: Array) -> Array:
    """x * sigmoid(x), also called swish."""
    return x * jax.nn.sigmoid(x)


@in_float32
def mish(x: Array) -> Array:
    """x * tanh(softplus(x))."""
    return x * jnp.tanh(jax.nn.softplus(x))


@in_float32
def gelu(x: Array, approximate: str = "none") -> Array:
    """x * Phi(x), with the normal distribution function Phi.

    Args:
        approximate: "none" for the error function, "tanh" for the approximation by a hyperbolic tangent.
    """
    require(approximate in ("none", "tanh"), f"gelu: expected approximate 'none' or 'tanh', got {approximate!r}")
    if approximate == "tanh":
        return 0.5 * x * (1 + jnp.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return 0.5 * x * (1 + lax.erf(x / math.sqrt(2)))


@in_float32
def elu(x: Array, alpha: float = 1.0) -> Array:
    """x where positive, ``alpha * (exp(x) - 1)`` elsewhere; the gradient at 0 is ``alpha``."""
    return jnp.where(x > 0, x, alpha * jnp.expm1(jnp.where(x > 0, 0, x)))


@in_float32
def selu(x: Array) -> Array:
    """The self-normalising ELU: ``elu`` with two fixed numbers as alpha and as scale of the result."""
    return SELU_SCALE * elu(x, SELU_ALPHA)


@in_float32
def celu(x: Array, alpha: float = 1.0) -> Array:
    """x where positive, ``alpha * (exp(x / alpha) - 1)`` elsewhere."""
    require(alpha != 0, "celu: expected alpha other than 0, got 0")
    return jnp.where(x > 0, x, alpha * jnp.expm1(jnp.where(x > 0, 0, x) / alpha))


@in_float32
def softplus(x: Array, beta: float = 1.0, threshold: float = 20.0) -> Array:
    """log(1 + exp(beta * x)) / beta, and x itself where ``beta * x`` is above ``threshold``."""
    linear = x * beta > threshold
    return jnp.where(linear, x, jnp.log1p(jnp.exp(jnp.where(linear, 0, x * beta))) / beta)


@in_float32
def softsign(x: Array) -> Array:
    """x / (1 + |x|)."""
    return x / (1 + jnp.abs(x))


@in_float32
def log_softmax(x: Array, axis: int | tuple[int, ...] = -1) -> Array:
    """The logarithm of softmax over ``axis``."""
    return jax.nn.log_softmax(x, axis=axis)
