"""Random choices are those of JAX, bit for bit, for every kind of key."""

import functools

import jax
import numpy as np
import pytest

from flax_attn.layers.draw import bernoulli


@pytest.fixture(autouse=True, params=[False, True], ids=["32 bits", "64 bits"])
def wide(request):
    with jax.enable_x64(request.param):
        yield request.param


KEYS = [jax.random.key(3), jax.random.PRNGKey(2**31 + 5), jax.random.key(3, impl="rbg"), jax.random.key(0)]


@pytest.mark.parametrize("key", KEYS, ids=["typed", "raw", "rbg", "zero"])
@pytest.mark.parametrize("p", [0.1, 0.5])
def test_choices_are_those_of_jax(key, p):
    np.testing.assert_array_equal(bernoulli(key, p, (3, 50, 7)), jax.random.bernoulli(key, p, (3, 50, 7)))


@pytest.mark.parametrize("shape", [(), (1,), (0, 4)])
def test_any_shape_is_drawn(shape):
    np.testing.assert_array_equal(bernoulli(KEYS[0], 0.3, shape), jax.random.bernoulli(KEYS[0], 0.3, shape))


def test_each_key_of_a_batch_draws_its_own():
    keys = jax.random.split(KEYS[0], 4)
    draws = [functools.partial(f, p=0.4, shape=(40,)) for f in (bernoulli, jax.random.bernoulli)]
    np.testing.assert_array_equal(*(jax.vmap(draw)(keys) for draw in draws))


def test_only_a_cpu_draws_in_its_own_way_and_only_32_bits(wide):
    traced = bernoulli.trace(KEYS[0], p=0.4, shape=(40,))
    usual = ["threefry" in traced.lower(lowering_platforms=(name,)).as_text() for name in ("cpu", "tpu")]
    assert usual == [wide, True]
