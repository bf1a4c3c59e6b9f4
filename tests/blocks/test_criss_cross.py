"""Criss-cross attention against its definition, the published kernels' loops, sharding, and what its gradient keeps."""

import json
import os
import subprocess
import sys
import textwrap
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from flax_attn import criss_cross_attention
from flax_attn.blocks.criss_cross import ca_map, ca_weight
from tests.helpers.tolerances import assert_close

SIZES = [(5, 7), (1, 4), (4, 1), (1, 1), (3, 3)]


def draw(h, w, n=2, d=3, c=4, dtype=jnp.float64):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=(n, h, w, k)), dtype) for k in (d, d, c)]


def by_loops(query, key, value):
    """One position at a time, in numpy: the definition."""
    query, key, value = map(np.asarray, (query, key, value))
    n, h, w, _ = query.shape
    out, row, column = np.zeros(value.shape), np.zeros((n, h, w, w)), np.zeros((n, h, w, h))
    for b, y, x in np.ndindex(n, h, w):
        cross = [(y, v) for v in range(w)] + [(g, x) for g in range(h) if g != y]
        weights = np.exp([query[b, y, x] @ key[b, g, v] for g, v in cross])
        weights /= weights.sum()
        for weight, (g, v) in zip(weights, cross, strict=True):
            out[b, y, x] += weight * value[b, g, v]
            (row[b, y, x] if g == y else column[b, y, x])[v if g == y else g] = weight
    return out, row, column


@pytest.mark.parametrize("size", SIZES)
def test_equals_the_definition(size):
    arrays = draw(*size)
    for got, expected in zip(
        jax.jit(criss_cross_attention, static_argnames="attention_weights")(*arrays, attention_weights=True),
        by_loops(*arrays),
        strict=True,
    ):
        assert_close(got, expected)


@pytest.mark.parametrize("size", SIZES)
def test_equals_the_published_kernels_in_their_order(size):
    query, key, value = draw(*size)
    assert_close(ca_map(jax.nn.softmax(ca_weight(query, key), -1), value), criss_cross_attention(query, key, value))


