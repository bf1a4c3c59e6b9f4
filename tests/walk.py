"""What every test that walks the catalog needs; imports no torch."""

import numpy as np
import pytest

from convert import plan
from flax_attn.catalog import CATALOG, Entry

walk = pytest.mark.parametrize("entry", CATALOG, ids=lambda entry: entry.name)


def draw(entry: Entry, structs, rng: np.random.Generator) -> list[np.ndarray]:
    """An array for each input of ``entry``."""
    kinds = {
        "normal": lambda shape: rng.normal(size=shape),
        "uniform": lambda shape: rng.uniform(-1, 1, shape),
        "bool": lambda shape: rng.random(shape) < 0.2,
    }
    return [kinds[i.kind](s.shape).astype(s.dtype) for i, s in zip(entry.inputs, structs, strict=True)]


def entry_plan(entry: Entry, **arguments):
    """The conversion plan of the entry's module."""
    module = entry.module(**arguments)
    args, kwargs = entry.arguments(entry.structs(module))
    return plan(module, *args, **kwargs)
