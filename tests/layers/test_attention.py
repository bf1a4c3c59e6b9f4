"""Attention in blocks of queries: the numbers, derivatives and random numbers of dense attention, in less memory."""

import dataclasses
import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from flax_attn import DANetHead, MultiheadAttention, PAM_Module, ScaledDotProductAttention
from flax_attn.catalog import CATALOG
from flax_attn.layers import einsum, softmax, weighted_sum
from tests.catalog.test_transforms import assert_trees_close, setup
from tests.helpers.tolerances import assert_close


def has_blocks(entry):
    names = [field.name for field in dataclasses.fields(entry.cls)] if inspect.isclass(entry.cls) else []
    return "query_block" in names


ENTRIES = [entry for entry in CATALOG if has_blocks(entry)]
FIRST = {entry.cls: entry for entry in reversed(ENTRIES) if not {e.cls for e in ENTRIES} & set(entry.cls.__mro__[1:])}
MASKED = [entry for entry in ENTRIES if entry.cls is MultiheadAttention and entry.tag]
N, Q, K, HEADS = 2, 7, 5, 3


def with_block(entry, size):
    call = dict(need_weights=False) if entry.cls is MultiheadAttention else {}
    return dataclasses.replace(entry, kwargs={**entry.kwargs, "query_block": size}, call={**entry.call, **call})


def gradients(entry, size):
    """The output, and the gradient of its sines, with ``size`` queries in one block."""
    apply, variables, inputs = setup(with_block(entry, size))

    def loss(variables, *inputs):
        out = apply(variables, inputs)
        return sum(jnp.sin(leaf).sum() for leaf in jax.tree.leaves(out)), out

    floats = [i for i, x in enumerate(inputs) if jnp.issubdtype(x.dtype, jnp.floating)]
    grad = jax.grad(loss, (0, *[i + 1 for i in floats]), has_aux=True, allow_int=True)
    return jax.jit(grad)(variables, *inputs)


@pytest.mark.parametrize("entry", [*FIRST.values(), *MASKED], ids=lambda entry: entry.name)
def test_blocks_give_the_dense_result_and_gradient(entry):
    assert_trees_close(gradients(entry, 4), gradients(entry, 0))


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def masked(size, query, key, value, rows, row):
    """Attention under a mask with a row for each query, and one with a row for all."""

    def weigh(query, rows, missing, row):
        assert missing is None
        return softmax(einsum("nhqd,nhkd->nhqk", query, key) + rows + row)

    return weighted_sum(weigh, query, value, masks=(rows, None, row), query_block=size)[0]


ARRAYS = [
    normal(N, HEADS, Q, 4),
    normal(N, HEADS, K, 4, seed=1),
    normal(N, HEADS, K, 2, seed=2),
    normal(N, 1, Q, K, seed=3),
    normal(1, K, seed=4),
]


@pytest.mark.parametrize("size", [1, 3, 6, 7, 100])
def test_any_size_of_a_block_gives_the_dense_result(size):
    assert_close(jax.jit(functools.partial(masked, size))(*ARRAYS), masked(0, *ARRAYS))


def test_derivatives_of_both_kinds_and_of_second_order_are_the_dense_ones():
    def results(size):
        f = functools.partial(masked, size)
        grad = jax.grad(lambda *arrays: jnp.sin(f(*arrays)).sum(), range(5))
        return jax.jit(lambda *arrays: (grad(*arrays), jax.jvp(grad, arrays, arrays)))(*ARRAYS)

    assert_trees_close(results(3), results(0))


def test_vmap_over_blocks_is_vmap_over_the_dense_form():
    stacked = [jnp.stack([x, 2 * x]) for x in ARRAYS]
    assert_close(*(jax.jit(jax.vmap(functools.partial(masked, size)))(*stacked) for size in (3, 0)))


def test_a_query_without_keys_is_nan_and_leaves_the_others():
    rows = ARRAYS[3].at[0, 0, 2].set(-jnp.inf)
    got = masked(3, *ARRAYS[:3], rows, ARRAYS[4])
    assert jnp.isnan(got[0, :, 2]).all()
    assert jnp.isnan(got).sum() == got[0, :, 2].size


def pam_gradient(size, **kwargs):
    """The gradient of position attention of 48 x 48 pixels, compiled."""
    module, x = PAM_Module(8, query_block=size, **kwargs), jax.ShapeDtypeStruct((1, 48, 48, 8), "float32")
    variables = jax.eval_shape(module.init, jax.random.key(0), x)
    return jax.jit(jax.grad(lambda variables, x: module.apply(variables, x).sum(), (0, 1))).lower(variables, x)


def test_the_gradient_keeps_no_weights():
    dense, blocked = (pam_gradient(size).compile().memory_analysis().temp_size_in_bytes for size in (0, 64))
    assert dense > 48**4 * 4 > 8 * blocked


@functools.cache
def lowered(side, **kwargs):
    module, x = DANetHead(32, 2), jax.ShapeDtypeStruct((1, side, side, 32), "float32")
    variables = jax.eval_shape(module.init, jax.random.key(0), x)
    return jax.jit(functools.partial(module.apply, **kwargs)).lower(variables, x).as_text()


def test_only_large_maps_are_in_blocks_and_only_where_nobody_asks_for_the_weights():
    assert "stablehlo.while" in lowered(56)
    assert "stablehlo.while" not in lowered(56, attention_weights=True)
    assert "stablehlo.while" not in lowered(40)


def test_dropout_draws_what_it_draws_without_blocks():
    x = normal(N, Q, 6)

    def run(size):
        module = ScaledDotProductAttention(6, 2, 2, h=3, dropout=0.5, query_block=size)
        rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
        return module.init_with_output(rngs, x, x, x, train=True)[0]

    np.testing.assert_array_equal(run(2), run(0))


def test_weights_that_are_asked_for_are_those_of_all_queries():
    x = normal(N, Q, 6)
    module = MultiheadAttention(6, 2, batch_first=True, query_block=2)
    _, weights = module.init_with_output(jax.random.key(0), x, x, x)[0]
    assert weights.shape == (N, Q, Q)


@pytest.mark.parametrize("make", [PAM_Module, functools.partial(MultiheadAttention, num_heads=2)])
def test_a_negative_number_of_queries_is_refused(make):
    with pytest.raises(ValueError, match="expected query_block None, 0 or the number of queries in one block, got -1"):
        make(8, query_block=-1)


def test_a_batch_spread_over_devices_stays_spread():
    mesh = AbstractMesh((2,), ("devices",), axis_types=(AxisType.Explicit,))
    specs = [P("devices"), P("devices"), P("devices"), P("devices"), P()]
    loss = lambda *arrays: (masked(3, *arrays).sum(), masked(3, *arrays))  # noqa: E731
    with jax.sharding.use_abstract_mesh(mesh):
        given = [
            jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec))
            for x, spec in zip(ARRAYS, specs, strict=True)
        ]
        grads, out = jax.eval_shape(jax.grad(loss, range(5), has_aux=True), *given)
    assert [x.sharding.spec[0] for x in (*grads, out)] == [*["devices"] * 4, None, "devices"]
