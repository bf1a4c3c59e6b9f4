"""Non-local Neural Networks - Wang, Girshick, Gupta, He 2018, https://arxiv.org/abs/1711.07971

Status: AlexHex7/Non-local_pytorch, whose four files, one a form, all call their classes ``NONLocalBlock1D``, ``2D`` and
``3D``. Here each form has a name of its own, and ``NONLocalBlock*D`` is the embedded Gaussian, upstream's default.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from flax_attn import layers
from flax_attn.layers import BatchNorm, Conv, Conv2d, Module, Sequential, einsum, init, relu, require, softmax
from flax_attn.shapes import Weights

POOL = {1: 2, 2: (2, 2), 3: (1, 2, 2)}


def tokens(x: Float[Array, "n *space c"]) -> Float[Array, "n s c"]:
    """One row a position, in row-major order."""
    return x.reshape(x.shape[0], -1, x.shape[-1])


class _NonLocalBlockND(Module):
    """Add to each position of x (n, *space, c) a projection of the mean of all positions, weighted by ``pairwise``.

    Args:
        inter_channels: width of the embedding; half of ``in_channels`` when None.
        dimension: number of spatial axes, 1, 2 or 3.
        sub_sample: halve height and width of the positions attended to by max pooling.
        bn_layer: BatchNorm after the projection. It, or else the projection, starts at zero: the block is the identity.

    Returns:
        x plus the projection, and with ``return_nl_map=True`` also the weights (n, positions, positions attended to).
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
        require(self.dimension in POOL, f"{who}: expected dimension 1, 2 or 3, got {self.dimension}")

    @property
    def inner(self) -> int:
        return self.inter_channels or max(self.in_channels // 2, 1)

    def setup(self) -> None:
        self.g = self.pooled(self.conv(self.in_channels, self.inner))
        self.W = self.projection()
        self.embed()

    def conv(self, inputs: int, outputs: int, **kwargs: init.Initializer) -> Conv:
        return getattr(layers, f"Conv{self.dimension}d")(inputs, outputs, 1, **kwargs)

    def pool(self) -> Module:
        return getattr(layers, f"MaxPool{self.dimension}d")(POOL[self.dimension])

    def pooled(self, layer: Module) -> Module:
        return Sequential([layer, self.pool()]) if self.sub_sample else layer

    def projection(self) -> Module:
        if not self.bn_layer:
            return self.conv(self.inner, self.in_channels, kernel_init=init.zeros, bias_init=init.zeros)
        norm: type[BatchNorm] = getattr(layers, f"BatchNorm{self.dimension}d")
        return Sequential([self.conv(self.inner, self.in_channels), norm(self.in_channels, scale_init=init.zeros)])

    def embed(self) -> None:
        """Create what ``pairwise`` needs."""
        self.theta = self.conv(self.in_channels, self.inner)
        self.phi = self.pooled(self.conv(self.in_channels, self.inner))

    def pairwise(self, x: Array) -> Weights:
        """The weight of each position attended to (k), for each position (q)."""
        raise NotImplementedError

    def scores(self, x: Array) -> Weights:
        return einsum("nqc,nkc->nqk", tokens(self.theta(x)), tokens(self.phi(x)), wide=True)

    def __call__(self, x: Array, return_nl_map: bool = False, train: bool = False) -> Array | tuple[Array, Weights]:
        self.check_channels(x, self.in_channels, [self.dimension + 2])
        x = self.cast(x)
        nl_map = self.pairwise(x).astype(x.dtype)
        y = einsum("nqk,nkc->nqc", nl_map, tokens(self.g(x)))
        z = self.W(y.reshape(*x.shape[:-1], self.inner), train=train) + x
        return (z, nl_map) if return_nl_map else z


class EmbeddedGaussianNonLocalBlock(_NonLocalBlockND):
    """Weights softmax(theta(x) phi(x)^T), not scaled: dot-product self-attention with one head."""

    def pairwise(self, x: Array) -> Weights:
        return softmax(self.scores(x))


class GaussianNonLocalBlock(_NonLocalBlockND):
    """Weights softmax(x x^T), without embedding."""

    def embed(self) -> None:
        if self.sub_sample:
            self.phi = self.pool()

    def pairwise(self, x: Array) -> Weights:
        keys = self.phi(x) if self.sub_sample else x
        return softmax(einsum("nqc,nkc->nqk", tokens(x), tokens(keys), wide=True))


class DotProductNonLocalBlock(_NonLocalBlockND):
    """Weights theta(x) phi(x)^T divided by the number of positions attended to."""

    def pairwise(self, x: Array) -> Weights:
        scores = self.scores(x)
        return scores / scores.shape[-1]


class ConcatenationNonLocalBlock(_NonLocalBlockND):
    """Weights relu(w [theta(x), phi(x)]) divided by the number of positions attended to."""

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