@pytest.mark.parametrize("size", SIZES)
def test_gradient_is_right_forwards_and_backwards_and_twice(size):
    check_grads(jax.jit(criss_cross_attention), draw(*size), order=2, modes=("fwd", "rev"), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_gradient_keeps_only_arguments_and_probabilities(dtype):
    n, h, w, d, c = 2, 5, 7, 3, 4
    arrays = draw(h, w, n, d, c, dtype)
    _, pull = jax.vjp(criss_cross_attention, *arrays)
    kept = sorted(leaf.shape for leaf in jax.tree.leaves(pull) if leaf.size >= n * h * w)
    projections = [(n, h, w, d)] * 2 + [(n, h, w, c)] + [(n, w, h, d)] * 2 + [(n, w, h, c)]
    assert kept == sorted([*projections, (n, h, w, w), (n, w, h, h)])


def test_checkpoint_keeps_no_probabilities_and_changes_no_gradient():
    arrays = draw(5, 7)
    loss = lambda f: jax.jit(jax.grad(lambda *xs: (f(*xs) ** 2).sum(), (0, 1, 2)))  # noqa: E731
    _, pull = jax.vjp(jax.checkpoint(criss_cross_attention), *arrays)
    assert all(leaf.shape[-1] in (3, 4) for leaf in jax.tree.leaves(pull) if leaf.ndim == 4)
    for got, expected in zip(
        loss(jax.checkpoint(criss_cross_attention))(*arrays), loss(criss_cross_attention)(*arrays), strict=True
    ):
        assert_close(got, expected)


def test_bfloat16_sums_in_float32():
    arrays = draw(33, 65, d=64, c=8)
    half = [a.astype(jnp.bfloat16) for a in arrays]
    exact = criss_cross_attention(*[a.astype(jnp.float64) for a in half])
    got = criss_cross_attention(*half)
    assert got.dtype == jnp.bfloat16
    assert_close(got, exact, "bfloat16")


@pytest.mark.parametrize(("size", "block"), [((5, 7), 2), ((1, 4), 1), ((4, 1), 9)])
def test_blocks_of_lines_change_no_number(size, block):
    arrays, blocked = draw(*size), partial(criss_cross_attention, line_block=block)
    assert_close(jax.jit(blocked)(*arrays), criss_cross_attention(*arrays))
    loss = lambda f: jax.jit(jax.grad(lambda *xs: (f(*xs) ** 2).sum(), (0, 1, 2)))  # noqa: E731
    for got, expected in zip(loss(blocked)(*arrays), loss(criss_cross_attention)(*arrays), strict=True):
        assert_close(got, expected)


def test_derivative_of_the_gradient_in_blocks_of_lines():
    query, key, value = draw(3, 2, n=1)

    def second(function):
        gradient = jax.grad(lambda q: (function(q, key, value) ** 2).sum())
        return jax.jit(lambda q: jax.jvp(gradient, (q,), (key,)))(query)

    blocked, dense = second(partial(criss_cross_attention, line_block=2)), second(criss_cross_attention)
    for got, expected in zip(blocked, dense, strict=True):
        assert_close(got, expected)


def test_a_large_image_trains_in_little_memory():
    arrays = [jax.ShapeDtypeStruct((1, 1024, 1024, c), jnp.float32) for c in (8, 8, 64)]
    loss = jax.grad(lambda *xs: criss_cross_attention(*xs).sum(), (0, 1, 2))
    assert jax.jit(loss).lower(*arrays).compile().memory_analysis().temp_size_in_bytes < 3e9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(line_block=-1), "line_block None or >= 0, got -1"),
        (dict(line_block=2, mesh_axis="rows"), "line_block None or 0 with mesh_axis='rows', got 2"),
        (dict(line_block=2, attention_weights=True), "line_block None or 0 with attention_weights=True, got 2"),
    ],
)
def test_refuses_blocks_that_it_cannot_keep(arguments, message):
    with pytest.raises(ValueError, match=message):
        criss_cross_attention(*draw(3, 3), **arguments)


SHARDED = """
    import json, sys
    import jax, jax.numpy as jnp, numpy as np
    from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
    from flax_attn import criss_cross_attention

    jax.config.update("jax_enable_x64", True)
    explicit = sys.argv[1] == "explicit"
    rng = np.random.default_rng(0)
    arrays = [jnp.asarray(rng.normal(size=(2, 16, 24, k))) for k in (3, 3, 4)]
    weight = jnp.asarray(rng.normal(size=(2, 16, 24, 4)))
    axis = None if explicit else "rows"
    loss = lambda q, k, v: (criss_cross_attention(q, k, v, mesh_axis=axis) * weight).sum()
    plain = lambda q, k, v: (criss_cross_attention(q, k, v) * weight).sum()
    expected = jax.jit(jax.value_and_grad(plain, (0, 1, 2)))(*arrays)
    mesh = jax.make_mesh((8,), ("rows",), axis_types=(AxisType.Explicit if explicit else AxisType.Auto,))
    with jax.set_mesh(mesh):
        rows = NamedSharding(mesh, P(None, "rows"))
        *sharded, weight = (jax.device_put(a, rows) for a in [*arrays, weight])
        out = dict(out_shardings=(None, (rows, rows, rows)))
        compiled = jax.jit(jax.value_and_grad(loss, (0, 1, 2)), **out).lower(*sharded).compile()
        got = compiled(*sharded)
        forward = jax.jit(lambda *xs: criss_cross_attention(*xs, mesh_axis=axis)).lower(*sharded).compile()
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(expected))
    off = max(float(jnp.abs(jax.device_get(a) - b).max()) for a, b in pairs)
    text = forward.as_text() + compiled.as_text()
    print(json.dumps(dict(off=off, all_to_all="all-to-all" in text, all_gather="all-gather" in text)))
"""


@pytest.mark.parametrize("axes", ["auto", "explicit"])
def test_rows_sharded_over_eight_devices(axes):
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SHARDED), axes],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result.pop("off") <= 1e-10
    assert result == dict(all_to_all=True, all_gather=False)
