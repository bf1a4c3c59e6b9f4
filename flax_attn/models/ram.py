"""Recurrent Models of Visual Attention - Mnih, Heess, Graves, Kavukcuoglu 2014, https://arxiv.org/abs/1406.6247

Status: kevinzakka/recurrent-visual-attention. ``OldRecurrentAttention`` is the network of its published checkpoints,
which its present code cannot load. Upstream squeezes the baseline, which loses the batch axis of one sample; here it is
kept.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from numpy.typing import ArrayLike

from flax_attn.blocks.recurrent_attention import (
    ActionNetwork,
    BaselineNetwork,
    CoreNetwork,
    GlimpseNetwork,
    LocationNetwork,
    OldBaselineNetwork,
    OldLocationNetwork,
)
from flax_attn.layers import Module
from flax_attn.shapes import Image, Place, Scores, State


class RecurrentAttention(Module):
    """One glimpse: from image, place and state to (state, next place, baseline (n,), log-density of the place (n,)).

    With ``last=True`` the log-probabilities of the classes stand before the log-density. ``noise`` (n, 2) is that of
    the next place, standard normal; drawn from the rng stream "sample" when None.

    Args:
        g, k, s: size, number and growth of the patches. c: channels of the image.
        h_g, h_l: widths for what and where. std: deviation of the places.
    """

    g: int
    k: int
    s: float
    c: int
    h_g: int
    h_l: int
    std: float
    hidden_size: int
    num_classes: int

    locator_class: ClassVar[Callable[..., Module]] = LocationNetwork
    baseliner_class: ClassVar[Callable[..., Module]] = BaselineNetwork

    def setup(self) -> None:
        self.sensor = GlimpseNetwork(self.h_g, self.h_l, self.g, self.k, self.s, self.c)
        self.rnn = CoreNetwork(self.h_g + self.h_l, self.hidden_size)
        self.locator = self.locator_class(self.hidden_size, 2, self.std)
        self.classifier = ActionNetwork(self.hidden_size, self.num_classes)
        self.baseliner = self.baseliner_class(self.hidden_size, 1)

    def __call__(
        self,
        x: Image,
        l_t_prev: Place,
        h_t_prev: State,
        last: bool = False,
        noise: Place | None = None,
        train: bool = False,
    ) -> tuple[Array, ...]:
        h_t = self.rnn(self.sensor(x, l_t_prev), h_t_prev)
        log_pi, l_t = self.locator(h_t, noise)
        b_t = self.baseliner(h_t)[:, 0]
        if last or self.is_initializing():
            log_probas = self.classifier(h_t)
        return (h_t, l_t, b_t, log_probas, log_pi) if last else (h_t, l_t, b_t, log_pi)

    def classify(self, x: Image, start: Place, noise: Float[Array, "t n 2"]) -> Scores:
        """Log-probabilities of the classes after t glimpses, at ``start`` and at the places that ``noise`` leads to.

        The last of the t draws leads to a place that is not looked at any more.
        """
        place, state = start, jnp.zeros((x.shape[0], self.hidden_size), x.dtype)
        for draw in noise[:-1]:
            state, place, _, _ = self(x, place, state, noise=draw)
        return self(x, place, state, last=True, noise=noise[-1])[3]


class OldRecurrentAttention(RecurrentAttention):
    """The same with the locator and the baseline of upstream's checkpoints."""

    locator_class = OldLocationNetwork
    baseliner_class = OldBaselineNetwork


def preprocess(digits: ArrayLike) -> Image:
    """MNIST digits (n, 28, 28, 1), 0 to 255, as upstream normalises them."""
    return (jnp.asarray(digits, jnp.float32) / 255 - 0.1307) / 0.3081


def average_over_trials(
    module: RecurrentAttention, variables: dict, x: Image, num_glimpses: int, trials: int, key: Array
) -> Scores:
    """Log-probabilities averaged over ``trials`` random walks, as upstream tests."""

    def walk(key: Array) -> Any:
        first, rest = jax.random.split(key)
        start = jax.random.uniform(first, (x.shape[0], 2), x.dtype, -1, 1)
        noise = jax.random.normal(rest, (num_glimpses, x.shape[0], 2), x.dtype)
        return module.apply(variables, x, start, noise, method="classify")

    return jax.lax.map(walk, jax.random.split(key, trials)).mean(0)


def ram(num_classes: int = 10) -> RecurrentAttention:
    """Upstream's defaults for MNIST: one patch of 8 x 8 pixels, six glimpses."""
    return RecurrentAttention(8, 1, 1.0, 1, 128, 128, 0.05, 256, num_classes)


def ram_6_8x8_2(num_classes: int = 10) -> OldRecurrentAttention:
    """The network of upstream's checkpoints: six glimpses, which ``average_over_trials`` is told."""
    return OldRecurrentAttention(8, 1, 2.0, 1, 128, 128, 0.17, 256, num_classes)
