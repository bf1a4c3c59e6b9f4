"""Every entry trains inside NNX as in linen: one step gives the same loss, parameters and running statistics."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from convert.comparing.parity import share_dropout
from flax_attn import NONLocalBlock2D, SELayer, from_nnx, to_nnx
from flax_attn.catalog import CATALOG
from flax_attn.catalog.blocks import BLOCKS
from tests.catalog.test_transforms import assert_trees_close, setup
from tests.helpers.walk import entries

ONE_OF_A_FILE = {entry.cls.__module__: entry.name for entry in reversed(BLOCKS)}.values()


def loss_of(out):
    return sum(jnp.square(leaf).mean() for leaf in jax.tree.leaves(out))


def linen_step(apply, variables, inputs, optimizer):
    def loss(params):
        out, changed = apply({**variables, "params": params}, inputs, train=True, mutable=["batch_stats"])
        return loss_of(out), changed

    params = variables.get("params", {})
    (value, changed), gradient = jax.value_and_grad(loss, has_aux=True)(params)
    change, _ = optimizer.update(gradient, optimizer.init(params), params)
    return value, {**variables, "params": optax.apply_updates(params, change), **changed}


def nnx_step(entry, module, optimizer, inputs):
    args, call = entry.arguments(inputs)
    value, gradient = nnx.value_and_grad(lambda m: loss_of(m(*args, **call, train=True)))(module)
    optimizer.update(module, gradient)
    return value


@entries([entry for entry in CATALOG if not entry.slow], lambda entry: entry.name not in ONE_OF_A_FILE)
def test_one_training_step_equals_that_of_linen(entry):
    apply, variables, inputs = setup(entry)
    module = to_nnx(entry.module(param_dtype=jnp.float64), variables)
    assert_trees_close(from_nnx(module), variables)
    sgd = optax.sgd(0.1)
    optimizer = nnx.Optimizer(module, sgd, wrt=nnx.Param)
    with nn.intercept_methods(share_dropout):
        value = nnx.jit(functools.partial(nnx_step, entry))(module, optimizer, inputs)
        expected, stepped = jax.jit(lambda v, x: linen_step(apply, v, x, sgd))(variables, inputs)
    assert_trees_close(value, expected)
    got = from_nnx(module)
    stepped = {name: tree for name, tree in stepped.items() if jax.tree.leaves(tree)}
    assert jax.tree.structure(got) == jax.tree.structure(stepped)
    assert_trees_close(got, stepped)


def test_eval_mode_leaves_everything_as_it_is():
    module, x = SELayer(16), jnp.ones((2, 3, 4, 16))
    variables = module.init(jax.random.key(0), x)
    wrapped = to_nnx(module, variables)
    assert_trees_close(wrapped(x), module.apply(variables, x))
    assert_trees_close(from_nnx(wrapped), variables)


def test_the_weights_are_copies():
    module, x = SELayer(16), jnp.ones((2, 3, 4, 16))
    variables = jax.tree.map(np.array, module.init(jax.random.key(0), x))
    wrapped = to_nnx(module, variables)
    before = wrapped(x)
    for leaf in jax.tree.leaves(variables):
        leaf[...] = 0
    assert_trees_close(wrapped(x), before)


def test_a_submodule_of_a_network_in_nnx():
    class Network(nnx.Module):
        def __init__(self, rngs):
            block, x = NONLocalBlock2D(8), jnp.zeros((1, 4, 5, 8))
            self.block = to_nnx(block, block.init(jax.random.key(0), x))
            self.head = nnx.Linear(8, 3, rngs=rngs)

        def __call__(self, x, train=False):
            return self.head(self.block(x, train=train).mean((1, 2)))

    network, x = Network(nnx.Rngs(0)), jnp.ones((2, 4, 5, 8))
    optimizer = nnx.Optimizer(network, optax.sgd(0.1), wrt=nnx.Param)
    before = nnx.to_pure_dict(nnx.state(network))
    optimizer.update(network, nnx.grad(lambda net: jnp.square(net(x, train=True)).sum())(network))
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), before, nnx.to_pure_dict(nnx.state(network)))
    assert moved["head"]["kernel"]
    assert moved["block"]["W"]["1"]["mean"]


@pytest.mark.parametrize("variables", [{"kernel": np.ones(3)}, np.ones(3), {"params": {}, "cache": {}}])
def test_what_is_no_variables_is_refused(no_annotation_checks, variables):
    with pytest.raises(ValueError, match=r'to_nnx: expected variables \{"params"'):
        to_nnx(SELayer(16), variables)


def test_only_what_to_nnx_made_goes_back(no_annotation_checks):
    with pytest.raises(ValueError, match="from_nnx: expected a module that to_nnx made, got a Linear"):
        from_nnx(nnx.Linear(2, 3, rngs=nnx.Rngs(0)))
