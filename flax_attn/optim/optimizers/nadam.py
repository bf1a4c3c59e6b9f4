"""NAdam - Dozat 2016, as torch.optim.NAdam computes it."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from flax_attn.optim.optimizers.parts import (
    LearningRate,
    adam_state,
    assemble,
    check,
    check_betas,
    corrected,
    moments,
)


class ScaleByNAdamState(NamedTuple):
    """The state of ``scale_by_nadam``. PyTorch has the same ``mu_product``: a scalar, the product of all momenta."""

    count: Any
    mu: Any
    nu: Any
    mu_product: jax.Array


def nadam(
    lr: LearningRate = 2e-3,
    betas: Sequence[ArrayLike] = (0.9, 0.999),
    eps: ArrayLike = 1e-8,
    weight_decay: ArrayLike = 0.0,
    momentum_decay: ArrayLike = 4e-3,
    decoupled_weight_decay: bool = False,
    *,
    maximize: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """PyTorch's NAdam.

    Step t = 1, 2, ... for the gradient g and the parameter p:
    g = g + weight_decay p; mu = beta1 mu + (1 - beta1) g; nu = beta2 nu + (1 - beta2) g^2;
    c(t) = beta1 (1 - 0.96^(t momentum_decay) / 2), and C(t) is the product of c(1), ..., c(t);
    p = p - lr ((1 - c(t)) g / (1 - C(t)) + c(t + 1) mu / (1 - C(t + 1))) / (sqrt(nu / (1 - beta2^t)) + eps).

    Differs from optax.nadam: that one has beta1 in place of c(t).

    PyTorch stores C(t) in float32, for float64 parameters too, and this state does the same, because the rounding
    can be seen in the parameters. Under ``torch.set_default_dtype(torch.float64)`` PyTorch stores it in float64. For
    such a run, put a float64 ``mu_product`` into the state: it keeps its dtype.

    Args:
        lr: The learning rate: a number, or a function from the number of steps already taken to a number.
        betas: How much of the old mu, and of the old nu, a step keeps.
        eps: A small number added to the square root, so that nothing is divided by 0.
        weight_decay: This times the parameter is added to the gradient.
        momentum_decay: How fast the momentum c(t) grows from beta1 / 2 to beta1.
        decoupled_weight_decay: Whether p becomes smaller by lr weight_decay p instead, as in ``adamw``.
        maximize: Whether to make the loss larger. The weight decay still makes parameters smaller.

    Raises:
        ValueError: if lr, eps, weight_decay or momentum_decay is negative, or the betas are not two numbers in [0, 1).

    Source: torch.optim.NAdam. PyTorch's ``exp_avg`` is ``mu`` in the state, and ``exp_avg_sq`` is ``nu``.
    """
    check("nadam", eps=eps, momentum_decay=momentum_decay)
    rule = scale_by_nadam(check_betas("nadam", betas), eps, momentum_decay)
    return assemble("nadam", rule, lr, weight_decay=weight_decay, maximize=maximize, decoupled=decoupled_weight_decay)


def scale_by_nadam(betas: tuple[Any, Any], eps: ArrayLike, momentum_decay: ArrayLike) -> optax.GradientTransformation:
    """The update is the formula of ``nadam`` without the learning rate and the decay."""

    def momentum(count: jax.Array) -> jax.Array:
        return betas[0] * (1 - 0.5 * jnp.exp(count * momentum_decay * math.log(0.96)))

    def init(params: Any) -> ScaleByNAdamState:
        count, mu, nu = adam_state(params)
        return ScaleByNAdamState(count, mu, nu, mu_product=jnp.ones([], jnp.float32))

    def update(gradients: Any, state: ScaleByNAdamState, params: Any = None) -> tuple[Any, ScaleByNAdamState]:
        count = optax.safe_increment(state.count)
        mu, nu = moments(gradients, state, betas)
        now, following = momentum(count), momentum(count + 1)
        product = state.mu_product * now.astype(state.mu_product.dtype)
        share = (1 - now) / (1 - product.astype(now.dtype))
        next_share = following / (1 - product.astype(now.dtype) * following)

        def step(g: jax.Array, m: jax.Array, v: jax.Array) -> jax.Array:
            return (share.astype(g.dtype) * g + next_share.astype(g.dtype) * m) / (jnp.sqrt(v) + eps)

        updates = jax.tree.map(step, gradients, mu, corrected(nu, betas[1], count))
        return updates, ScaleByNAdamState(count, mu, nu, mu_product=product)

    return optax.GradientTransformation(init, update)
