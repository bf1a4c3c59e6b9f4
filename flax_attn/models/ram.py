"""Recurrent Models of Visual Attention - Mnih, Heess, Graves, Kavukcuoglu 2014, https://arxiv.org/abs/1406.6247

Follows: kevinzakka/recurrent-visual-attention. ``OldRecurrentAttention`` is the network of its published checkpoints,
which its present code cannot load.

Differs: upstream squeezes the baseline, which loses the batch axis of a batch of one sample. Here the baseline keeps
that axis.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from flax_attn.blocks.recurrent_attention import (
    ActionNetwork,
    BaselineNetwork,
    CoreNetwork,
    GlimpseNetwork,
    LocationNetwork,
    OldBaselineNetwork,
    OldLocationNetwork,
)
from flax_attn.constructor import constructor
from flax_attn.layers import Module
from flax_attn.models.preprocess import mnist
from flax_attn.shapes import Image, Place, Scores, State


class RecurrentAttention(Module):
    """One glimpse at the image x: from a place and a state to the next place and the next state.

    The result is (state, next place, baseline (n,), log-density of the next place (n,)). With ``last=True`` the
    log-probabilities of the classes stand before the log-density. ``noise`` (n, 2) is the standard normal noise of the
    next place. When ``noise`` is None, it is drawn from the rng stream "sample".

    With ``attention_weights=True`` the call returns this tuple and the boxes (n, k, 4) of the patches, as ``Retina``
    does.

    Args:
        g, k, s: side of the smallest patch, number of patches, and the ratio of the sides of two successive patches.
        c: channels of the image.
        h_g, h_l: widths of the hidden layers for the patches and for the place.
        std: standard deviation of the places.
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
        h_g, h_l, hidden_size = self.h_g, self.h_l, self.hidden_size
        self.sensor = GlimpseNetwork(h_g, h_l, self.g, k=self.k, s=self.s, c=self.c)
        self.rnn = CoreNetwork(h_g + h_l, hidden_size)
        self.locator = self.locator_class(hidden_size, 2, self.std)
        self.classifier = ActionNetwork(hidden_size, self.num_classes)
        self.baseliner = self.baseliner_class(hidden_size, 1)

    def __call__(
        self,
        x: Image,
        l_t_prev: Place,
        h_t_prev: State,
        last: bool = False,
        noise: Place | None = None,
        train: bool = False,
        attention_weights: bool = False,
    ) -> tuple[Any, ...]:
        seen, boxes = self.sensor(x, l_t_prev, attention_weights=True)
        h_t = self.rnn(seen, h_t_prev)
        log_pi, l_t = self.locator(h_t, noise)
        b_t = self.baseliner(h_t)[:, 0]
        if last or self.is_initializing():
            log_probas = self.classifier(h_t)
        y = (h_t, l_t, b_t, log_probas, log_pi) if last else (h_t, l_t, b_t, log_pi)
        return (y, boxes) if attention_weights else y

    def classify(
        self, x: Image, start: Place, noise: Float[Array, "t n 2"], attention_weights: bool = False
    ) -> Scores | tuple[Scores, Float[Array, "n t 2"], Int[Array, "n t b 4"]]:
        """Log-probabilities of the classes after t glimpses.

        The first glimpse is at ``start``. Each of the t draws of ``noise`` gives the place of the next glimpse, so that
        the place of the last draw is not used. With ``attention_weights=True`` the result is also the path: the places
        (n, t, 2) of the glimpses, (x, y) from -1 to 1, and the boxes (n, t, k, 4) of their patches.
        """
        place, state = start, jnp.zeros((x.shape[0], self.hidden_size), x.dtype)
        places, boxes = [], []
        for i, draw in enumerate(noise, 1):
            y, seen = self(x, place, state, last=i == len(noise), noise=draw, attention_weights=True)
            places.append(place)
            boxes.append(seen)
            state, place = y[:2]
        return (y[3], jnp.stack(places, 1), jnp.stack(boxes, 1)) if attention_weights else y[3]


class OldRecurrentAttention(RecurrentAttention):
    """A ``RecurrentAttention`` with the locator and the baseline of upstream's published checkpoints."""

    locator_class = OldLocationNetwork
    baseliner_class = OldBaselineNetwork


def average_over_trials(
    module: RecurrentAttention, variables: dict, x: Image, num_glimpses: int, trials: int, key: Array
) -> Scores:
    """Log-probabilities averaged over ``trials`` random walks: upstream's evaluation."""

    def walk(key: Array) -> Any:
        first, rest = jax.random.split(key)
        start = jax.random.uniform(first, (x.shape[0], 2), x.dtype, -1, 1)
        noise = jax.random.normal(rest, (num_glimpses, x.shape[0], 2), x.dtype)
        return module.apply(variables, x, start, noise, method="classify")

    return jax.lax.map(walk, jax.random.split(key, trials)).mean(0)


preprocess = mnist


@constructor(
    RecurrentAttention, preprocess, g=8, k=1, s=1.0, c=1, h_g=128, h_l=128, std=0.05, hidden_size=256, num_classes=10
)
def ram() -> None:
    """Upstream's defaults for MNIST: one patch of 8 x 8 pixels. Upstream takes six glimpses.

    Input: digits (n, 28, 28, 1), pixels from 0 to 1, then normalised as for MNIST; places (n, 2), states (n, 256).
    """


@constructor(
    OldRecurrentAttention, preprocess, g=8, k=1, s=2.0, c=1, h_g=128, h_l=128, std=0.17, hidden_size=256, num_classes=10
)
def ram_6_8x8_2() -> None:
    """The network of upstream's checkpoints. Give ``average_over_trials`` their six glimpses.

    Input: digits (n, 28, 28, 1), pixels from 0 to 1, then normalised as for MNIST; places (n, 2), states (n, 256).
    """
