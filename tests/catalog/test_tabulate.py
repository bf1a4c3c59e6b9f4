"""``module.tabulate`` prints a table of every module of the catalog, with its parameters."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from flax_attn import layers
from tests.helpers.walk import entry_plan, walk_classes


def table_of(entry):
    module = entry.module()
    args, call = entry.arguments([jnp.zeros(s.shape, s.dtype) for s in entry.structs(module)])
    rngs = {"params": jax.random.key(0), "sample": jax.random.key(1)}
    return module.tabulate(rngs, *args, console_kwargs={"width": 400, "force_terminal": False}, **call)


def check_table(entry):
    table, leaves = table_of(entry), {row.path[-1] for row in entry_plan(entry).rows}
    assert type(entry.module()).__name__ in table
    assert all(f"{leaf}:" in table for leaf in leaves)


@walk_classes
def test_every_module_can_be_tabulated(entry):
    check_table(entry)


def test_a_compact_method_of_any_name_may_create_children():
    class Network(layers.Module):
        def __call__(self, x, train=False):
            return self.encode(x)

        @nn.compact
        def encode(self, x):
            return layers.Linear(3, 2)(x)

    variables = Network().init(jax.random.key(0), jnp.ones((1, 3)))
    assert variables["params"]["Linear_0"]["kernel"].shape == (3, 2)
