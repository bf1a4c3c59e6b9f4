"""Show, Attend and Tell - Xu, Ba, Kiros et al. 2015, https://arxiv.org/abs/1502.03044

Follows: the paper's hard attention; its authors' code is in Theano.
Differs: the scores are a small network of each pixel alone, without the state of a decoder; its keys are ours.

Noise may be passed in; otherwise it is drawn from the rng stream "sample", in training only.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from flax_attn.layers import Linear, Module, accumulator, log_softmax, require
from flax_attn.shapes import Image, PixelMap


def pick(weights: Float[Array, "n s"], x: Image) -> Float[Array, "n c"]:
    """The weighted sum of the pixels of x. No matrix product: TPUs and GPUs would round it."""
    return (weights[..., None].astype(x.dtype) * lax.collapse(x, 1, 3)).sum(1)


def as_map(weights: Float[Array, "n s"], x: Image) -> PixelMap:
    """One number for each pixel, in the places of the pixels of x."""
    return weights.astype(x.dtype).reshape(*x.shape[:3], 1)


class HardAttention(Module):
    """One pixel of x (n, h, w, dim), drawn from a softmax over the scores of all pixels.

    Returns the glimpse (n, dim), the log-probability (n,) of the choice and the entropy (n,) of the scores.

    In eval mode it is the pixel with the highest score. ``noise`` (n, h * w) is Gumbel noise. No gradient flows through
    the choice: train it with ``reinforce_loss``. With ``attention_weights=True`` the call returns these three as one
    tuple, then the choice (n, h, w, 1), which is 1 at one pixel and else 0, and the probabilities (n, h, w, 1).
    """

    dim: int
    hidden_dim: int

    def __post_init__(self) -> None:
        super().__post_init__()
        who, got = type(self).__name__, (self.dim, self.hidden_dim)
        require(min(got) >= 1, f"{who}: expected dim, hidden_dim >= 1, got {got}")

    def setup(self) -> None:
        self.fc1 = Linear(self.dim, self.hidden_dim)
        self.fc2 = Linear(self.hidden_dim, 1)

    def scores(self, x: Image, noise: Array | None, train: bool) -> tuple[Float[Array, "n s"], Float[Array, "n s"]]:
        """The logits of all pixels, without and with Gumbel noise: the given noise, in training a draw, else none."""
        logits = lax.collapse(self.fc2(jnp.tanh(self.fc1(x))), 1)
        logits = logits.astype(accumulator(logits.dtype))
        if noise is not None:
            expected = f"{type(self).__name__}: expected noise of shape {logits.shape}"
            require(noise.shape == logits.shape, f"{expected}, got {noise.shape}")
            return logits, logits + noise.astype(logits.dtype)
        if train:
            return logits, logits + jax.random.gumbel(self.make_rng("sample"), logits.shape, logits.dtype)
        return logits, logits

    def __call__(
        self, x: Image, noise: Array | None = None, train: bool = False, attention_weights: bool = False
    ) -> tuple[Any, ...]:
        x = self.cast(x)
        logits, noisy = self.scores(x, noise, train)
        choice = jax.nn.one_hot(noisy.argmax(-1), logits.shape[-1], dtype=logits.dtype)
        log_p = log_softmax(logits)
        p = jnp.exp(log_p)
        entropy = -(p * log_p).sum(-1)
        y = pick(choice, x), (choice * log_p).sum(-1).astype(x.dtype), entropy.astype(x.dtype)
        return (y, as_map(choice, x), as_map(p, x)) if attention_weights else y
