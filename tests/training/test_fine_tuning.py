"""A converted network learns another task with a new head, while its body stays as it is to the bit."""

import numpy as np
import optax
import pytest

from convert import MismatchError, from_torch, load
from convert.demo import FOLDER
from flax_attn import DigitsNet
from flax_attn.training import TrainState, eval_step, freeze, train_step
from tests.training.networks import bits, loss

datasets = pytest.importorskip("sklearn.datasets")

NET = DigitsNet(num_classes=3)
BODY = ["conv1", "nl", "conv2", "se"]


def test_only_the_new_head_learns():
    """The remainder of a digit when it is divided by 3, with the statistics and weights of a network of ten digits."""
    digits = datasets.load_digits()
    x, y = np.float32(digits.images / 16)[..., None], digits.target % 3
    trained = load(FOLDER / "digits.pth")
    with pytest.raises(MismatchError, match=r"~ fc.1.weight: expected shape \(3, 768\), found \(10, 768\)"):
        from_torch(NET, trained, x[:1])
    variables = from_torch(NET, trained, x[:1], replace=("fc",))
    optimizer = freeze(optax.adamw(0.01), variables["params"], BODY)
    state, evaluate = TrainState.create(variables, optimizer), eval_step(NET)

    def body(state):
        return bits({name: state.params[name] for name in BODY}), bits(state.batch_stats)

    def accuracy(state):
        return (evaluate(state, {"x": x[1000:]}).argmax(-1) == y[1000:]).mean()

    before, first = body(state), accuracy(state)
    step = train_step(NET, loss, optimizer, frozen=BODY)
    for start in range(0, 960, 64):
        state, _ = step(state, {"x": x[start : start + 64], "y": y[start : start + 64]})
    assert body(state) == before
    assert len(before[1]) > 0
    assert first < 0.5
    assert accuracy(state) > 0.9
