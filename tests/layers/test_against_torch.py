"""Each layer that PyTorch has under the same name: its arguments, outputs and gradients are PyTorch's."""

import inspect
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from flax_attn import layers
from tests.helpers.layer import check_layer, normal
from tests.helpers.layer_cases import ACTIVATIONS, CASES, arguments, public

ELSEWHERE = {
    "Embedding": "test_linear_dropout_containers.py",
    "GRU": "test_recurrent.py",
    "GRUCell": "test_recurrent.py",
    "LSTM": "test_recurrent.py",
    "LSTMCell": "test_recurrent.py",
    "LogSoftmax": "test_activation.py",
    "RNNCell": "test_recurrent.py",
    "Sequential": "test_linear_dropout_containers.py",
    "Softmax": "test_activation.py",
    "TransformerDecoder": "test_transformer.py",
    "TransformerDecoderLayer": "test_transformer.py",
    "TransformerEncoder": "test_transformer.py",
    "TransformerEncoderLayer": "test_transformer.py",
}
"""Layers that need a test of their own, and the file that compares them with PyTorch."""

CONTAINERS = ("ModuleDict", "ModuleList", "Sequential")
COUNTERPARTS = [name for name in public(layers.Module) if hasattr(torch.nn, name) and name != "Module"]

KINKS = [0.0, -0.0, 3.0, -3.0, 6.0, 1.0, -1.0, 0.5, 2.5, 10.0, 25.0, -25.0]

NOT_HERE = {"self", "inplace", "device", "dtype"}
OTHER_ARGUMENTS = {
    "Embedding": ["padding_idx", "max_norm", "norm_type", "scale_grad_by_freq", "sparse", "_weight", "_freeze"],
    "Hardtanh": ["min_value", "max_value"],
    "PReLU": ["init"],
    "TransformerEncoder": ["enable_nested_tensor", "mask_check"],
}
"""Arguments that a layer does not have. PReLU calls ``init`` ``initial``; those of Hardtanh are deprecated; those of
TransformerEncoder choose a faster path, not another result."""
OTHER_DEFAULTS = {"Softmax", "LogSoftmax", "TransformerDecoderLayer", "TransformerEncoderLayer"}
"""PyTorch's default of ``dim`` is deprecated; that of ``activation`` is PyTorch's own function ``relu``."""


DTYPES = {"Hardsigmoid": "float32"}
"""PyTorch's gradient of it holds 1/6 in float32; ``test_activation.py`` compares the formula in float64."""


def batch(name, shape):
    x = 3 * normal(*shape)
    if name in ACTIVATIONS:
        x[0, 0].flat[: len(KINKS)] = KINKS
    return x


@pytest.mark.parametrize("name", sorted({name for name, _, _ in CASES}))
def test_outputs_and_gradients(name):
    for _, kwargs, shape in (case for case in CASES if case[0] == name):
        given = arguments(name, kwargs)
        x = batch(name, shape).astype(DTYPES.get(name, "float64"))
        check_layer(getattr(layers, name)(**given), getattr(torch.nn, name)(**given), x)


@pytest.mark.parametrize("name", [name for name in COUNTERPARTS if name not in ("ModuleDict", "ModuleList")])
def test_every_layer_is_compared_with_torch(name):
    if name not in {case for case, _, _ in CASES}:
        assert name in ELSEWHERE, f"{name}: add a case to tests/helpers/layer_cases.py, or name the file of its test"
        text = (Path(__file__).parent / ELSEWHERE[name]).read_text()
        assert f"nn.{name}" in text or f'"{name}"' in text


def torch_arguments(name):
    """The names and defaults of the arguments of ``torch.nn.name`` that a layer here should have."""
    cls = torch.nn.RNNBase if name in ("LSTM", "GRU") else getattr(torch.nn, name)
    absent = NOT_HERE | set(OTHER_ARGUMENTS.get(name, ())) | ({"mode"} if cls is torch.nn.RNNBase else set())
    absent |= {"proj_size"} if name == "GRU" else set()
    found = inspect.signature(cls.__init__).parameters.values()
    return [(p.name, p.default) for p in found if p.name not in absent and p.kind is p.POSITIONAL_OR_KEYWORD]


@pytest.mark.parametrize("name", [name for name in COUNTERPARTS if name not in CONTAINERS])
def test_arguments_are_torchs_in_torchs_order(name):
    theirs = torch_arguments(name)
    found = inspect.signature(getattr(layers, name)).parameters.values()
    ours = [(p.name, p.default) for p in found if p.kind is p.POSITIONAL_OR_KEYWORD][: len(theirs)]
    if name in OTHER_DEFAULTS:
        ours, theirs = [p for p, _ in ours], [p for p, _ in theirs]
    assert ours == theirs
