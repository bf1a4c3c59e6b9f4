"""End-to-End Object Detection with Transformers - Carion, Massa, Synnaeve et al. 2020, https://arxiv.org/abs/2005.12872

Follows: facebookresearch/detr. The sine embedding has y first, the learned one x first. In the sine embedding a padded
position has the count of the last position that is not padded.
Differs: upstream takes one pair of images and mask; here they are two arguments. The sine embedding has the precision
of float32, as upstream's has, also in a float64 network. Where JAX has float64 on, each operation is exact and then
rounded to float32. PyTorch's own float32 sines differ from these in the last bit, for about 3 % of the numbers.
"""

import math

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from flax_attn.layers import Embedding, Module, init, require
from flax_attn.shapes import Image, Padding

Position = Float[Array, "n h w p"]


def rounded(x: Array) -> Array:
    """x, rounded to the precision of float32."""
    return lax.reduce_precision(x, exponent_bits=8, mantissa_bits=23)


class PositionEmbeddingSine(Module):
    """Sines and cosines of the row, then of the column, of each position of x. Padded positions are not counted.

    Args:
        num_pos_feats: the number of features for the row, and again for the column.
        normalize: whether rows and columns are rescaled to run from 0 to ``scale``.
        scale: 2 pi when None; refused without ``normalize``.

    The embedding has float32 numbers, in the dtype of x. ``mask`` (n, h, w) is True where x is padding.
    """

    num_pos_feats: int = 64
    temperature: float = 10000.0
    normalize: bool = False
    scale: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        feats = self.num_pos_feats
        even = feats >= 2 and feats % 2 == 0
        require(even, f"PositionEmbeddingSine: expected an even num_pos_feats >= 2, got {feats}")
        alone = self.scale is not None and not self.normalize
        require(not alone, f"PositionEmbeddingSine: expected normalize=True with a scale, got scale={self.scale}")

    def __call__(self, x: Image, mask: Padding, train: bool = False) -> Position:
        expected = f"PositionEmbeddingSine: expected a mask of shape {x.shape[:3]}"
        require(mask.shape == x.shape[:3], f"{expected}, got {mask.shape}")
        y, z = (jnp.cumsum(~mask, axis, dtype=float) for axis in (1, 2))
        if self.normalize:
            y, z = self.normalized(y, y[:, -1:]), self.normalized(z, z[:, :, -1:])
        return jnp.concatenate([self.waves(y), self.waves(z)], -1).astype(self.cast(x).dtype)

    def normalized(self, count: Array, last: Array) -> Array:
        scale = 2 * math.pi if self.scale is None else self.scale
        return rounded(rounded(count / rounded(last + np.float32(1e-6))) * np.float32(scale))

    def waves(self, count: Float[Array, "n h w"]) -> Position:
        i = np.arange(self.num_pos_feats)
        exponent = np.float32(2 * (i // 2) / self.num_pos_feats)
        period = np.float32(self.temperature ** np.float64(exponent))
        angle = rounded(count[..., None] / period)
        return rounded(jnp.where(i % 2 == 0, jnp.sin(angle), jnp.cos(angle)))


class PositionEmbeddingLearned(Module):
    """A learned vector of the column, then of the row, of each position of x, which has at most 50 rows and columns.

    ``mask`` is ignored.
    """

    num_pos_feats: int = 256

    def setup(self) -> None:
        self.row_embed = Embedding(50, self.num_pos_feats, embedding_init=init.uniform(0.0, 1.0))
        self.col_embed = Embedding(50, self.num_pos_feats, embedding_init=init.uniform(0.0, 1.0))

    def __call__(self, x: Image, mask: Padding | None = None, train: bool = False) -> Position:
        n, h, w, _ = x.shape
        require(max(h, w) <= 50, f"PositionEmbeddingLearned: expected at most 50 rows and columns, got {h}, {w}")
        column, row = self.col_embed(jnp.arange(w)), self.row_embed(jnp.arange(h))
        shape = (n, h, w, self.num_pos_feats)
        pair = jnp.broadcast_to(column, shape), jnp.broadcast_to(row[:, None], shape)
        return self.cast(jnp.concatenate(pair, -1))
