"""Non-local Neural Networks - Wang, Girshick, Gupta, He 2018, https://arxiv.org/abs/1711.07971

Follows: AlexHex7/Non-local_pytorch.
Differs: upstream has one file for each form of ``pairwise``, and each file calls its classes ``NONLocalBlock1D``,
``NONLocalBlock2D`` and ``NONLocalBlock3D``. Here each form has a name of its own. The three names are those of the
embedded Gaussian form, upstream's default.
"""

import dataclasses

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from flax_attn.layers import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    Conv,
    Conv1d,
    Conv2d,
    Conv3d,
    MaxPool1d,
    MaxPool2d,
    MaxPool3d,
    Module,
    Sequential,
    check_query_block,
    einsum,
    init,
    relu,
    require,
    softmax,
    weighted_sum,
)
from flax_attn.shapes import Tokens, Weights

CONVS = {1: Conv1d, 2: Conv2d, 3: Conv3d}
NORMS = {1: BatchNorm1d, 2: BatchNorm2d, 3: BatchNorm3d}
POOLS = {1: MaxPool1d, 2: MaxPool2d, 3: MaxPool3d}
WINDOWS: dict[int, int | tuple[int, ...]] = {1: 2, 2: (2, 2), 3: (1, 2, 2)}


def tokens(x: Float[Array, "n *space c"]) -> Float[Array, "n s c"]:
    """One token for each position, in row-major order."""
    return lax.collapse(x, 1, x.ndim - 1)


