"""Every catalog entry gives the numbers, gradients and statistics of its PyTorch twin."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tests.helpers.parity import Parity
from tests.helpers.tolerances import assert_close
from tests.helpers.walk import walk, walk_blocks, walk_but_slow


def compare(parity, train, variables, inputs):
    dtype = parity.dtype.name
    out, grads, variables = parity.flax_step(variables, inputs, train)
    torch_out, torch_grads = parity.torch_step(inputs, train)
    for got, expected in zip(out, torch_out, strict=True):
        assert got.dtype == dtype
        assert_close(got, expected, dtype, "output")
    assert grads.keys() == torch_grads.keys()
    scale = max(float(np.abs(g).max(initial=0)) for g in torch_grads.values())
    for key, got in grads.items():
        assert_close(got, torch_grads[key], dtype, f"gradient of {key}", scale)
    return variables, grads


def train_twice(entry, dtype):
    parity = Parity(entry, dtype)
    variables, grads = compare(parity, True, parity.variables, parity.inputs)
    variables = parity.descend(variables, grads)
    variables, _ = compare(parity, True, variables, parity.draw_inputs())
    state = parity.twin.state_dict()
    for key, value in parity.plan.to_torch(variables).items():
        assert_close(value, state[key], dtype, key)


@walk_but_slow
@pytest.mark.parametrize("dtype", ["float64", pytest.param("float32", marks=pytest.mark.slow)])
def test_eval_mode(entry, dtype):
    parity = Parity(entry, dtype)
    compare(parity, False, parity.variables, parity.inputs)


@walk
def test_two_training_steps(entry):
    train_twice(entry, "float64")


@pytest.mark.slow
@walk_blocks
def test_two_training_steps_in_float32(entry):
    train_twice(entry, "float32")
