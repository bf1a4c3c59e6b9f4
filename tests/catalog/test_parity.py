"""Every catalog entry gives the numbers, gradients and statistics of its PyTorch twin, in the same order.

Without torch, PyTorch's numbers are those of an earlier run; see ``tests.helpers.references``.
"""

import numpy as np
import pytest

from convert.comparing.case import outputs
from convert.comparing.parity import Parity
from convert.comparing.report import compared
from flax_attn.catalog.blocks import BLOCKS
from tests.helpers.references import torch_steps
from tests.helpers.walk import entry_plan, walk, walk_blocks, walk_but_slow

NO_GRADIENT = (
    *("PositionEmbeddingSine", "PositionEmbeddingSine-normalize", "PositionEmbeddingLearned"),
    *("LocationNetwork", "OldLocationNetwork", "BaselineNetwork", "OldBaselineNetwork"),
)
"""Blocks that read a mask or the shape of their input, or stop the gradient of their input."""


def check(entry, dtype, train, count=1):
    plan = entry_plan(entry)
    parity = Parity(entry, plan, dtype)
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


@walk_but_slow
@pytest.mark.parametrize("dtype", ["float64", pytest.param("float32", marks=pytest.mark.slow)])
def test_eval_mode(entry, dtype):
    check(entry, dtype, train=False)


@walk
def test_two_training_steps(entry):
    check(entry, "float64", train=True, count=2)


@pytest.mark.slow
@walk_blocks
def test_two_training_steps_in_float32(entry):
    check(entry, "float32", train=True, count=2)
