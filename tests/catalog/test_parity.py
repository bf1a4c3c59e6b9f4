"""Every catalog entry gives the numbers, gradients and statistics of its PyTorch twin.

Without torch, PyTorch's numbers are those of an earlier run; see ``tests.helpers.references``.
"""

import numpy as np
import pytest

from convert.parity import Parity, gradients, outputs
from tests.helpers.references import torch_steps
from tests.helpers.tolerances import assert_close
from tests.helpers.walk import entry_plan, walk, walk_blocks, walk_but_slow


def check(entry, dtype, train, count=1):
    parity = Parity(entry, entry_plan(entry), dtype)
    expected = torch_steps(parity, train, count)
    for number, (ours, theirs) in enumerate(zip(parity.flax_steps(train, count), expected, strict=True)):
        assert ours.keys() == theirs.keys()
        assert {output.dtype for output in outputs(ours).values()} == {np.dtype(dtype)}
        scale = max((float(np.abs(g).max(initial=0)) for g in gradients(theirs).values()), default=0.0)
        for name, value in theirs.items():
            allowance = scale if name in gradients(theirs) else 0.0
            assert_close(ours[name], value, dtype, f"step {number}: {name}", allowance)


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
