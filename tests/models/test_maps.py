"""``attention_maps`` finds the maps of all blocks in a network, and the network gives its own output."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convert.comparing.parity import random_state
from flax_attn import MultiheadAttention, NONLocalBlock2D, ScaledDotProductAttention, SELayer, attention_maps
from flax_attn.catalog import CATALOG
from flax_attn.layers import Conv2d
from tests.helpers.walk import entry_plan

ENTRIES = {entry.name: entry for entry in CATALOG}


def given(name):
    """A small network with random variables, and the arguments of its call."""
    entry, rng = ENTRIES[name], np.random.default_rng(0)
    module, plan = entry.module(), entry_plan(entry)
    args, kwargs = entry.arguments([jnp.asarray(x) for x in entry.draw(module, rng)])
    return module, plan.from_torch(random_state(plan, rng, "float32")), args, kwargs


def shapes(maps):
    return {path: jax.tree.map(jnp.shape, value) for path, value in maps.items()}


PAIR = ((2, 4, 5, 5), (2, 4, 5, 4))
EXPECTED = {
    "SEResNet": {
        "layer1.0.se": (2, 1, 1, 64),
        "layer2.0.se": (2, 1, 1, 128),
        "layer2.1.se": (2, 1, 1, 128),
    },
    "CCNet": {"head": (PAIR, PAIR)},
    "DETR": {
        "transformer.encoder.layers.0": (2, 9, 9),
        "transformer.decoder.layers.0": ((2, 5, 5), (2, 5, 9)),
    },
    "DigitsNet": {"nl": (2, 64, 64), "se": (2, 1, 1, 48)},
    "NonLocalNet": {"nl_1": (2, 196, 49), "nl_2": (2, 49, 9)},
    "RecurrentAttention": {"": (2, 2, 4)},
    "SpatialTransformerNet": {"": ((2, 21, 18, 2), (2, 2, 3))},
}


@pytest.mark.parametrize("name", EXPECTED)
def test_maps_of_a_network(name):
    module, variables, args, kwargs = given(name)

    @jax.jit
    def run(variables, args):
        plain = module.apply(variables, *args, **kwargs)
        return plain, attention_maps(module, variables, *args, **kwargs)

    plain, (out, maps) = run(variables, args)
    assert shapes(maps) == EXPECTED[name]
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), out, plain)


def test_maps_are_those_of_the_block():
    module, variables, args, _ = given("DigitsNet")
    _, maps = attention_maps(module, variables, *args)
    _, nl_map = module.apply(variables, *args, return_nl_map=True)
    np.testing.assert_allclose(maps["nl"], nl_map, rtol=1e-6)


def test_glimpses_of_a_walk_are_a_list():
    module, variables, (x, place, _), _ = given("RecurrentAttention")
    noise = jax.random.normal(jax.random.key(0), (3, 2, 2))
    walk = partial(attention_maps, module, variables, x, place, noise, method="classify")
    scores, maps = walk()
    expected, places, boxes = module.apply(variables, x, place, noise, attention_weights=True, method="classify")
    np.testing.assert_allclose(scores, expected, rtol=1e-6)
    np.testing.assert_array_equal(jnp.stack(maps[""], 1), boxes)
    assert places.shape == (2, 3, 2)
    np.testing.assert_array_equal(places[:, 0], place)
    sides = boxes[..., 2:] - boxes[..., :2]
    np.testing.assert_array_equal(sides, np.broadcast_to([[4, 4], [8, 8]], sides.shape))
    column = np.floor((places[..., 0] + 1) / 2 * x.shape[2])
    np.testing.assert_array_equal(boxes[..., 0, 0], column - 2)


class Mine(nn.Module):
    """A user's network: blocks of this package, one of them called twice, in a rematerialised part and beside it."""

    remat: bool = False

    @nn.compact
    def __call__(self, x):
        se = (nn.remat(SELayer) if self.remat else SELayer)(6, 2, name="gate")
        x = se(se(Conv2d(3, 6, 1)(x)))
        x, nl_map = NONLocalBlock2D(6, sub_sample=False, name="nl")(x, return_nl_map=True)
        tokens = x.reshape(len(x), -1, 6)
        out, weights = MultiheadAttention(6, 2, batch_first=True, name="mha")(tokens, tokens, tokens)
        _, none = MultiheadAttention(6, 2, batch_first=True, name="none")(out, out, out, need_weights=False)
        assert none is None
        scale = jnp.ones((1, 1, 1, 1))
        out = ScaledDotProductAttention(6, 3, 3, h=2, name="sdp")(out, out, out, attention_weights=scale)
        return out, nl_map, weights


@pytest.mark.parametrize("remat", [False, True])
def test_maps_of_a_network_of_the_user(remat):
    module, x = Mine(remat), jax.random.normal(jax.random.key(0), (2, 3, 4, 3))
    variables = module.init(jax.random.key(1), x)
    out, maps = jax.jit(partial(attention_maps, module))(variables, x)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), out, module.apply(variables, x))
    assert shapes(maps) == {
        "gate": [(2, 1, 1, 6)] * 2,
        "nl": (2, 12, 12),
        "mha": (2, 12, 12),
        "none": (2, 12, 12),
        "sdp": (2, 2, 12, 12),
    }
    np.testing.assert_array_equal(maps["nl"], out[1])
    np.testing.assert_array_equal(maps["mha"], out[2])


def test_network_without_blocks_has_no_maps():
    module, x = Conv2d(3, 4, 1), jnp.ones((1, 3, 4, 3))
    variables = module.init(jax.random.key(0), x)
    out, maps = attention_maps(module, variables, x)
    assert maps == {}
    np.testing.assert_array_equal(out, module.apply(variables, x))


def test_attention_module_itself():
    module, x = MultiheadAttention(6, 2, batch_first=True), jnp.ones((2, 5, 6))
    variables = module.init(jax.random.key(0), x, x, x)
    (out, none), maps = attention_maps(module, variables, x, x, x, need_weights=False)
    assert none is None
    assert out.shape == (2, 5, 6)
    assert shapes(maps) == {"": (2, 5, 5)}
    (_, weights), _ = attention_maps(module, variables, x, x, x)
    assert weights.shape == (2, 5, 5)
