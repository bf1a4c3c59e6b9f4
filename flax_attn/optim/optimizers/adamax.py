"""Adamax - Kingma & Ba 2014, as torch.optim.Adamax computes it."""

from collections.abc import Sequence
from typing import Any

import jax
import optax
from jax.typing import ArrayLike

from flax_attn.optim.optimizers.parts import LearningRate, adam_state, assemble, check, check_betas, corrected


def adamax(
    lr: LearningRate = 2e-3,
    betas: Sequence[ArrayLike] = (0.9, 0.999),
    eps: ArrayLike = 1e-8,
    weight_decay: ArrayLike = 0.0,
    *,
    maximize: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """PyTorch's Adamax.

    Step t = 1, 2, ... for the gradient g and the parameter p:
    g = g + weight_decay p; mu = beta1 mu + (1 - beta1) g; nu = max(beta2 nu, |g| + eps);
    p = p - lr (mu / (1 - beta1^t)) / nu.

    Differs from optax.adamax: 1 - beta1^t has all its digits in float32.

    Args:
        lr: The learning rate: a number, or a function from the number of steps already taken to a number.
        betas: How much of the old mu, and of the old nu, a step keeps.
        eps: A small number added to |g|, so that nothing is divided by 0.
        weight_decay: This times the parameter is added to the gradient.
        maximize: Whether to make the loss larger. The weight decay still makes parameters smaller.

    Raises:
        ValueError: if lr, eps or weight_decay is negative, or the betas are not two numbers in [0, 1).

    Source: torch.optim.Adamax. PyTorch's ``exp_avg`` is ``mu`` in the state, and ``exp_inf`` is ``nu``.
    """
    check("adamax", eps=eps)
    beta1, beta2 = check_betas("adamax", betas)

    def update(gradients: Any, state: Any, params: Any = None) -> tuple[Any, optax.ScaleByAdamState]:
        count = optax.safe_increment(state.count)
        mu = optax.tree.update_moment(gradients, state.mu, beta1, 1)
        nu = optax.tree.update_infinity_moment(gradients, state.nu, beta2, eps)
        updates = jax.tree.map(lambda m, largest: m / largest, corrected(mu, beta1, count), nu)
        return updates, optax.ScaleByAdamState(count, mu, nu)

    rule = optax.GradientTransformation(adam_state, update)
    return assemble("adamax", rule, lr, weight_decay=weight_decay, maximize=maximize)
