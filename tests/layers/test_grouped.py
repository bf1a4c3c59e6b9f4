"""The forms that a TPU computes, run on a CPU, give what the forms of a CPU give."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_attn import SAM, SpatialGroupEnhance
from flax_attn.layers import grouped

CASES = {
    "SAM": (SAM(12, ca_num_heads=3), (2, 20, 12), dict(H=5, W=4)),
    "SpatialGroupEnhance": (SpatialGroupEnhance(3, init_bias=0.5), (2, 5, 4, 12), {}),
}


@pytest.mark.parametrize("name", CASES)
def test_the_form_of_a_tpu_gives_what_that_of_a_cpu_gives(name, monkeypatch):
    module, shape, call = CASES[name]
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=shape))
    shapes = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, **call), x)
    variables = jax.tree.map(lambda leaf: jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape)), shapes)

    def compute():
        def run(params, x):
            return jnp.square(module.apply({**variables, "params": params}, x, **call)).mean()

        return jax.jit(jax.value_and_grad(run, (0, 1)))(variables["params"], x)

    ours = compute()
    monkeypatch.setattr(grouped.lax, "platform_dependent", lambda *arrays, cpu, default: default(*arrays))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12), compute(), ours)


@pytest.mark.parametrize("length", [1, 4, 9])
def test_sums_and_repetitions_have_the_derivatives_of_plain_ones(length):
    rng = np.random.default_rng(length)
    x, gate, dx, dgate = (jnp.asarray(rng.normal(size=shape)) for shape in ((3, 2, length), (3, 2)) * 2)

    def ours(x, gate):
        return jnp.sin(grouped.sum_last(x**2 * grouped.repeat_last(gate, length))).sum()

    def plain(x, gate):
        return jnp.sin((x**2 * gate[..., None]).sum(-1)).sum()

    def derivatives(function):
        gradient = jax.grad(function, (0, 1))
        return function(x, gate), *jax.jvp(gradient, (x, gate), (dx, dgate)), jax.vmap(gradient)(x, gate)

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), derivatives(ours), derivatives(plain))
