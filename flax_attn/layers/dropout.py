"""``torch.nn.Dropout``, ``Dropout1d`` to ``Dropout3d`` (whole channels), ``AlphaDropout`` and timm's ``DropPath``
(whole samples).

All draw from the rng stream "dropout" and do nothing unless ``train=True``."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array

from flax_attn.layers.activation import SELU_ALPHA, SELU_SCALE
from flax_attn.layers.module import Module, require


class Dropout(Module):
    """Zero each element with probability ``p`` and scale the rest by 1/(1-p); p=1 gives zeros."""

    p: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.p <= 1, f"{type(self).__name__}: expected a probability p in [0, 1], got {self.p}")

    def __call__(self, x: Array, train: bool = False) -> Array:
        x = jnp.asarray(x)
        if not train or self.p == 0:
            return x
        if self.p == 1:
            return jnp.zeros_like(x)
        keep = jax.random.bernoulli(self.make_rng("dropout"), 1 - self.p, self.mask_shape(x.shape))
        return self.drop(x, keep).astype(x.dtype)

    def drop(self, x: Array, keep: Array) -> Array:
        """x with what becomes of the elements that are not kept."""
        return jnp.where(keep, x / (1 - self.p), 0)

    @property
    def follows_train(self) -> bool:
        return True

    def mask_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of one draw; axes of length 1 are dropped together."""
        return tuple(shape)


class _ChannelDropout(Dropout):
    def mask_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        return (shape[0], *(1 for _ in shape[1:-1]), shape[-1])


class Dropout1d(_ChannelDropout):
    """Zero whole channels of (n, l, c)."""


class Dropout2d(_ChannelDropout):
    """Zero whole channels of (n, h, w, c)."""


class Dropout3d(_ChannelDropout):
    """Zero whole channels of (n, d, h, w, c)."""


class AlphaDropout(Dropout):
    """Set each element to the lower limit of SELU with probability ``p``, and keep mean 0 and variance 1; for SELU.

    Kept and set elements are scaled and shifted alike, such that an input of mean 0 and variance 1 stays so. p=1 gives
    zeros.
    """

    def drop(self, x: Array, keep: Array) -> Array:
        limit = -SELU_ALPHA * SELU_SCALE
        scale = ((limit**2 * self.p + 1) * (1 - self.p)) ** -0.5
        return jnp.where(keep, x, limit) * scale - limit * self.p * scale


class DropPath(Dropout):
    """Zero whole samples: stochastic depth for a residual branch."""

    p: float = 0.0

    def mask_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        return (shape[0], *(1 for _ in shape[1:]))
