"""Batches of one and maps of one pixel: blocks give what their twins give, NaN included, or refuse where they do."""

import dataclasses

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from flax_attn.catalog import CATALOG, IMAGE, channels_first, channels_last
from tests.helpers.parity import Parity
from tests.helpers.tolerances import assert_close

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
    parity = Parity(entry, "float64")
    shapes = [SIZES[size](struct.shape) for struct in parity.structs]
    inputs = tuple(dataclasses.replace(i, shape=shape) for i, shape in zip(entry.inputs, shapes, strict=True))
    arrays = dataclasses.replace(entry, inputs=inputs).draw(parity.module, np.random.default_rng(0), "float64")
    args, call = entry.arguments([torch.tensor(channels_first(x, IMAGE)) for x in arrays])
    try:
        expected = jax.tree.leaves(parity.twin.eval()(*args, **call))
    except (RuntimeError, ValueError):
        with pytest.raises(ValueError, match=": expected "):
            jax.eval_shape(parity.apply, parity.variables, arrays)
        return
    got = jax.tree.leaves(jax.jit(parity.apply)(parity.variables, arrays))
    for ours, theirs, layout in zip(got, expected, entry.outputs, strict=True):
        assert_close(ours, channels_last(theirs.detach().numpy(), layout))
