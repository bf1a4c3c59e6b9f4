"""Every class of block lowers for CPU, CUDA and TPU."""

import jax
import jax.export
import jax.numpy as jnp

from tests.catalog.test_transforms import setup
from tests.helpers.walk import walk_block_classes


@walk_block_classes
def test_lowers_for_every_platform(entry):
    apply, variables, inputs = setup(entry, jnp.float32)
    export = jax.export.export(jax.jit(apply), platforms=["cpu", "cuda", "tpu"])
    struct = lambda tree: jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), tree)  # noqa: E731
    assert export(struct(variables), struct(inputs)).platforms == ("cpu", "cuda", "tpu")
