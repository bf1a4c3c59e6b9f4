"""RMSprop - Tieleman & Hinton 2012, and the centered one of Graves 2013, as torch.optim.RMSprop computes them."""

import optax
from jax.typing import ArrayLike

from flax_attn.optim.optimizers.parts import LearningRate, assemble, check, is_zero


def rmsprop(
    lr: LearningRate = 1e-2,
    alpha: ArrayLike = 0.99,
    eps: ArrayLike = 1e-8,
    weight_decay: ArrayLike = 0.0,
    momentum: ArrayLike = 0.0,
    centered: bool = False,
    *,
    maximize: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """PyTorch's RMSprop.

    Step t = 1, 2, ... for the gradient g and the parameter p:
    g = g + weight_decay p; nu = alpha nu + (1 - alpha) g^2; u = g / (sqrt(nu) + eps); p = p - lr u.
    With ``centered``: mu = alpha mu + (1 - alpha) g; u = g / (sqrt(nu - mu^2) + eps).
    With momentum: b = momentum b + u; p = p - lr b.

    Differs from optax.rmsprop: eps is added outside the square root; the momentum is of u, not of lr u; alpha is 0.99
    unless given, not 0.9; and there is weight decay.

    Args:
        lr: The learning rate: a number, or a function from the number of steps already taken to a number.
        alpha: How much of the old averages a step keeps.
        eps: A small number added to the square root, so that nothing is divided by 0.
        weight_decay: This times the parameter is added to the gradient.
        momentum: PyTorch's ``momentum_buffer`` is ``trace`` in the state. Without momentum there is none.
        centered: Whether to divide by the standard deviation. PyTorch's ``grad_avg`` is ``mu`` in the state.
        maximize: Whether to make the loss larger. The weight decay still makes parameters smaller.

    Raises:
        ValueError: if lr, alpha, eps, weight_decay or momentum is negative.

    Source: torch.optim.RMSprop. PyTorch's ``square_avg`` is ``nu`` in the state.
    """
    check("rmsprop", alpha=alpha, eps=eps, momentum=momentum)
    scale = optax.scale_by_stddev if centered else optax.scale_by_rms
    rule = scale(alpha, eps, eps_in_sqrt=False)
    if not is_zero(momentum):
        rule = optax.chain(rule, optax.trace(momentum))
    return assemble("rmsprop", rule, lr, weight_decay=weight_decay, maximize=maximize)
