"""Batches of one and maps of one pixel: blocks give what their twins give, NaN included, or refuse where they do."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from convert.comparing.case import random_state
from convert.comparing.parity import flax_outputs, torch_outputs
from flax_attn.catalog import CATALOG, IMAGE
from tests.helpers.tolerances import assert_close
from tests.helpers.walk import entry_plan
from torch_ref.twins import build_twin, fill

ENTRIES = {e.cls: e for e in reversed(CATALOG) if e.cls.__module__.startswith("flax_attn.blocks")}
FIXED = ("AttentionModule_stage", "SpatialTransformer")  # are told the size of their images
IMAGES = [
    entry
    for cls, entry in reversed(ENTRIES.items())
    if all(i.layout == IMAGE for i in entry.inputs) and not cls.__name__.startswith(FIXED)
]
SIZES = {"one sample": lambda shape: (1, *shape[1:]), "one pixel": lambda s: (s[0], *[1] * (len(s) - 2), s[-1])}


@pytest.mark.filterwarnings("ignore:.*degrees of freedom")
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("entry", IMAGES, ids=lambda entry: entry.name)
def test_small_inputs_give_what_the_twin_gives(entry, size):
    module, twin, rng = entry.module(), build_twin(entry.cls, entry.kwargs), np.random.default_rng(0)
    state_dict = random_state(entry_plan(entry), rng)
    fill(twin, state_dict, "float64")
    variables = entry_plan(entry).from_torch(state_dict)
    shapes = [SIZES[size](struct.shape) for struct in entry.structs(module)]
    inputs = tuple(dataclasses.replace(i, shape=shape) for i, shape in zip(entry.inputs, shapes, strict=True))
    arrays = dataclasses.replace(entry, inputs=inputs).draw(module, rng, "float64")
    try:
        expected = torch_outputs(entry, twin, arrays)
    except (RuntimeError, ValueError):
        with pytest.raises(ValueError, match=": expected "):
            jax.eval_shape(functools.partial(entry.apply, module), variables, arrays)
        return
    for ours, theirs in zip(flax_outputs(entry, module, variables, arrays), expected, strict=True):
        assert_close(ours, theirs)
