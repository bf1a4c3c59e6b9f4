"""In-Place Activated BatchNorm - Rota Bulo, Porzi, Kontschieder 2018, https://arxiv.org/abs/1712.02616

Status: mapillary/inplace_abn, whose kernels scale by |weight| + eps where BatchNorm scales by weight. Nothing is in
place here; that was for memory. In a checkpoint for plain BatchNorm the weight must become |weight| + eps.
"""

import jax.numpy as jnp
from jaxtyping import Array

from flax_attn.layers import BatchNorm2d, leaky_relu, relu, require
from flax_attn.shapes import Image


class ABN(BatchNorm2d):
    """BatchNorm of x (n, h, w, c), then "leaky_relu" with slope ``activation_param``, "relu" or "identity"."""

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
    """``ABN`` that scales by |weight| + eps."""

    def gain(self, scale: Array) -> Array:
        return jnp.abs(scale) + self.eps
