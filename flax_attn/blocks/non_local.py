"""Non-local Neural Networks - Wang, Girshick, Gupta, He 2018, https://arxiv.org/abs/1711.07971

Follows: AlexHex7/Non-local_pytorch.
Differs: upstream has one file for each form of ``pairwise``, and each file calls its classes ``NONLocalBlock1D``,
``NONLocalBlock2D`` and ``NONLocalBlock3D``. Here each form has a name of its own. The three names are those of the
embedded Gaussian form, upstream's default.
"""

import dataclasses

import jax.numpy as jnp
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
    einsum,
    init,
    relu,
    require,
    softmax,
)
from flax_attn.shapes import Weights

CONVS = {1: Conv1d, 2: Conv2d, 3: Conv3d}
NORMS = {1: BatchNorm1d, 2: BatchNorm2d, 3: BatchNorm3d}
POOLS = {1: MaxPool1d, 2: MaxPool2d, 3: MaxPool3d}
WINDOWS: dict[int, int | tuple[int, ...]] = {1: 2, 2: (2, 2), 3: (1, 2, 2)}


def tokens(x: Float[Array, "n *space c"]) -> Float[Array, "n s c"]:
    """One token for each position, in row-major order."""
    return x.reshape(x.shape[0], -1, x.shape[-1])


class _NonLocalBlockND(Module):
    """Add to each position of x (n, *space, c) a projected mean of all positions, with the weights of ``pairwise``.

    Args:
        inter_channels: width of the embedding; half of ``in_channels`` when None.
        dimension: number of spatial axes, 1, 2 or 3.
        sub_sample: reduce the keys and values by max pooling, which halves length, or height and width.
        bn_layer: whether a BatchNorm follows the projection. The last of the two layers starts at zero, so that a new
            block is the identity.

    Returns x plus the projection. With ``attention_weights=True`` the call returns also the weights (n, queries, keys).
    ``return_nl_map`` is upstream's name of the same argument.
    """

    in_channels: int
    inter_channels: int | None = None
    dimension: int = 3
    sub_sample: bool = True
    bn_layer: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        who = type(self).__name__
        require(self.in_channels >= 1, f"{who}: expected in_channels >= 1, got {self.in_channels}")
        inner = self.inter_channels
        require(inner is None or inner >= 1, f"{who}: expected inter_channels None or >= 1, got {inner}")
        require(self.dimension in CONVS, f"{who}: expected dimension 1, 2 or 3, got {self.dimension}")

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

    def pairwise(self, x: Array) -> Weights:
        """The weights of each query for all keys."""
        raise NotImplementedError

    def scores(self, x: Array) -> Weights:
        return einsum("nqc,nkc->nqk", tokens(self.theta(x)), tokens(self.phi(x)), wide=True)

    def __call__(
        self, x: Array, return_nl_map: bool = False, attention_weights: bool = False, train: bool = False
    ) -> Array | tuple[Array, Weights]:
        self.check_channels(x, self.in_channels, [self.dimension + 2])
        x = self.cast(x)
        nl_map = self.pairwise(x).astype(x.dtype)
        y = einsum("nqk,nkc->nqc", nl_map, tokens(self.g(x)))
        z = self.W(y.reshape(*x.shape[:-1], self.inner), train=train) + x
        return (z, nl_map) if return_nl_map or attention_weights else z


class EmbeddedGaussianNonLocalBlock(_NonLocalBlockND):
    """The weights are softmax(theta(x) phi(x)^T): dot-product self-attention with one head, but not scaled."""

    def pairwise(self, x: Array) -> Weights:
        return softmax(self.scores(x), -1)


class GaussianNonLocalBlock(_NonLocalBlockND):
    """The weights are softmax(x x^T), without an embedding."""

    def embed(self) -> None:
        if self.sub_sample:
            self.phi = self.pool()

    def pairwise(self, x: Array) -> Weights:
        keys = self.phi(x) if self.sub_sample else x
        return softmax(einsum("nqc,nkc->nqk", tokens(x), tokens(keys), wide=True), -1)


class DotProductNonLocalBlock(_NonLocalBlockND):
    """The weights are theta(x) phi(x)^T, divided by the number of keys."""

    def pairwise(self, x: Array) -> Weights:
        scores = self.scores(x)
        return scores / scores.shape[-1]


class ConcatenationNonLocalBlock(_NonLocalBlockND):
    """The weights are relu(w [theta(x), phi(x)]), divided by the number of keys."""

    def embed(self) -> None:
        super().embed()
        self.concat_project = Sequential([Conv2d(2 * self.inner, 1, 1, bias=False), relu])

    def pairwise(self, x: Array) -> Weights:
        theta, phi = tokens(self.theta(x))[:, :, None], tokens(self.phi(x))[:, None]
        shape = (x.shape[0], theta.shape[1], phi.shape[2], self.inner)
        pairs = jnp.concatenate([jnp.broadcast_to(theta, shape), jnp.broadcast_to(phi, shape)], -1)
        return self.concat_project(pairs)[..., 0] / shape[2]


class NONLocalBlock1D(EmbeddedGaussianNonLocalBlock):
    """The embedded Gaussian form on (n, l, c)."""

    dimension: int = dataclasses.field(default=1, init=False)


class NONLocalBlock2D(EmbeddedGaussianNonLocalBlock):
    """The embedded Gaussian form on (n, h, w, c)."""

    dimension: int = dataclasses.field(default=2, init=False)


class NONLocalBlock3D(EmbeddedGaussianNonLocalBlock):
    """The embedded Gaussian form on (n, d, h, w, c)."""

    dimension: int = dataclasses.field(default=3, init=False)
