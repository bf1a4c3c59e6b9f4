"""Adagrad - Duchi et al. 2011, as torch.optim.Adagrad computes it."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from flax_attn.optim.optimizers.parts import LearningRate, assemble, check


def adagrad(
    lr: LearningRate = 1e-2,
    lr_decay: ArrayLike = 0.0,
    weight_decay: ArrayLike = 0.0,
    initial_accumulator_value: ArrayLike = 0.0,
    eps: ArrayLike = 1e-10,
    *,
    maximize: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """PyTorch's Adagrad.

    Step t = 1, 2, ... for the gradient g and the parameter p:
    g = g + weight_decay p; s = s + g^2; p = p - lr / (1 + (t - 1) lr_decay) g / (sqrt(s) + eps).

    Differs from optax.adagrad: eps is added outside the square root; it is 1e-10 unless given, not 1e-7; s begins at
    0 unless given, not at 0.1; and there are ``lr_decay`` and weight decay.

    Args:
        lr: The learning rate: a number, or a function from the number of steps already taken to a number.
        lr_decay: How fast the learning rate becomes smaller. A schedule in ``lr`` becomes smaller by it too.
        weight_decay: This times the parameter is added to the gradient.
        initial_accumulator_value: The s before the first step.
        eps: A small number added to the square root, so that nothing is divided by 0.
        maximize: Whether to make the loss larger. The weight decay still makes parameters smaller.

    Raises:
        ValueError: if lr, lr_decay, weight_decay, initial_accumulator_value or eps is negative.

    Source: torch.optim.Adagrad. PyTorch's ``sum`` is ``sum_of_squares`` in the state.
    """
    check("adagrad", lr=lr, lr_decay=lr_decay, initial_accumulator_value=initial_accumulator_value, eps=eps)
    rule = scale_by_root_of_sum(initial_accumulator_value, eps)

    def schedule(count: Any) -> ArrayLike:
        return (lr(count) if callable(lr) else lr) / (1 + count * lr_decay)

    return assemble("adagrad", rule, schedule, weight_decay=weight_decay, maximize=maximize)


def scale_by_root_of_sum(initial: ArrayLike, eps: ArrayLike) -> optax.GradientTransformation:
    """The update is g / (sqrt(s) + eps), where s = s + g^2.

    Differs from optax.scale_by_rss: that one computes g / sqrt(s + eps).
    """

    def init(params: Any) -> optax.ScaleByRssState:
        return optax.ScaleByRssState(jax.tree.map(lambda p: jnp.full_like(p, initial), params))

    def update(gradients: Any, state: Any, params: Any = None) -> tuple[Any, optax.ScaleByRssState]:
        sums = jax.tree.map(lambda g, s: s + g**2, gradients, state.sum_of_squares)
        return jax.tree.map(lambda g, s: g / (jnp.sqrt(s) + eps), gradients, sums), optax.ScaleByRssState(sums)

    return optax.GradientTransformation(init, update)
