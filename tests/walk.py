"""What every test that walks the catalog needs; imports no torch."""

import pytest

from convert import plan
from flax_attn.catalog import CATALOG, Entry

walk = pytest.mark.parametrize("entry", CATALOG, ids=lambda entry: entry.name)


def entry_plan(entry: Entry, **arguments):
    """The conversion plan of the entry's module."""
    module = entry.module(**arguments)
    args, kwargs = entry.arguments(entry.structs(module))
    return plan(module, *args, **kwargs)
