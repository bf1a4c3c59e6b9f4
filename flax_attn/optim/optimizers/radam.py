"""RAdam - Liu et al. 2019, as torch.optim.RAdam computes it."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from flax_attn.optim.optimizers.parts import (
    LearningRate,
    adam_state,
    assemble,
    bias_correction,
    check,
    check_betas,
    corrected,
    moments,
)

SERIES = [
    3617 / 10670622842880000,
    -1 / 74724249600,
    691 / 1307674368000,
    -1 / 47900160,
    1 / 1209600,
    -1 / 30240,
    1 / 720,
    -1 / 12,
]
"""The coefficients of x^16, x^14, ..., x^2 in the power series of 1 - x / (exp(x) - 1), which begins with x / 2."""


def radam(
    lr: LearningRate = 1e-3,
    betas: Sequence[ArrayLike] = (0.9, 0.999),
    eps: ArrayLike = 1e-8,
    weight_decay: ArrayLike = 0.0,
    decoupled_weight_decay: bool = False,
    *,
    maximize: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """PyTorch's RAdam.

    Step t = 1, 2, ... for the gradient g and the parameter p:
    g = g + weight_decay p; mu = beta1 mu + (1 - beta1) g; nu = beta2 nu + (1 - beta2) g^2;
    R = 2 / (1 - beta2) - 1; r = R - 2 t beta2^t / (1 - beta2^t).
    Where r > 5: a = sqrt((r - 4) (r - 2) R / ((R - 4) (R - 2) r)), and
    p = p - lr a (mu / (1 - beta1^t)) sqrt(1 - beta2^t) / (sqrt(nu) + eps).
    Else: p = p - lr mu / (1 - beta1^t).

    Differs from optax.radam: eps is added before the bias correction of nu, and optax begins where r >= 5.

    Args:
        lr: The learning rate: a number, or a function from the number of steps already taken to a number.
        betas: How much of the old mu, and of the old nu, a step keeps.
        eps: A small number added to the square root, so that nothing is divided by 0.
        weight_decay: This times the parameter is added to the gradient.
        decoupled_weight_decay: Whether p becomes smaller by lr weight_decay p instead, as in ``adamw``.
        maximize: Whether to make the loss larger. The weight decay still makes parameters smaller.

    Raises:
        ValueError: if lr, eps or weight_decay is negative, or the betas are not two numbers in [0, 1).

    Source: torch.optim.RAdam. PyTorch's ``exp_avg`` is ``mu`` in the state, and ``exp_avg_sq`` is ``nu``.
    """
    check("radam", eps=eps)
    rule = scale_by_radam(check_betas("radam", betas), eps)
    return assemble("radam", rule, lr, weight_decay=weight_decay, maximize=maximize, decoupled=decoupled_weight_decay)


def scale_by_radam(betas: tuple[Any, Any], eps: ArrayLike) -> optax.GradientTransformation:
    """The update is the formula of ``radam`` without the learning rate and the decay."""
    longest = 2 / (1 - betas[1]) - 1

    def update(gradients: Any, state: Any, params: Any = None) -> tuple[Any, optax.ScaleByAdamState]:
        count = optax.safe_increment(state.count)
        mu, nu = moments(gradients, state, betas)
        means, new = corrected(mu, betas[0], count), optax.ScaleByAdamState(count, mu, nu)
        if longest <= 5:
            return means, new
        length = average_length(count, betas[1])
        factor = rectification(length, longest) * jnp.sqrt(bias_correction(betas[1], count))

        def step(m: jax.Array, v: jax.Array) -> jax.Array:
            return jnp.where(length > 5, factor.astype(m.dtype) / (jnp.sqrt(v) + eps), 1.0) * m

        return jax.tree.map(step, means, nu), new

    return optax.GradientTransformation(adam_state, update)


def average_length(count: jax.Array, beta2: float) -> jax.Array:
    """r = 2 / (1 - beta2) - 1 - 2 t beta2^t / (1 - beta2^t), right in float32 too.

    In the first steps, r is the small difference of two large numbers. With x = -t log(beta2), the last term is
    2 / -log(beta2) x / (exp(x) - 1). For a small x, x / (exp(x) - 1) is almost 1. So 1 minus it is computed, for a
    small x from its power series.
    """
    rate = -math.log(beta2)
    x = count * rate
    small = jnp.minimum(x, 0.5)
    series = 0.5 * small + small**2 * jnp.polyval(jnp.asarray(SERIES, x.dtype), small**2)
    rest = jnp.where(x < 0.5, series, 1 - x / jnp.expm1(jnp.maximum(x, 0.5)))
    return 2 / (1 - beta2) - 1 - 2 / rate + 2 / rate * rest


def rectification(length: jax.Array, longest: float) -> jax.Array:
    """The factor a of ``radam``; that of a length of 5 for shorter ones, which do not use it."""
    r = jnp.maximum(length, 5.0)
    return jnp.sqrt((r - 4) / (longest - 4) * (r - 2) / (longest - 2) * longest / r)
