"""25 training steps in PyTorch and in JAX, in float64: the losses, the final numbers and the optimizers agree."""

import dataclasses
from typing import Any, NamedTuple

import pytest

from flax_attn import optim
from flax_attn.catalog import CATALOG, Entry
from tests.helpers.training import FlaxRun, TorchRun, differences, make_task, too_far

torch = pytest.importorskip("torch")

STEPS = 25
ENTRIES = {entry.name: entry for entry in CATALOG}


class Case(NamedTuple):
    """An entry of the catalog, the optimizer that trains it, and whether it learns classes."""

    entry: Entry
    optimizer: str
    arguments: dict[str, Any]
    classes: bool = False

    @property
    def name(self) -> str:
        return "-".join([self.entry.name, self.optimizer, *self.arguments])


def block(name: str, optimizer: str, **arguments: Any) -> Case:
    return Case(ENTRIES[name], optimizer, arguments)


def network(name: str, optimizer: str, **arguments: Any) -> Case:
    """A network that sorts six images. With two, its BatchNorms would magnify the rounding."""
    entry = ENTRIES[name]
    (_, *size), (given,) = entry.structs(entry.module())[0].shape, entry.inputs
    more = dataclasses.replace(entry, inputs=(dataclasses.replace(given, shape=(6, *size)),))
    return Case(more, optimizer, arguments, classes=True)


MOMENTUM = dict(lr=0.02, momentum=0.9)

CASES = [
    block("SELayer", "SGD", lr=0.1),
    block("SpatialGroupEnhance", "SGD", lr=0.01, maximize=True, weight_decay=0.01),
    block("CBAMBasicBlock", "SGD", **MOMENTUM, nesterov=True, weight_decay=1e-3),
    block("BasicBlock-option-a", "SGD", **MOMENTUM, dampening=0.2, weight_decay=1e-2),
    block("SEBottleneck-downsample", "RMSprop", lr=1e-3, centered=True, momentum=0.9, eps=1e-6),
    block("GlimpseNetwork", "RMSprop", lr=2e-3, alpha=0.9, weight_decay=1e-2),
    block("CAM_Module", "Adam", lr=0.01, maximize=True),
    block("PAM_Module", "Adam", lr=0.01, amsgrad=True, weight_decay=1e-2),
    block("TransformerEncoderLayer", "AdamW", lr=0.01, betas=(0.8, 0.98), eps=1e-6),
    block("CrissCrossAttention", "AdamW", lr=0.01, amsgrad=True, weight_decay=0.1),
    block("SAM", "Adamax", lr=2e-3, weight_decay=1e-2),
    block("EmbeddedGaussianNonLocalBlock-2d-bn", "NAdam", lr=2e-3, momentum_decay=1e-2),
    block("MultiheadAttention", "NAdam", lr=0.01, weight_decay=0.1, decoupled_weight_decay=True),
    block("SequentialPolarizedSelfAttention", "RAdam", lr=2e-3),
    block("CBAM", "RAdam", lr=0.01, weight_decay=0.1, decoupled_weight_decay=True),
    block("ESABlock", "Adagrad", lr=0.02, lr_decay=0.05, weight_decay=1e-2, initial_accumulator_value=0.1),
    block("DANetHead", "Adadelta", lr=0.5, rho=0.8),
    network("DigitsNet", "Adam", lr=0.001, eps=1e-7),
    network("SpatialTransformerNet", "SGD", lr=0.01),
    network("CifarResNet", "SGD", **MOMENTUM, weight_decay=5e-4),
    block("DETRdemo", "AdamW", lr=1e-3, weight_decay=1e-4),
]
NO_GRADIENT = "key_conv.bias"
"""It adds the same number to all scores of a softmax, so that its gradient is zero, or what rounding leaves."""

SLOW = ("CifarResNet", "DETRdemo")

OPTIMIZERS = ("SGD", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "Adagrad", "Adadelta")


def test_every_optimizer_trains_an_entry():
    assert {case.optimizer for case in CASES} == set(OPTIMIZERS)


def marks(case: Case) -> list[Any]:
    return [pytest.mark.slow] if case.entry.name in SLOW else []


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name, marks=marks(case)) for case in CASES])
def test_25_steps(case):
    task = make_task(case.entry, classes=case.classes)
    ours = FlaxRun(task, getattr(optim, case.optimizer.lower())(**case.arguments))
    make = getattr(torch.optim, case.optimizer)
    theirs = TorchRun(task, lambda parameters: make(parameters.values(), **case.arguments))
    losses, expected = ours.train(range(STEPS)), theirs.train(range(STEPS))
    found = differences(ours, theirs, losses, expected)
    print(case.name, expected[0], "->", expected[-1], {k: f"{v:.1e} {w}" for k, (v, w) in found.items()})
    assert not too_far(found)
    assert len(found) > 2 or case.arguments.get("momentum", 0) == 0
    still = [key for key in task.parameters if (theirs.state_dict()[key] == task.state[key]).all()]
    assert all(key.endswith(NO_GRADIENT) for key in still)
