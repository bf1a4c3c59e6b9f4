"""Adam - Kingma & Ba 2014, AdamW - Loshchilov & Hutter 2017, and AMSGrad of both, as torch.optim computes them."""

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
    check,
    check_betas,
    corrected,
    moments,
)


def adam(
    lr: LearningRate = 1e-3,
    betas: Sequence[ArrayLike] = (0.9, 0.999),
    eps: ArrayLike = 1e-8,
    weight_decay: ArrayLike = 0.0,
    amsgrad: bool = False,
    *,
    maximize: bool = False,
    decoupled_weight_decay: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """PyTorch's Adam.

    Step t = 1, 2, ... for the gradient g and the parameter p:
    g = g + weight_decay p; mu = beta1 mu + (1 - beta1) g; nu = beta2 nu + (1 - beta2) g^2;
    p = p - lr (mu / (1 - beta1^t)) / (sqrt(nu / (1 - beta2^t)) + eps).
    With ``amsgrad``, nu_max = max(nu_max, nu) is in place of nu in the last line.

    Differs from optax.adam: it has weight decay.
    Differs from optax.amsgrad: that one takes the maximum of nu / (1 - beta2^t), so the large corrected values of the
    first steps stay.

    Args:
        lr: The learning rate: a number, or a function from the number of steps already taken to a number.
        betas: How much of the old mu, and of the old nu, a step keeps.
        eps: A small number added to the square root, so that nothing is divided by 0.
        weight_decay: This times the parameter is added to the gradient.
        amsgrad: Whether to divide by the largest nu so far. PyTorch's ``max_exp_avg_sq`` is ``nu_max`` in the state.
        maximize: Whether to make the loss larger. The weight decay still makes parameters smaller.
        decoupled_weight_decay: Whether p becomes smaller by lr weight_decay p instead, as in ``adamw``.

    Raises:
        ValueError: if lr, eps or weight_decay is negative, or the betas are not two numbers in [0, 1).

    Source: torch.optim.Adam. PyTorch's ``exp_avg`` is ``mu`` in the state, and ``exp_avg_sq`` is ``nu``.
    """
    rule = scale_by_adam("adam", betas, eps, amsgrad=amsgrad)
    return assemble("adam", rule, lr, weight_decay=weight_decay, maximize=maximize, decoupled=decoupled_weight_decay)


def adamw(
    lr: LearningRate = 1e-3,
    betas: Sequence[ArrayLike] = (0.9, 0.999),
    eps: ArrayLike = 1e-8,
    weight_decay: ArrayLike = 1e-2,
    amsgrad: bool = False,
    *,
    maximize: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """PyTorch's AdamW: ``adam`` with p = p - lr weight_decay p in each step, in place of a decay in the gradient.

    Differs from optax.adamw: the weight decay is 1e-2 unless given, not 1e-4.

    Args:
        lr: The learning rate: a number, or a function from the number of steps already taken to a number.
        betas: How much of the old mu, and of the old nu, a step keeps.
        eps: A small number added to the square root, so that nothing is divided by 0.
        weight_decay: A step makes the parameter smaller by lr weight_decay p.
        amsgrad: Whether to divide by the largest nu so far. PyTorch's ``max_exp_avg_sq`` is ``nu_max`` in the state.
        maximize: Whether to make the loss larger. The weight decay still makes parameters smaller.

    Raises:
        ValueError: if lr, eps or weight_decay is negative, or the betas are not two numbers in [0, 1).

    Source: torch.optim.AdamW. PyTorch's ``exp_avg`` is ``mu`` in the state, and ``exp_avg_sq`` is ``nu``.
    """
    rule = scale_by_adam("adamw", betas, eps, amsgrad=amsgrad)
    return assemble("adamw", rule, lr, weight_decay=weight_decay, maximize=maximize, decoupled=True)


def scale_by_adam(who: str, betas: Sequence[ArrayLike], eps: ArrayLike, amsgrad: bool) -> optax.GradientTransformation:
    """The update is (mu / (1 - beta1^t)) / (sqrt(nu / (1 - beta2^t)) + eps), or with nu_max in place of nu.

    Differs from optax.scale_by_adam: 1 - beta^t has all its digits in float32 (see ``parts.bias_correction``).
    Differs from optax.scale_by_amsgrad: nu_max is the maximum of nu, not of nu / (1 - beta2^t).
    """
    check(who, eps=eps)
    beta1, beta2 = check_betas(who, betas)

    def init(params: Any) -> optax.ScaleByAdamState | optax.ScaleByAmsgradState:
        state = adam_state(params)
        if not amsgrad:
            return state
        return optax.ScaleByAmsgradState(*state, nu_max=jax.tree.map(jnp.zeros_like, params))

    def update(gradients: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        count = optax.safe_increment(state.count)
        mu, nu = moments(gradients, state, (beta1, beta2))
        new = state._replace(count=count, mu=mu, nu=nu)
        if amsgrad:
            new = new._replace(nu_max=jax.tree.map(jnp.maximum, state.nu_max, nu))
        means = corrected(mu, beta1, count)
        squares = corrected(new.nu_max if amsgrad else nu, beta2, count)
        return jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + eps), means, squares), new

    return optax.GradientTransformation(init, update)
