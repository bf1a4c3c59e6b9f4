"""Every class of block works inside NNX, and lowers for CPU, CUDA and TPU."""

import functools

import flax.linen as nn
import jax
import jax.export
import jax.numpy as jnp
from flax import nnx
from flax.nnx import bridge

from convert.dropouts import share_dropout
from tests.catalog.test_transforms import assert_trees_close, setup
from tests.helpers.walk import walk_block_classes


def train_step(entry, module, inputs):
    args, call = entry.arguments(inputs)
    return module(*args, **call, train=True, mutable=["batch_stats"])


@walk_block_classes
def test_nnx_module_gives_the_same_outputs_and_statistics(entry):
    apply, variables, inputs = setup(entry)
    args, call = entry.arguments(inputs)
    module = bridge.ToNNX(entry.module(), rngs=nnx.Rngs(0)).lazy_init(*args, **call)
    for name, value in bridge.variables.linen_vars_to_nnx_attrs(variables).items():
        setattr(module, name, value)
    training = functools.partial(apply, train=True, mutable=["batch_stats"])
    with nn.intercept_methods(share_dropout):
        out = nnx.jit(lambda m, inputs: train_step(entry, m, inputs))(module, inputs)
        expected, changed = jax.jit(training)(variables, inputs)
    assert_trees_close(out, expected)
    statistics = nnx.to_pure_dict(nnx.state(module, nnx.BatchStat))
    assert_trees_close(statistics, changed.get("batch_stats", {}))


@walk_block_classes
def test_lowers_for_every_platform(entry):
    apply, variables, inputs = setup(entry, jnp.float32)
    export = jax.export.export(jax.jit(apply), platforms=["cpu", "cuda", "tpu"])
    struct = lambda tree: jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), tree)  # noqa: E731
    assert export(struct(variables), struct(inputs)).platforms == ("cpu", "cuda", "tpu")
