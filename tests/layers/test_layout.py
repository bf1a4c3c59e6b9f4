"""Arrays that a CPU writes to memory, and the softmax: their derivatives, and what other platforms are given."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_attn.layers import softmax
from flax_attn.layers.layout import in_memory, join_heads, not_inlined, split_heads
from tests.helpers.tolerances import assert_close

X = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 6)))


def test_heads_are_runs_of_channels_and_can_be_joined_again():
    heads = split_heads(X, 3)
    np.testing.assert_array_equal(heads[:, 1], X[:, :, 2:4])
    np.testing.assert_array_equal(join_heads(heads), X)


def derivatives(function):
    """The value of ``sin(function(x))``, its gradient, and the tangents of both, for each of two samples."""
    grad = jax.value_and_grad(lambda x: jnp.sin(function(x)).sum())
    return jax.jit(jax.vmap(lambda x: jax.jvp(grad, [x], [jnp.cos(x)]), in_axes=1))(X)


def test_all_derivatives_are_those_of_the_array_itself():
    jax.tree.map(np.testing.assert_array_equal, derivatives(in_memory), derivatives(lambda x: x))


def test_only_a_cpu_is_given_a_barrier():
    traced = jax.jit(jax.grad(lambda x: jnp.sin(in_memory(x.swapaxes(0, 1))).sum())).trace(X)
    counts = {name: traced.lower(lowering_platforms=(name,)).as_text().count("barrier") for name in ("cpu", "tpu")}
    assert counts == {"cpu": 2, "tpu": 0}


@pytest.mark.parametrize("axis", [-1, 0, (0, 1)])
def test_derivatives_of_softmax_are_those_of_its_formula(axis):
    formula = derivatives(lambda x: jnp.exp(x) / jnp.exp(x).sum(axis, keepdims=True))
    jax.tree.map(assert_close, derivatives(lambda x: softmax(x, axis)), formula)


def test_the_gradient_of_softmax_keeps_its_result_alone():
    _, pull = jax.vjp(softmax, X)
    assert [leaf.shape for leaf in jax.tree.leaves(pull) if leaf.ndim == X.ndim] == [X.shape]


def test_xla_calls_a_function_that_is_not_inlined():
    def shifted(x):
        return x[1:] + x[:-1]

    def run(x):
        return jnp.exp(not_inlined(shifted)(2 * x))

    assert " call(" in jax.jit(run).lower(X).compile().as_text()
    np.testing.assert_allclose(jax.vmap(run)(X), jnp.exp(2 * (X[:, 1:] + X[:, :-1])), rtol=1e-12)
