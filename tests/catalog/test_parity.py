"""Every catalog entry gives the numbers, gradients and statistics of its PyTorch twin, in the same order.

Without torch, PyTorch's numbers are those of an earlier run; see ``tests.helpers.references``.
"""

import numpy as np
import pytest

from convert.comparing.case import outputs
from convert.comparing.parity import Parity
from convert.comparing.report import compared
from flax_attn.catalog.blocks import BLOCKS
from flax_attn.catalog.models import MODELS
from tests.helpers.references import torch_steps
from tests.helpers.walk import entries, entry_plan, walk, walk_blocks, walk_but_slow

NO_GRADIENT = (
    *("PositionEmbeddingSine", "PositionEmbeddingSine-normalize", "PositionEmbeddingLearned"),
    *("LocationNetwork", "OldLocationNetwork", "BaselineNetwork", "OldBaselineNetwork"),
)
"""Blocks that read a mask or the shape of their input, or stop the gradient of their input."""


def check(parity, train, count=1):
    entry, plan, dtype = parity.entry, parity.case.plan, parity.dtype.name
    parameters = [f"gradient of {key}" for key in plan.parameters]
    statistics = [row.key for row in plan.rows if row.statistic]
    expected = torch_steps(parity, train, count)
    for number, (ours, theirs) in enumerate(zip(parity.flax_steps(train, count), expected, strict=True)):
        assert ours.keys() == theirs.keys()
        assert [name for name in theirs if name in parameters] == parameters
        assert [name for name in theirs if name in statistics] == statistics
        assert {output.dtype for output in outputs(ours).values()} == {np.dtype(dtype)}
        moved = [name for name, x in theirs.items() if name.startswith("gradient of input") and np.any(x)]
        if not train and entry in BLOCKS and entry.name not in NO_GRADIENT:
            assert moved, "the output does not depend on the input: the comparison shows nothing"
        wrong = [str(row) for row in compared(ours, theirs, dtype, f"step {number}") if not row.ok]
        assert not wrong, "\n".join(wrong)


def parity_of(entry, dtype="float64"):
    return Parity(entry, entry_plan(entry), dtype)


@walk
def test_two_training_steps_and_blocks_in_eval_mode(entry):
    parity = parity_of(entry)
    check(parity, train=True, count=2)
    if entry in BLOCKS:
        check(parity, train=False)


@pytest.mark.slow
@entries([entry for entry in MODELS if not entry.slow])
def test_networks_in_eval_mode(entry):
    check(parity_of(entry), train=False)


@pytest.mark.slow
@walk_but_slow
def test_eval_mode_in_float32(entry):
    check(parity_of(entry, "float32"), train=False)


@pytest.mark.slow
@walk_blocks
def test_two_training_steps_in_float32(entry):
    check(parity_of(entry, "float32"), train=True, count=2)
