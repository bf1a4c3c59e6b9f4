"""Stochastic gradient descent, as torch.optim.SGD computes it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from flax_attn.layers.module import require
from flax_attn.optim.optimizers.parts import LearningRate, assemble, check, is_zero


class DampedTraceState(NamedTuple):
    """The state of ``damped_trace``: the number of steps taken, and PyTorch's ``momentum_buffer``."""

    count: Any
    trace: Any


def sgd(
    lr: LearningRate = 1e-3,
    momentum: ArrayLike = 0.0,
    dampening: ArrayLike = 0.0,
    weight_decay: ArrayLike = 0.0,
    nesterov: bool = False,
    *,
    maximize: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """PyTorch's SGD.

    Step t = 1, 2, ... for the gradient g and the parameter p:
    g = g + weight_decay p; b = momentum b + (1 - dampening) g, but b = g at the first step;
    p = p - lr b, or with ``nesterov`` p = p - lr (g + momentum b). Without momentum, p = p - lr g.

    Differs from optax.sgd: it has weight decay and dampening. The learning rate is not part of the buffer in either.

    Args:
        lr: The learning rate: a number, or a function from the number of steps already taken to a number.
        momentum: PyTorch's ``momentum_buffer`` is ``trace`` in the state. Without momentum there is none.
        dampening: How much less than a whole gradient a step adds to the buffer.
        weight_decay: This times the parameter is added to the gradient.
        nesterov: Whether to look ahead by one step of momentum.
        maximize: Whether to make the loss larger. The weight decay still makes parameters smaller.

    Raises:
        ValueError: if lr, momentum or weight_decay is negative, or ``nesterov`` comes without momentum or with
            dampening.

    Source: torch.optim.SGD.
    """
    check("sgd", momentum=momentum)
    damped = not is_zero(dampening)
    fits = not nesterov or not (is_zero(momentum) or (damped and not isinstance(dampening, jax.Array)))
    require(
        fits,
        f"sgd: nesterov=True needs a momentum above 0 and a dampening of 0, got momentum {momentum} and dampening "
        f"{dampening}; change these or leave out nesterov",
    )
    if is_zero(momentum):
        rule = optax.identity()
    elif damped:
        rule = damped_trace(momentum, dampening, nesterov=nesterov)
    else:
        rule = optax.trace(momentum, nesterov=nesterov)
    return assemble("sgd", rule, lr, weight_decay=weight_decay, maximize=maximize)


def damped_trace(momentum: ArrayLike, dampening: ArrayLike, nesterov: bool) -> optax.GradientTransformation:
    """The update is b = momentum b + (1 - dampening) g, but b = g at the first step; with nesterov, g + momentum b.

    Differs from optax.trace: the dampening, which the first step does not have.
    """

    def init(params: Any) -> DampedTraceState:
        return DampedTraceState(jnp.zeros([], jnp.int32), trace=jax.tree.map(jnp.zeros_like, params))

    def update(gradients: Any, state: DampedTraceState, params: Any = None) -> tuple[Any, DampedTraceState]:
        share = jnp.where(state.count == 0, 1.0, 1 - dampening)
        trace = jax.tree.map(lambda g, b: momentum * b + share.astype(g.dtype) * g, gradients, state.trace)
        ahead = jax.tree.map(lambda g, b: g + momentum * b, gradients, trace) if nesterov else trace
        return ahead, DampedTraceState(optax.safe_increment(state.count), trace)

    return optax.GradientTransformation(init, update)
