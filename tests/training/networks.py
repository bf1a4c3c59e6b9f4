"""A small network with what a step must handle, its data, and its loss."""

from functools import cache

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from flax_attn.layers import BatchNorm2d, Conv2d, Dropout, Linear, Module, Sequential, relu
from flax_attn.training import TrainState, train_step


class Stem(Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = Conv2d(3, 4, 3, padding=1, name="conv")(x)
        return relu(BatchNorm2d(4, name="bn")(x, train))


class Small(Module):
    """Two stems, the second in a ``Sequential``, with dropout between them, and a head."""

    p: float = 0.0

    @nn.compact
    def __call__(self, x, train=False):
        x = Dropout(self.p, name="drop")(Stem(name="stem")(x, train), train)
        x = Sequential([Conv2d(4, 5, 3), BatchNorm2d(5)], name="layer1")(x, train)
        return Linear(5, 3, name="fc")(relu(x).mean((1, 2)))


class Plain(nn.Module):
    """A user's module without statistics and without ``train``."""

    @nn.compact
    def __call__(self, x):
        return Linear(5, 3, name="fc")(jnp.mean(x, (1, 2))[:, :1].repeat(5, 1))


class Users(nn.Module):
    """A user's module made of our layers and of linen's."""

    p: float = 0.5

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = Small(self.p, name="net")(x, train)
        x = nn.BatchNorm(use_running_average=not train, name="norm")(x)
        return nn.Dropout(self.p, deterministic=not train, name="out")(x)


def data(n=6, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    return {"x": rng.standard_normal((n, 6, 5, 3)).astype(dtype), "y": rng.integers(0, 3, n)}


def loss(outputs, batch):
    return optax.softmax_cross_entropy_with_integer_labels(outputs, batch["y"]).mean()


@cache
def variables(module, dtype=np.float64):
    made = module.init(jax.random.key(3), jnp.ones((2, 6, 5, 3), dtype))
    return jax.tree.map(lambda leaf: np.asarray(leaf, dtype), made)


@cache
def compiled(module, optimizer, **options):
    """A step that several tests use; it leaves the state that it is given as it is."""
    return train_step(module, loss, optimizer, donate=False, **options)


def new_state(module, optimizer, dtype=np.float64, **options):
    return TrainState.create(variables(module, dtype), optimizer, **options)


def bits(tree):
    """The bytes of each leaf, by its path; the numbers of random keys."""
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        key = isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        array = np.asarray(jax.random.key_data(leaf) if key else leaf)
        found[jax.tree_util.keystr(path)] = (array.dtype, array.shape, array.tobytes())
    return found
