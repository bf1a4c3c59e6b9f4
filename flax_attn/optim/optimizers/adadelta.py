"""Adadelta - Zeiler 2012, as torch.optim.Adadelta computes it."""

import optax
from jax.typing import ArrayLike

from flax_attn.optim.optimizers.parts import LearningRate, assemble, check


def adadelta(
    lr: LearningRate = 1.0,
    rho: ArrayLike = 0.9,
    eps: ArrayLike = 1e-6,
    weight_decay: ArrayLike = 0.0,
    *,
    maximize: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """PyTorch's Adadelta.

    Step t = 1, 2, ... for the gradient g and the parameter p:
    g = g + weight_decay p; e_g = rho e_g + (1 - rho) g^2; u = sqrt(e_x + eps) / sqrt(e_g + eps) g;
    e_x = rho e_x + (1 - rho) u^2; p = p - lr u.

    Differs from optax.adadelta: the learning rate is 1 unless given.

    Args:
        lr: The learning rate: a number, or a function from the number of steps already taken to a number.
        rho: How much of the old averages a step keeps.
        eps: A small number added inside both square roots, so that the first update is not 0.
        weight_decay: This times the parameter is added to the gradient.
        maximize: Whether to make the loss larger. The weight decay still makes parameters smaller.

    Raises:
        ValueError: if lr, eps or weight_decay is negative, or rho is not in [0, 1].

    Source: torch.optim.Adadelta. PyTorch's ``square_avg`` is ``e_g`` in the state, and ``acc_delta`` is ``e_x``.
    """
    check("adadelta", eps=eps)
    check("adadelta", most=1, rho=rho)
    rule = optax.scale_by_adadelta(rho, eps)
    return assemble("adadelta", rule, lr, weight_decay=weight_decay, maximize=maximize)
