"""Blocks with ``attention_weights=True``: the same output, and maps that give it and that are those of the twin."""

import ast
import dataclasses
import inspect
import sys
import textwrap
from importlib import import_module

import jax
import numpy as np
import pytest

import flax_attn
from convert.comparing.parity import random_state, to_nchw
from flax_attn import blocks
from flax_attn.blocks.attention import MultiheadAttention
from flax_attn.catalog import CATALOG, channels_last
from flax_attn.catalog.blocks import BLOCKS
from flax_attn.maps import keyword
from tests.helpers.formulas import formula
from tests.helpers.tolerances import assert_close
from tests.helpers.walk import entry_plan

ASK = ("attention_weights", "need_weights", "return_nl_map")
WITHOUT = {
    "ActionNetwork": "its softmax is over the classes",
}
ATTENDS = {"softmax", "log_softmax", "sigmoid", "grid_sample", "dynamic_slice"}


def takes_keyword(cls):
    return keyword(inspect.signature(cls.__call__)) is not None


def silent(entry):
    """``entry`` without a request for maps; of attention, the weights of each head show what the output is made of."""
    call = {name: value for name, value in entry.call.items() if name not in ASK}
    if issubclass(entry.cls, MultiheadAttention):
        call |= dict(average_attn_weights=False, need_weights=False)
    return dataclasses.replace(entry, call=call)


def one_head(entry):
    """A layer of the transformer whose mean over heads is the only head."""
    return dataclasses.replace(entry, kwargs={**entry.kwargs, "nhead": 1}, tag=f"{entry.tag}-one-head".strip("-"))


MAPPED = [silent(entry) for entry in CATALOG if inspect.isclass(entry.cls) and takes_keyword(entry.cls)]
LAYERS = [entry for entry in MAPPED if "nhead" in entry.kwargs]
ENTRIES = {entry.name: entry for entry in [*MAPPED, *map(one_head, LAYERS)]}
REPRODUCED = {name: entry for name, entry in ENTRIES.items() if entry.kwargs.get("nhead", 1) == 1}


def run(name):
    """(output without the keyword, output with it, maps, output from the maps), and all that the twin needs."""
    entry = ENTRIES[name]
    module, plan, rng = entry.module(), entry_plan(entry), np.random.default_rng(0)
    state = random_state(plan, rng)
    inputs = entry.draw(module, rng, "float64")
    ask = {keyword(inspect.signature(entry.cls.__call__)): True}

    def forward(variables, inputs):
        args, call = entry.arguments(inputs)
        plain = module.apply(variables, *args, **call)
        out, *maps = module.apply(variables, *args, **{**call, **ask})
        call = {key: value for key, value in call.items() if key not in {"average_attn_weights", *ASK}}
        call |= {i.name: x for i, x in zip(entry.inputs, inputs, strict=True) if i.name}
        again = (
            module.apply(variables, maps, *args, **call, method=formula(entry.cls)[0]) if name in REPRODUCED else out
        )
        return plain, out, maps, again

    with jax.default_matmul_precision("highest"):
        return jax.jit(forward)(plan.from_torch(state), inputs), state, inputs, ask


def assert_all_close(ours, theirs, name):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert_close(np.asarray(a), np.asarray(b), "float64", name)


def assert_same_but_for_rounding(a, b):
    """XLA may put the last operations of two equal computations together in two ways: the last bits then differ."""
    np.testing.assert_allclose(a, b, rtol=0, atol=8 * np.finfo(np.float64).eps * max(1, np.abs(b).max()))


def maps_of_the_twin(entry, state, inputs, ask, count):
    """The twin's maps: what it returns behind its first ``count`` outputs."""
    twins = import_module("torch_ref.twins")
    entry = dataclasses.replace(entry, call={**entry.call, **ask})
    twin = twins.build_twin(entry.cls, entry.kwargs)
    twins.fill(twin, state, "float64")
    maps = twins.outputs(twin, entry.arguments, to_nchw(entry, inputs))[count:]
    return [channels_last(x, formula(entry.cls)[1]) for x in maps]


@pytest.mark.parametrize("name", ENTRIES)
def test_maps_leave_the_output_and_give_it_and_are_those_of_the_twin(name):
    (plain, out, maps, again), state, inputs, ask = run(name)
    jax.tree.map(assert_same_but_for_rounding, jax.tree.leaves(plain), jax.tree.leaves(out))
    assert jax.tree.leaves(maps)
    assert_all_close(again, plain, name)
    pytest.importorskip("torch")
    assert_all_close(maps, maps_of_the_twin(ENTRIES[name], state, inputs, ask, len(jax.tree.leaves(plain))), name)


def names(thing):
    """The names in the code of a class or function of the blocks, of its bases, and of what it calls there."""
    found, left = set(), [thing]
    while left:
        thing = left.pop()
        bases = [base for base in getattr(thing, "__mro__", [thing]) if base.__module__.startswith(blocks.__name__)]
        for base in bases:
            tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
            new = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)} - found
            new |= {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)} - found
            found |= new
            known = [getattr(sys.modules[base.__module__], name, None) for name in new]
            left += [f for f in known if inspect.isfunction(f) and f.__module__.startswith(blocks.__name__)]
    return found


def test_every_block_that_attends_has_maps():
    classes = {entry.cls for entry in BLOCKS if inspect.isclass(entry.cls)}
    attending = {cls.__name__ for cls in classes if names(cls) & ATTENDS}
    assert {name for name in attending if not takes_keyword(getattr(flax_attn, name))} == set(WITHOUT)
    assert not {"PPM", "ResidualBlock", "SEBasicBlock"} & attending
