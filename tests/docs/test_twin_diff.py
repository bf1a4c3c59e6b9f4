"""The two files of a pair stay close: a tripwire, not a goal. ``python -m tests.twins PAIR`` prints what differs."""

import pytest

from tests import twins

FLOOR = 0.35
LAYERS = "layers/"  # torch.nn has these layers: the twins only adapt it


@pytest.mark.parametrize("pair", twins.pairs())
def test_pair_stays_close(pair):
    assert all(twins.lines(side, pair) for side in ("torch_ref", "flax_attn"))
    assert twins.diff(pair).startswith("---") or twins.share(pair) == 1
    if not pair.startswith(LAYERS):
        assert twins.share(pair) >= FLOOR, f"most lines differ: see python -m tests.twins {pair}"
