"""Dropout rates that the published code writes into its layers are arguments here, on both sides."""

import jax
import pytest

torch = pytest.importorskip("torch")

import flax_attn as fa
from flax_attn.layers import Dropout
from tests.helpers.layer import layers_of
from torch_ref.twins import build_twin

CASES = [
    (fa.DANetHead, dict(in_channels=32, out_channels=3), (1, 3, 4, 32), 0.1),
    (fa.RCCAModule, dict(in_channels=32, out_channels=6, num_classes=3), (1, 3, 4, 32), 0.1),
    (fa.DANet, dict(num_classes=3, layers=(1,), multi_grid=None), (1, 9, 11, 3), 0.1),
    (fa.CCNet, dict(num_classes=3, layers=(1, 1)), (1, 17, 19, 3), 0.1),
    (fa.SEInception3, dict(num_classes=3, aux_logits=False), (1, 75, 75, 3), 0.5),
]


def rates(cls, arguments, shape):
    """The rate of each dropout, in Flax and in PyTorch, by path."""
    layers = layers_of(cls(**arguments), jax.ShapeDtypeStruct(shape, "float32"))
    with torch.device("meta"):
        twin = build_twin(cls, arguments)
    kinds = torch.nn.Dropout | torch.nn.Dropout2d
    ours = {path: layer.p for path, layer in layers.items() if isinstance(layer, Dropout)}
    return ours, {path: layer.p for path, layer in twin.named_modules() if isinstance(layer, kinds)}


@pytest.mark.parametrize(
    ("cls", "arguments", "shape", "default"), CASES, ids=lambda case: getattr(case, "__name__", "")
)
def test_a_dropout_rate_reaches_every_dropout(cls, arguments, shape, default):
    for given, expected in (({}, default), (dict(dropout=0.37), 0.37)):
        ours, theirs = rates(cls, {**arguments, **given}, shape)
        assert ours == theirs
        assert set(ours.values()) == {expected}
