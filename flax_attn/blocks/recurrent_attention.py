"""Recurrent Models of Visual Attention - Mnih, Heess, Graves, Kavukcuoglu 2014, https://arxiv.org/abs/1406.6247

Follows: kevinzakka/recurrent-visual-attention. Its checkpoints were trained with an older locator and baseline: here
``OldLocationNetwork`` and ``OldBaselineNetwork``.
Differs: upstream's patches of odd size fall short at the far edge and raise; here the border is wide enough. Upstream
uses the height for both axes; here each axis has its own length.

Noise may be passed in; otherwise it is drawn from the rng stream "sample".
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from flax_attn.layers import Linear, Module, accumulator, avg_pool, flatten, log_softmax, relu, require
from flax_attn.shapes import Image, PatchBoxes, Place, Scores, State


def pixel(x: Image, place: Place) -> Int[Array, "n 2"]:
    """The column and the row of ``place`` in x, rounded down."""
    extent = jnp.array([x.shape[2], x.shape[1]])
    place = lax.stop_gradient(place.astype(accumulator(place.dtype))).clip(-1, 1)
    return (0.5 * (place + 1) * extent).astype(int)


def patch(x: Image, place: Place, size: int) -> Float[Array, "n p p c"]:
    """The ``size`` x ``size`` pixels around ``place``; beyond the edge of the image they are zero.

    ``place`` is (x, y), clipped to [-1, 1]. No gradient flows to ``place``.
    """
    before = size // 2
    pads = [(0, 0), (before, size - before), (before, size - before), (0, 0)]

    def crop(image: Float[Array, "h w c"], corner: Array) -> Float[Array, "p p c"]:
        return lax.dynamic_slice(image, (corner[1], corner[0], 0), (size, size, image.shape[-1]))

    return jax.vmap(crop)(jnp.pad(x, pads), pixel(x, place))


def patch_boxes(x: Image, place: Place, sizes: Sequence[int]) -> PatchBoxes:
    """The edges of each patch around ``place``, which may lie beyond those of the image."""
    size = jnp.array(sizes)[:, None]
    start = pixel(x, place)[:, None] - size // 2
    return jnp.concatenate([start, start + size], -1)


def patch_sizes(g: int, k: int, s: float) -> list[int]:
    """The height, and width, in pixels of each of the ``k`` patches."""
    sizes = []
    for _ in range(k):
        sizes.append(g)
        g = int(s * g)
    return sizes


class Retina(Module):
    """``k`` square patches of x around the place ``l``, all pooled to ``g`` x ``g`` pixels and flattened.

    The first patch has ``g`` x ``g`` pixels, and each next one is ``s`` times as large. Returns (n, k * c * g * g) in
    the order in which PyTorch flattens. Raises ValueError for g, k or s below 1, and for a patch of ``size`` x ``size``
    pixels that average pooling with kernel size ``size // g`` does not bring to ``g`` x ``g``.

    With ``attention_weights=True`` the call returns also the box (n, k, 4) of each patch: (left, top, right, bottom) in
    pixels. Row ``top`` and column ``left`` are the first inside, and row ``bottom`` and column ``right`` the first
    behind.
    """

    g: int
    k: int
    s: float

    def __post_init__(self) -> None:
        super().__post_init__()
        got = (self.g, self.k, self.s)
        require(min(got) >= 1, f"Retina: expected g, k, s >= 1, got {got}")
        sizes = patch_sizes(*got)
        fit = all(size // (size // self.g) == self.g for size in sizes)
        require(fit, f"Retina: expected sizes that a pooling by size // g shrinks to g={self.g}, got {sizes}")

    def __call__(
        self,
        x: Image,
        l: Place,  # noqa: E741
        train: bool = False,
        attention_weights: bool = False,
    ) -> State | tuple[State, PatchBoxes]:
        require(l.shape == (x.shape[0], 2), f"Retina: expected places of shape {(x.shape[0], 2)}, got {l.shape}")
        x, sizes = self.cast(x), patch_sizes(self.g, self.k, self.s)
        y = flatten(jnp.concatenate([avg_pool(patch(x, l, size), size // self.g) for size in sizes], -1))
        return (y, patch_boxes(x, l, sizes)) if attention_weights else y


class GlimpseNetwork(Module):
    """One vector (n, h_g + h_l) from the patches around ``l_t_prev`` and from ``l_t_prev`` itself.

    With ``attention_weights=True`` the call returns also the boxes (n, k, 4) of the patches, as ``Retina`` does.
    """

    h_g: int
    h_l: int
    g: int
    k: int
    s: float
    c: int

    def setup(self) -> None:
        self.retina = Retina(self.g, self.k, self.s)
        self.fc1 = Linear(self.k * self.g * self.g * self.c, self.h_g)
        self.fc2 = Linear(2, self.h_l)
        self.fc3 = Linear(self.h_g, self.h_g + self.h_l)
        self.fc4 = Linear(self.h_l, self.h_g + self.h_l)

    def __call__(
        self, x: Image, l_t_prev: Place, train: bool = False, attention_weights: bool = False
    ) -> State | tuple[State, PatchBoxes]:
        seen, boxes = self.retina(x, l_t_prev, attention_weights=True)
        what = self.fc3(relu(self.fc1(seen)))
        where = self.fc4(relu(self.fc2(l_t_prev)))
        y = relu(what + where)
        return (y, boxes) if attention_weights else y


class CoreNetwork(Module):
    """The next state of a plain recurrent network: relu(i2h(g_t) + h2h(h_t_prev))."""

    input_size: int
    hidden_size: int

    def setup(self) -> None:
        self.i2h = Linear(self.input_size, self.hidden_size)
        self.h2h = Linear(self.hidden_size, self.hidden_size)

    def __call__(self, g_t: Float[Array, "n g"], h_t_prev: State, train: bool = False) -> State:
        return relu(self.i2h(g_t) + self.h2h(h_t_prev))


class ActionNetwork(Module):
    """Log-probabilities of the classes."""

    input_size: int
    output_size: int

    def setup(self) -> None:
        self.fc = Linear(self.input_size, self.output_size)

    def __call__(self, h_t: State, train: bool = False) -> Scores:
        return log_softmax(self.fc(h_t))


def log_density(x: Place, mean: Place, std: float) -> Float[Array, " n"]:
    """The log-density of N(mean, std) at x, summed over both axes."""
    return (-0.5 * jnp.square((x - mean) / std) - math.log(std * math.sqrt(2 * math.pi))).sum(-1)


class _Locator(Module):
    input_size: int
    output_size: int
    std: float

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.std > 0, f"{type(self).__name__}: expected std > 0, got {self.std}")

    def mean(self, y: Array) -> Place:
        """tanh(y), in float32 at least, because the density subtracts places."""
        return jnp.tanh(y.astype(accumulator(y.dtype)))

    def sample(self, mean: Place, noise: Place | None) -> Place:
        """mean + std * noise, without gradient."""
        if noise is None:
            noise = jax.random.normal(self.make_rng("sample"), mean.shape, mean.dtype)
        expected = f"{type(self).__name__}: expected noise of shape {mean.shape}"
        require(noise.shape == mean.shape, f"{expected}, got {noise.shape}")
        return lax.stop_gradient(mean + self.std * noise.astype(mean.dtype))


class LocationNetwork(_Locator):
    """Where to look next: returns the log-density (n,) of the place, and the place (n, 2), clipped to [-1, 1].

    The place is random in eval mode too. ``noise`` (n, 2) is standard normal. No gradient flows to the state ``h_t``,
    nor through the place.
    """

    def setup(self) -> None:
        self.fc = Linear(self.input_size, self.input_size // 2)
        self.fc_lt = Linear(self.input_size // 2, self.output_size)

    def __call__(self, h_t: State, noise: Place | None = None, train: bool = False) -> tuple[Float[Array, " n"], Place]:
        y = self.fc_lt(relu(self.fc(lax.stop_gradient(h_t))))
        mean = self.mean(y)
        place = self.sample(mean, noise)
        return log_density(place, mean, self.std).astype(y.dtype), jnp.clip(place, -1, 1).astype(y.dtype)


class OldLocationNetwork(_Locator):
    """The locator of upstream's checkpoints: it has one layer, and applies tanh to the place instead of clipping."""

    def setup(self) -> None:
        self.fc = Linear(self.input_size, self.output_size)

    def __call__(self, h_t: State, noise: Place | None = None, train: bool = False) -> tuple[Float[Array, " n"], Place]:
        y = self.fc(lax.stop_gradient(h_t))
        mean = self.mean(y)
        place = jnp.tanh(self.sample(mean, noise))
        return log_density(place, mean, self.std).astype(y.dtype), place.astype(y.dtype)


