"""Non-local blocks: what the walk over the catalog does not see."""

import dataclasses

from flax_attn.catalog import find_entries
from tests.catalog.test_parity import check, parity_of


def test_one_channel_has_an_embedding_of_one_channel():
    """In float64 only: with one channel, the gradients of both sides are mostly rounding in float32."""
    (entry,) = find_entries("NONLocalBlock3D")
    narrow = dataclasses.replace(entry, kwargs=dict(in_channels=1), tag="one-channel")
    check(parity_of(narrow), train=True, count=2)
