"""A plan is made without initial values, and nothing else notices that."""

import gc

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from convert import plan
from flax_attn import layers

EXAMPLE = jax.ShapeDtypeStruct((1, 3), "float32")


class Traced(layers.Module):
    """A module whose call linen compiles, and so keeps."""

    def setup(self):
        self.fc = layers.Linear(3, 4)

    @nn.jit
    def __call__(self, x, train=False):
        return self.fc(x)


class Odd(layers.Module):
    """A module with an initializer that does not give the shape and the dtype that it is asked for."""

    def setup(self):
        self.weight = self.parameter("weight", lambda key, shape, dtype: jnp.ones((5,), jnp.bfloat16), (3,))

    def __call__(self, x, train=False):
        return x.sum() * self.weight


@pytest.mark.parametrize("module", [Traced(), nn.jit(layers.Linear)(3, 4)])
def test_a_module_has_its_initial_values_after_a_plan_of_it(module):
    x = jnp.ones((1, 3))
    keys = plan(module, x).shapes
    leaves = jax.tree.leaves(module.init(jax.random.key(0), x))
    assert len(leaves) == len(keys) == 2
    assert all(jnp.abs(leaf).min() > 0 for leaf in leaves)


def test_a_plan_has_the_shape_that_an_initializer_gives():
    (row,) = plan(Odd(), EXAMPLE).rows
    assert (row.shape, row.dtype) == ((5,), jnp.bfloat16)


def test_a_plan_has_the_dtype_of_the_parameters():
    assert {row.dtype.name for row in plan(layers.Linear(3, 4, param_dtype="float16"), EXAMPLE).rows} == {"float16"}


@pytest.mark.parametrize("on", [True, False])
def test_a_plan_leaves_the_search_for_garbage_as_it_was(on):
    try:
        gc.enable() if on else gc.disable()
        with pytest.raises(ValueError, match="expected 3 channels"):
            plan(layers.Linear(3, 4), jax.ShapeDtypeStruct((1, 7), "float32"))
        assert gc.isenabled() == on
    finally:
        gc.enable()
