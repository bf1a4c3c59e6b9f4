"""A converted network learns another task with a new head, while its body stays as it is to the bit."""

import jax
import numpy as np
import optax
import pytest

from convert import from_torch, load
from convert.demo import FOLDER
from flax_attn import DigitsNet
from flax_attn.training import TrainState, eval_step, freeze, train_step
from tests.training.networks import bits, loss

datasets = pytest.importorskip("sklearn.datasets")

BODY = ["conv1", "nl", "conv2", "se"]


def test_only_the_new_head_learns():
    """Whether a digit is odd."""
    digits = datasets.load_digits()
    x, y = np.float32(digits.images / 16)[..., None], digits.target % 2
    variables = from_torch(DigitsNet(), load(FOLDER / "digits.pth"), x[:1])
    variables["params"]["fc"] = DigitsNet().init(jax.random.key(0), x[:1])["params"]["fc"]
    optimizer = freeze(optax.adamw(0.01), variables["params"], BODY)
    state, evaluate = TrainState.create(variables, optimizer), eval_step(DigitsNet())
    before = bits({name: state.params[name] for name in BODY}), bits(state.batch_stats)
    held_out = {"x": x[1000:]}
    first = (evaluate(state, held_out).argmax(-1) == y[1000:]).mean()
    step = train_step(DigitsNet(), loss, optimizer, frozen=BODY)
    for start in range(0, 960, 64):
        state, _ = step(state, {"x": x[start : start + 64], "y": y[start : start + 64]})
    assert (bits({name: state.params[name] for name in BODY}), bits(state.batch_stats)) == before
    assert first < 0.5
    assert (evaluate(state, held_out).argmax(-1) == y[1000:]).mean() > 0.9
