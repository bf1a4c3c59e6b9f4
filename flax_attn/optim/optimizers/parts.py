"""What all the optimizers share: the checks of their arguments, the bias correction, and the chain around their rule.

The formulas of all the optimizers call the gradient g, the parameter p, and the number of the step t = 1, 2, ...
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from flax_attn.layers.module import accumulator, require

LearningRate = ArrayLike | Callable[[Any], ArrayLike]
"""A number, or a schedule: a function from the number of steps already taken (0 at the first) to the learning rate."""


def check(who: str, most: float | int = math.inf, **values: Any) -> None:
    """ValueError unless each value is from 0 to ``most``. Schedules, and values that jit traces, are not checked."""
    limits = "at least 0" if most == math.inf else f"from 0 to {most}"
    for name, value in values.items():
        known = not callable(value) and not isinstance(value, jax.core.Tracer)
        fits = not known or bool(0 <= value <= most)
        require(fits, f"{who}: expected {name} to be a number that is {limits}, got {value}; change {name}")


def check_betas(who: str, betas: Sequence[Any]) -> tuple[Any, Any]:
    """The two betas. ValueError unless there are two, and both are in [0, 1). Values traced by jit are let pass."""
    fits = hasattr(betas, "__len__") and len(betas) == 2
    fits = fits and all(isinstance(beta, jax.core.Tracer) or 0 <= beta < 1 for beta in betas)
    require(fits, f"{who}: expected betas to be two numbers that are at least 0 and below 1, got {betas}; change betas")
    return betas[0], betas[1]


def is_zero(value: ArrayLike) -> bool:
    """Whether ``value`` is known to be 0. An array of JAX is not, because its value may differ from call to call."""
    return not isinstance(value, jax.Array) and bool(value == 0)


def bias_correction(beta: Any, count: ArrayLike) -> jax.Array:
    """1 - beta^count, right to the last digits also in float32, where 1 - 0.999 has only five right digits."""
    if isinstance(beta, jax.Array):
        return -jnp.expm1(count * jnp.log(beta))
    return -jnp.expm1(count * math.log(beta)) if beta > 0 else jnp.ones([])


def corrected(tree: Any, beta: Any, count: ArrayLike) -> Any:
    """Each leaf of ``tree`` / (1 - beta^count)."""
    correction = bias_correction(beta, count)
    return jax.tree.map(lambda x: x / correction.astype(x.dtype), tree)


def moments(gradients: Any, state: Any, betas: tuple[Any, Any]) -> tuple[Any, Any]:
    """mu = beta1 mu + (1 - beta1) g and nu = beta2 nu + (1 - beta2) g^2, from the old ones in ``state``."""
    mu = optax.tree.update_moment(gradients, state.mu, betas[0], 1)
    return mu, optax.tree.update_moment(gradients, state.nu, betas[1], 2)


def adam_state(params: Any) -> optax.ScaleByAdamState:
    """The state before the first step: moments of 0 with the shapes and dtypes of ``params``."""
    zeros = partial(jax.tree.map, jnp.zeros_like)
    return optax.ScaleByAdamState(count=jnp.zeros([], jnp.int32), mu=zeros(params), nu=zeros(params))


def assemble(
    who: str,
    rule: optax.GradientTransformation,
    lr: LearningRate,
    weight_decay: ArrayLike,
    maximize: bool,
    decoupled: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """The optimizer whose step without learning rate and weight decay is ``rule``.

    g = -g where ``maximize`` holds; then, for a coupled decay, g = g + weight_decay p; then the rule; then
    p = p - lr rule(g), or, for a decoupled decay, p = p - lr (rule(g) + weight_decay p). The latter is the same as
    PyTorch's p (1 - lr weight_decay) - lr rule(g), because no rule reads p.

    Raises:
        ValueError: if lr or weight_decay is negative.
    """
    check(who, lr=lr, weight_decay=weight_decay)
    decay = [] if is_zero(weight_decay) else [optax.add_decayed_weights(weight_decay)]
    schedule = lr if callable(lr) else lambda count: lr
    return in_float32(
        who,
        optax.chain(
            *([optax.scale(-1.0)] if maximize else []),
            *([] if decoupled else decay),
            rule,
            *(decay if decoupled else []),
            optax.scale_by_learning_rate(schedule),
        ),
    )


def in_float32(who: str, inner: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """``inner``, computed in float32 for parameters in half precision.

    Its state stays in half precision, as in PyTorch, and so do the updates. PyTorch rounds in between too: a
    sum of 0 and eps = 1e-8 is 0 in float16, and a gradient of 0 makes a parameter NaN. Here it does not.
    """
    inner = optax.with_extra_args_support(inner)

    def init(params: Any) -> Any:
        for leaf in jax.tree.leaves(params):
            dtype = jnp.result_type(leaf)
            real = jnp.issubdtype(dtype, jnp.floating)
            require(real, f"{who}: expected parameters of real floating point numbers, got one of {dtype}; freeze it")
        return inner.init(params)

    def update(gradients: Any, state: Any, params: Any = None, **extra_args: Any) -> tuple[Any, Any]:
        wide = jax.tree.map(widened, (gradients, state, params))
        updates, new = inner.update(*wide, **extra_args)
        return like(updates, gradients if params is None else params), like(new, state)

    return optax.GradientTransformationExtraArgs(init, update)


def widened(x: ArrayLike) -> jax.Array:
    """``x``, in float32 if it is in half precision."""
    x = jnp.asarray(x)
    return x.astype(accumulator(x.dtype)) if jnp.issubdtype(x.dtype, jnp.floating) else x


def like(tree: Any, other: Any) -> Any:
    """``tree``, each leaf in the dtype of that leaf of ``other``."""
    return jax.tree.map(lambda x, y: jnp.asarray(x).astype(jnp.result_type(y)), tree, other)
