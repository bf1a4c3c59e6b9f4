"""Every catalog entry works under jit, vmap and grad without mutable, and in bfloat16."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import errors

from flax_attn import layers
from flax_attn.catalog import CATALOG
from tests.tolerances import assert_close

walk = pytest.mark.parametrize("entry", CATALOG, ids=lambda entry: entry.name)


def setup(entry, dtype=jnp.float64):
    """Module, variables and inputs, with every leaf random: at initialisation several blocks are the identity.

    The numbers are small enough that softmaxes without a scale do not saturate: a saturated one is chaotic in bfloat16.
    """
    module = entry.module(param_dtype=dtype)
    rng = np.random.default_rng(0)
    inputs = [jnp.asarray(rng.normal(size=s.shape), s.dtype) for s in entry.structs(module, dtype)]
    shapes = jax.eval_shape(functools.partial(module.init, **entry.call), jax.random.key(0), *inputs)

    def draw(path, leaf):
        if path[-1].key == "var":
            return jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape), leaf.dtype)
        return jnp.asarray(0.5 * rng.normal(size=leaf.shape) / max(1, np.sqrt(np.prod(leaf.shape[:-1]))), leaf.dtype)

    return module, jax.tree_util.tree_map_with_path(draw, shapes), inputs


@walk
def test_jit_equals_eager(entry):
    module, variables, inputs = setup(entry)
    apply = functools.partial(module.apply, **entry.call)
    for got, expected in zip(
        jax.tree.leaves(jax.jit(apply)(variables, *inputs)), jax.tree.leaves(apply(variables, *inputs)), strict=True
    ):
        assert_close(got, expected)


@walk
def test_vmap_equals_a_loop(entry):
    module, variables, inputs = setup(entry)
    apply = jax.jit(functools.partial(module.apply, variables, **entry.call))
    stacked = [jnp.stack([x, 2 * x, -x]) for x in inputs]
    mapped = jax.jit(jax.vmap(apply))(*stacked)
    for i in range(3):
        single = jax.tree.leaves(apply(*[x[i] for x in stacked]))
        for got, expected in zip(jax.tree.leaves(mapped), single, strict=True):
            assert_close(got[i], expected)


@walk
def test_bfloat16_is_close_to_float32(entry):
    module, variables, inputs = setup(entry, jnp.float32)
    half = entry.module(dtype=jnp.bfloat16)
    expected = jax.tree.leaves(jax.jit(functools.partial(module.apply, **entry.call))(variables, *inputs))
    got = jax.tree.leaves(jax.jit(functools.partial(half.apply, **entry.call))(variables, *inputs))
    for g, e in zip(got, expected, strict=True):
        assert g.dtype == jnp.bfloat16
        assert_close(g, e, "bfloat16")


@walk
def test_every_parameter_is_created_in_param_dtype(entry):
    module = entry.module(param_dtype=jnp.bfloat16, dtype=jnp.float32)
    structs = entry.structs(module)
    shapes = jax.eval_shape(functools.partial(module.init, **entry.call), jax.random.key(0), *structs)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} <= {jnp.dtype(jnp.bfloat16)}


@walk
def test_training_without_mutable_statistics_raises(entry):
    module, variables, inputs = setup(entry)
    if "batch_stats" not in variables:
        pytest.skip("has no running statistics")
    with pytest.raises(errors.ModifyScopeVariableError):
        module.apply(variables, *inputs, **entry.call, train=True, rngs={"dropout": jax.random.key(0)})


def test_precision_is_handed_down_and_can_be_overridden():
    module = layers.Sequential(
        [layers.Linear(4, 4), layers.Linear(4, 4, dtype=jnp.float32)], dtype=jnp.bfloat16, param_dtype=jnp.float16
    )
    x = jnp.ones((2, 4))
    out, variables = module.init_with_output(jax.random.key(0), x)
    assert out.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float16)}
    assert module.bind(variables).layers[0](x).dtype == jnp.bfloat16