class BaselineNetwork(Module):
    """The expected reward in state ``h_t``. No gradient flows to ``h_t``."""

    input_size: int
    output_size: int

    def setup(self) -> None:
        self.fc = Linear(self.input_size, self.output_size)

    def __call__(self, h_t: State, train: bool = False) -> Scores:
        return self.fc(lax.stop_gradient(h_t))


class OldBaselineNetwork(BaselineNetwork):
    """The baseline of upstream's checkpoints: a BaselineNetwork and a ReLU."""

    def __call__(self, h_t: State, train: bool = False) -> Scores:
        return relu(super().__call__(h_t))


def reinforce_loss(
    log_pi: Float[Array, "n t"], reward: Float[Array, "n t"], baseline: Float[Array, "n t"], weight: float = 0.01
) -> Float[Array, ""]:
    """Mean squared error of the baseline, plus ``weight`` times the REINFORCE loss -log_pi * (reward - baseline).

    The REINFORCE loss is summed over the t steps and averaged over the batch; no gradient flows through
    (reward - baseline). The caller adds the loss of the classifier, and any entropy term. Raises ValueError for shapes
    other than (n, t).
    """
    shapes = [a.shape for a in (log_pi, reward, baseline)]
    fit = len(set(shapes)) == 1 and log_pi.ndim == 2
    require(fit, f"reinforce_loss: expected log_pi, reward and baseline of one shape (n, t), got {shapes}")
    log_pi, reward, baseline = (a.astype(accumulator(a.dtype)) for a in (log_pi, reward, baseline))
    advantage = lax.stop_gradient(reward - baseline)
    return jnp.square(baseline - reward).mean() - weight * (log_pi * advantage).sum(1).mean()
