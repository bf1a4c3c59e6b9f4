"""What every test that walks the catalog needs; imports no torch."""

import pytest

from convert import Plan, recognition
from flax_attn.catalog import CATALOG, PUBLISHED, Entry
from flax_attn.catalog.blocks import BLOCKS
from flax_attn.catalog.models import MODELS

PLANS: dict[str, Plan] = {}


def entries(chosen, slow=lambda entry: entry.slow):
    """Parametrise by the entries ``chosen``; those of which ``slow`` holds are for the slow run."""
    marked = [pytest.param(entry, marks=pytest.mark.slow) if slow(entry) else entry for entry in chosen]
    return pytest.mark.parametrize("entry", marked, ids=lambda entry: entry.name)


walk = entries(CATALOG)
"""Every entry, in the plain run but where it says that it is slow."""

walk_but_slow = entries([entry for entry in CATALOG if not entry.slow], lambda entry: entry in MODELS)
"""The same without the entries that are slow, for what a smaller entry shows as well."""

FIRST = {entry.cls: entry.name for entry in reversed(BLOCKS)}
"""The name of the first entry of each class of block."""

walk_first = entries([entry for entry in CATALOG if not entry.slow], lambda entry: FIRST.get(entry.cls) != entry.name)
"""The same, in the plain run only the first entry of each class of block."""

walk_blocks = entries(BLOCKS)
"""What networks are made of."""

walk_block_classes = entries({entry.cls: entry for entry in reversed(BLOCKS)}.values())
"""One entry of every class of block."""

walk_classes = entries({entry.cls: entry for entry in reversed(CATALOG)}.values(), lambda entry: entry in MODELS)
"""One entry of every class, the networks in the slow run."""


def published(found):
    """Parametrise by published networks. One process runs all such tests, and traces each network once."""
    group = pytest.mark.xdist_group("published")
    return pytest.mark.parametrize("entry", [pytest.param(entry, id=entry.name, marks=group) for entry in found])


walk_published = published(PUBLISHED)


def entry_plan(entry: Entry) -> Plan:
    """The conversion plan of the entry's module, traced once a process."""
    if entry.name not in PLANS:
        PLANS[entry.name] = recognition.entry_plan(entry, entry.module())
    return PLANS[entry.name]