class _NonLocalBlockND(Module):
    """Add to each position of x (n, *space, c) a projected mean of all positions, with the weights of ``pairwise``.

    Args:
        inter_channels: width of the embedding; half of ``in_channels`` when None.
        dimension: number of spatial axes, 1, 2 or 3.
        sub_sample: reduce the keys and values by max pooling, which halves length, or height and width.
        bn_layer: whether a BatchNorm follows the projection. The last of the two layers starts at zero, so that a new
            block is the identity.
        query_block: of how many queries the weights are in memory at a time: that of ``layers.weighted_sum``.

    Returns x plus the projection. With ``attention_weights=True`` the call returns also the weights (n, queries, keys),
    which are then all in memory.
    ``return_nl_map`` is upstream's name of the same argument.
    """

    in_channels: int
    inter_channels: int | None = None
    dimension: int = 3
    sub_sample: bool = True
    bn_layer: bool = True
    query_block: int | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        who = type(self).__name__
        require(self.in_channels >= 1, f"{who}: expected in_channels >= 1, got {self.in_channels}")
        inner = self.inter_channels
        require(inner is None or inner >= 1, f"{who}: expected inter_channels None or >= 1, got {inner}")
        require(self.dimension in CONVS, f"{who}: expected dimension 1, 2 or 3, got {self.dimension}")
        check_query_block(who, self.query_block)

    @property
    def inner(self) -> int:
        return self.inter_channels or max(self.in_channels // 2, 1)

    def setup(self) -> None:
        self.g = self.pooled(self.conv(self.in_channels, self.inner))
        self.W = self.projection()
        self.embed()

    def conv(self, inputs: int, outputs: int) -> Conv:
        return CONVS[self.dimension](inputs, outputs, 1)

    def pool(self) -> Module:
        return POOLS[self.dimension](WINDOWS[self.dimension])

    def pooled(self, layer: Module) -> Module:
        return Sequential([layer, self.pool()]) if self.sub_sample else layer

    def projection(self) -> Module:
        if not self.bn_layer:
            conv = CONVS[self.dimension]
            return conv(self.inner, self.in_channels, 1, kernel_init=init.zeros, bias_init=init.zeros)
        norm = NORMS[self.dimension](self.in_channels, scale_init=init.zeros)
        return Sequential([self.conv(self.inner, self.in_channels), norm])

    def embed(self) -> None:
        """Create the layers that ``pairwise`` needs."""
        self.theta = self.conv(self.in_channels, self.inner)
        self.phi = self.pooled(self.conv(self.in_channels, self.inner))

    def embedded(self, x: Array) -> tuple[Tokens, Array]:
        """The queries and the keys of ``pairwise``."""
        return tokens(self.theta(x)), tokens(self.phi(x))

    def pairwise(self, query: Tokens, key: Array) -> Weights:
        """The weights of each query for all keys."""
        raise NotImplementedError

    def scores(self, query: Tokens, key: Array) -> Weights:
        return einsum("nqc,nkc->nqk", query, key, wide=True)

    def __call__(
        self, x: Array, return_nl_map: bool = False, train: bool = False, attention_weights: bool = False
    ) -> Array | tuple[Array, Weights]:
        self.check_channels(x, self.in_channels, [self.dimension + 2])
        x = self.cast(x)
        query, key = self.embedded(x)
        need = return_nl_map or attention_weights

        def weigh(query: Tokens) -> Weights:
            return self.pairwise(query, key).astype(x.dtype)

        y, nl_map = weighted_sum(weigh, query, tokens(self.g(x)), query_block=self.query_block, need_weights=need)
        z = self.W(y.reshape(*x.shape[:-1], self.inner), train=train) + x
        return (z, nl_map) if need else z


class EmbeddedGaussianNonLocalBlock(_NonLocalBlockND):
    """The weights are softmax(theta(x) phi(x)^T): dot-product self-attention with one head, but not scaled."""

    def pairwise(self, query: Tokens, key: Array) -> Weights:
        return softmax(self.scores(query, key), -1)


class GaussianNonLocalBlock(_NonLocalBlockND):
    """The weights are softmax(x x^T), without an embedding."""

    def embed(self) -> None:
        if self.sub_sample:
            self.phi = self.pool()

    def embedded(self, x: Array) -> tuple[Tokens, Array]:
        return tokens(x), tokens(self.phi(x) if self.sub_sample else x)

    def pairwise(self, query: Tokens, key: Array) -> Weights:
        return softmax(self.scores(query, key))


class DotProductNonLocalBlock(_NonLocalBlockND):
    """The weights are theta(x) phi(x)^T, divided by the number of keys."""

    def pairwise(self, query: Tokens, key: Array) -> Weights:
        return self.scores(query, key) / key.shape[1]


class ConcatenationNonLocalBlock(_NonLocalBlockND):
    """The weights are relu(w [theta(x), phi(x)]), divided by the number of keys."""

    def embed(self) -> None:
        super().embed()
        self.concat_project = Sequential([Conv2d(2 * self.inner, 1, 1, bias=False), relu])

    def embedded(self, x: Array) -> tuple[Tokens, Array]:
        """What each query and each key adds to w [theta(x), phi(x)]: one number."""
        query, key = super().embedded(x)
        conv, _ = self.concat_project.layers
        halves = [query, jnp.zeros_like(query)], [jnp.zeros_like(key), key]
        query, key = (conv(jnp.concatenate(half, -1)[:, :, None])[:, :, 0] for half in halves)
        return query, key

    def pairwise(self, query: Tokens, key: Array) -> Weights:
        return relu(query + key.swapaxes(1, 2)) / key.shape[1]


class NONLocalBlock1D(EmbeddedGaussianNonLocalBlock):
    """The embedded Gaussian form on (n, l, c)."""

    dimension: int = dataclasses.field(default=1, init=False)


class NONLocalBlock2D(EmbeddedGaussianNonLocalBlock):
    """The embedded Gaussian form on (n, h, w, c)."""

    dimension: int = dataclasses.field(default=2, init=False)


class NONLocalBlock3D(EmbeddedGaussianNonLocalBlock):
    """The embedded Gaussian form on (n, d, h, w, c)."""

    dimension: int = dataclasses.field(default=3, init=False)
