"""In-Place Activated BatchNorm - Rota Bulo, Porzi, Kontschieder 2018, https://arxiv.org/abs/1712.02616

Follows: mapillary/inplace_abn, whose kernels scale by |weight| + eps, where BatchNorm scales by weight.
Differs: nothing is computed in place, which upstream does to save memory. To use a checkpoint of InPlaceABN with plain
BatchNorm, replace each weight by |weight| + eps.
"""

import jax.numpy as jnp
from jaxtyping import Array

from flax_attn.layers import BatchNorm2d, leaky_relu, relu, require
from flax_attn.shapes import Image


class ABN(BatchNorm2d):
    """BatchNorm of x (n, h, w, c) and an activation.

    Args:
        activation: "leaky_relu", "relu" or "identity".
        activation_param: the negative slope of the leaky ReLU.
    """

    activation: str = "leaky_relu"
    activation_param: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        known = ("leaky_relu", "relu", "identity")
        who, got = type(self).__name__, self.activation
        require(got in known, f"{who}: expected activation 'leaky_relu', 'relu' or 'identity', got {got!r}")

    def __call__(self, x: Image, train: bool = False) -> Image:
        y = super().__call__(x, train)
        if self.activation == "relu":
            return relu(y)
        return y if self.activation == "identity" else leaky_relu(y, self.activation_param)


class InPlaceABN(ABN):
    """An ``ABN`` that scales by |weight| + eps instead of weight."""

    def gain(self, scale: Array) -> Array:
        return jnp.abs(scale) + self.eps
