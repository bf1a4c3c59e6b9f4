"""Every catalog entry works under jit, vmap and in bfloat16, and refuses to train on frozen statistics."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import errors, traverse_util

from flax_attn import layers
from flax_attn.catalog import CATALOG
from tests.helpers.tolerances import assert_close
from tests.helpers.walk import walk_blocks, walk_first


def shapes(entry, module, arrays):
    args, kwargs = entry.arguments(arrays)
    return jax.eval_shape(lambda: module.init(jax.random.key(0), *args, **kwargs))


def setup(entry, dtype=jnp.float64):
    """The call as a function, variables and inputs, with every leaf random: fresh, several blocks are the identity.

    The numbers are small enough that softmaxes without a scale do not saturate: a saturated one is chaotic in bfloat16.
    """
    module = entry.module(param_dtype=dtype)
    rng = np.random.default_rng(0)
    inputs = [jnp.asarray(x) for x in entry.draw(module, rng, dtype)]

    def value(path, leaf):
        if path[-1].key == "var":
            return jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape), leaf.dtype)
        return jnp.asarray(0.5 * rng.normal(size=leaf.shape) / max(1, np.sqrt(np.prod(leaf.shape[:-1]))), leaf.dtype)

    variables = jax.tree_util.tree_map_with_path(value, shapes(entry, module, inputs))
    return functools.partial(entry.apply, module), variables, inputs


def assert_trees_close(got, expected, dtype="float64"):
    for g, e in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert_close(g, e, dtype)


@pytest.mark.slow
@walk_blocks
def test_jit_equals_eager(entry):
    apply, variables, inputs = setup(entry)
    assert_trees_close(jax.jit(apply)(variables, inputs), apply(variables, inputs))


RESHAPING = ("SpatialGroupEnhance", "SKBottleneck", "ChannelGate", "SAMAttention", "GumbelHardAttention")
"""Blocks whose arrays get another number of axes on the way."""
IN_BLOCKS = {"PAM_Module": "query_block", "CrissCrossAttention": "line_block"}
BATCHES = [(e, {}) for e in CATALOG if e.name in RESHAPING]
BATCHES += [
    (e, {name: size}) for e in CATALOG if e.name in IN_BLOCKS for name in [IN_BLOCKS[e.name]] for size in (2, None)
]


@pytest.mark.parametrize(("entry", "blocks"), BATCHES, ids=lambda value: getattr(value, "name", str(value)))
def test_a_batch_may_be_empty_or_of_a_size_that_is_not_known(entry, blocks):
    module = dataclasses.replace(entry, kwargs={**entry.kwargs, **blocks}).module()
    inputs = [np.zeros(x.shape, x.dtype) for x in entry.structs(module)]
    variables = shapes(entry, module, inputs)
    for n in (0, *jax.export.symbolic_shape("n")):
        batch = [jax.ShapeDtypeStruct((n, *x.shape[1:]), x.dtype) for x in inputs]
        out = jax.tree.leaves(jax.eval_shape(functools.partial(entry.apply, module), variables, batch))
        assert [leaf.shape[0] for leaf in out] == [n] * len(out)


@walk_first
def test_vmap_equals_a_loop(entry):
    apply, variables, inputs = setup(entry)
    apply = jax.jit(functools.partial(apply, variables))
    stacked = [jnp.stack([x, x[::-1], x]) for x in inputs]
    mapped = jax.jit(jax.vmap(apply))(stacked)
    for i in range(3):
        assert_trees_close(jax.tree.map(lambda leaf, i=i: leaf[i], mapped), apply([x[i] for x in stacked]))


@walk_first
def test_bfloat16_is_close_to_float32(entry):
    apply, variables, inputs = setup(entry, jnp.float32)
    half = jax.jit(functools.partial(entry.apply, entry.module(dtype=jnp.bfloat16)))(variables, inputs)
    assert {leaf.dtype for leaf in jax.tree.leaves(half)} == {jnp.dtype(jnp.bfloat16)}
    assert_trees_close(half, jax.jit(apply)(variables, inputs), "bfloat16")


@walk_first
def test_every_parameter_is_created_in_param_dtype(entry):
    module = entry.module(param_dtype=jnp.bfloat16, dtype=jnp.float32)
    inputs = [jnp.zeros(s.shape, s.dtype) for s in entry.structs(module)]
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes(entry, module, inputs))} <= {jnp.dtype(jnp.bfloat16)}


@walk_first
def test_training_without_mutable_statistics_raises(entry):
    apply, variables, inputs = setup(entry)
    statistics = traverse_util.flatten_dict(variables.get("batch_stats", {}))
    if not {path[:-1] for path in statistics} - {path[:-1] for path in statistics if path[-1] == "scale"}:
        pytest.skip("has no running statistics, or only frozen ones")
    with pytest.raises(errors.ModifyScopeVariableError):
        apply(variables, inputs, train=True, rngs={"dropout": jax.random.key(0)})


def test_precision_is_handed_down_and_can_be_overridden():
    module = layers.Sequential(
        [layers.Linear(4, 4), layers.Linear(4, 4, dtype=jnp.float32)], dtype=jnp.bfloat16, param_dtype=jnp.float16
    )
    x = jnp.ones((2, 4))
    out, variables = module.init_with_output(jax.random.key(0), x)
    assert out.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float16)}
    assert module.bind(variables).layers[0](x).dtype == jnp.bfloat16
