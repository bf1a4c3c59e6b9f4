"""With ``dtype=bfloat16``, the products of the gradient multiply numbers in bfloat16, not in float32."""

import re

import jax
import jax.numpy as jnp
import numpy as np

from flax_attn import layers
from tests.catalog.test_transforms import assert_trees_close, shapes
from tests.helpers.walk import walk_first

PRODUCT = re.compile(r"stablehlo\.(?:dot_general|convolution).* : \((.*)\) ->")


def products(entry, dtype):
    """The operand types of each product in the gradient of ``entry`` in training mode, lowered for a TPU."""
    module = entry.module(dtype=dtype)
    inputs = [jax.ShapeDtypeStruct(s.shape, s.dtype) for s in entry.structs(module)]
    floating = [jnp.issubdtype(x.dtype, jnp.floating) for x in inputs]

    def loss(variables, floats, others):
        arrays = [f if is_float else x for is_float, f, x in zip(floating, floats, others, strict=True)]
        rngs = {"dropout": jax.random.key(0)}
        out, _ = entry.apply(module, variables, arrays, train=True, mutable=["batch_stats"], rngs=rngs)
        return sum(leaf.astype(jnp.float32).sum() for leaf in jax.tree.leaves(out))

    def gradient(variables, inputs):
        floats = [x if is_float else 0.0 for is_float, x in zip(floating, inputs, strict=True)]
        rest = {name: tree for name, tree in variables.items() if name != "params"}
        return jax.grad(lambda params, floats: loss({**rest, "params": params}, floats, inputs), (0, 1))(
            variables.get("params", {}), floats
        )

    variables = shapes(entry, module, [jnp.zeros(x.shape, x.dtype) for x in inputs])
    lowered = jax.jit(gradient).trace(variables, inputs).lower(lowering_platforms=("tpu",))
    return PRODUCT.findall(lowered.as_text())


@walk_first
def test_no_product_of_the_gradient_has_a_float32_operand(entry):
    wide = [operands for operands in products(entry, jnp.bfloat16) if "f32" in operands or "f64" in operands]
    assert not wide


def square_of_product(x, y):
    return jnp.square(layers.einsum("nc,cd->nd", x, y).astype(jnp.float32)).sum()


def test_a_half_precision_product_has_every_derivative():
    rng = np.random.default_rng(0)
    x, y = (jnp.asarray(rng.normal(size=shape), jnp.bfloat16) for shape in ((3, 4), (4, 5)))
    wide = [a.astype(jnp.float32) for a in (x, y)]
    for derivative in (jax.jacfwd, jax.jacrev, jax.hessian):
        got, expected = (derivative(square_of_product, (0, 1))(*pair) for pair in ((x, y), wide))
        assert_trees_close(got, expected, "bfloat16")
    mapped = jax.vmap(jax.grad(square_of_product), (0, None))(x[:, None], y)
    assert_trees_close(mapped[:, 0], jax.grad(square_of_product)(x, y), "bfloat16")


def test_a_half_precision_product_keeps_its_sums_in_float32():
    ones = jnp.ones((1, 1025), jnp.bfloat16)
    assert layers.einsum("nc,mc->nm", ones, ones, wide=True) == 1025  # bfloat16 has 1024 and then 1032
