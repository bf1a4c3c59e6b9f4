"""A training goes on in JAX where PyTorch stopped, and in PyTorch where JAX stopped: nobody notices, in float64."""

import copy
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest

from convert import from_torch_checkpoint, start_run, to_torch_checkpoint, torch_optimizer
from convert.precision import KEEP
from flax_attn.catalog import CATALOG
from tests.helpers.training import FINAL, LOSS, FlaxRun, TorchRun, make_task, off_by, too_far, worst

torch = pytest.importorskip("torch")

ENTRIES = {entry.name: entry for entry in CATALOG}
IGNORED = ("lr", "foreach", "fused", "capturable", "differentiable")
"""Options that say how PyTorch computes, not what; the learning rate is compared by itself."""

CASES = {
    "sgd": ("SGD", dict(lr=0.05)),
    "momentum": ("SGD", dict(lr=0.02, momentum=0.9, dampening=0.3, weight_decay=1e-2)),
    "nesterov": ("SGD", dict(lr=0.02, momentum=0.9, nesterov=True)),
    "adam": ("Adam", dict(lr=0.01, weight_decay=1e-2)),
    "amsgrad": ("Adam", dict(lr=0.01, amsgrad=True, betas=(0.5, 0.9))),
    "adamw": ("AdamW", dict(lr=0.01)),
    "adamw-amsgrad": ("AdamW", dict(lr=0.01, amsgrad=True, betas=(0.5, 0.9))),
    "adamax": ("Adamax", dict(lr=0.01)),
    "nadam": ("NAdam", dict(lr=0.01, momentum_decay=1e-2)),
    "radam": ("RAdam", dict(lr=0.01)),
    "rmsprop": ("RMSprop", dict(lr=2e-3)),
    "rmsprop-centered": ("RMSprop", dict(lr=2e-3, centered=True, momentum=0.9, eps=1e-6)),
    "adagrad": ("Adagrad", dict(lr=0.02, lr_decay=0.05)),
    "adadelta": ("Adadelta", dict(lr=0.5)),
    "maximize": ("Adam", dict(lr=0.01, maximize=True)),
}


def the_task(name: str = "BasicConv2d"):
    return make_task(ENTRIES[name])


def example(task):
    """The positional and the keyword arguments of the module."""
    return task.entry.arguments(task.batches[0])


def saved(path, run: TorchRun, **beside: Any) -> None:
    """Save a training as a PyTorch script does."""
    state = {"model": run.module.state_dict(), "optimizer": run.optimizer.state_dict(), **beside}
    if run.scheduler:
        state["lr_scheduler"] = run.scheduler.state_dict()
    torch.save(state, path)


def loaded(path, run: TorchRun) -> dict[str, Any]:
    """Load a training as a PyTorch script does."""
    found = torch.load(path, weights_only=True)
    run.module.load_state_dict(found["model"])
    run.optimizer.load_state_dict(found["optimizer"])
    if run.scheduler:
        run.scheduler.load_state_dict(found["lr_scheduler"])
    return found


def reload(run: TorchRun) -> None:
    """Have the optimizer load its own state, as a script does that goes on. NAdam's product changes its dtype then."""
    run.optimizer.load_state_dict(copy.deepcopy(run.optimizer.state_dict()))


def require_same(losses, expected, ours, theirs) -> None:
    """Fail if two trainings differ: in their losses, or in parameters and statistics."""
    assert not too_far({"loss": off_by(losses, expected), "state": worst(ours.state_dict(), theirs.state_dict())})


def require_same_optimizer(found: dict[str, Any], optimizer: Any) -> None:
    """Fail if the optimizer's state dict in a file is another one than that of ``optimizer``."""
    expected = optimizer.state_dict()
    assert found["state"].keys() == expected["state"].keys()
    for part in sorted({name for values in expected["state"].values() for name in values}):
        ours, theirs = (
            {str(i): np.asarray(torch.as_tensor(values[part])) for i, values in state["state"].items()}
            for state in (found, expected)
        )
        assert not too_far({part: worst(ours, theirs)})
    for group, wanted in zip(found["param_groups"], expected["param_groups"], strict=True):
        assert group["params"] == wanted["params"]
        assert {name: group[name] for name in wanted if name not in IGNORED} == {
            name: value for name, value in wanted.items() if name not in IGNORED
        }
        assert group["lr"] == pytest.approx(wanted["lr"], rel=1e-12)


def there_and_back(task, make, path, scheduler=None, per_epoch=1, **options: Any) -> None:
    """10 steps in PyTorch, 15 in JAX and 5 in PyTorch, against 30 in PyTorch."""
    args, call = example(task)
    whole, first, last = (TorchRun(task, make, scheduler=scheduler, per_epoch=per_epoch) for _ in range(3))
    expected = whole.train(range(25))
    first.train(range(10))
    saved(path / "ours.pth", first, epoch=2)
    if scheduler:
        options |= dict(steps_per_epoch=per_epoch, step_in_epoch=10 % per_epoch)
    run = from_torch_checkpoint(path / "ours.pth", task.entry.module(), *args, **call, dtype=KEEP, **options)
    middle = FlaxRun(task, run.transformation, run.state)
    require_same(middle.train(range(10, 25)), expected[10:], middle, whole)
    to_torch_checkpoint(path / "back.pth", run, middle.state, epoch=5)
    found = loaded(path / "back.pth", last)
    assert found["epoch"] == 5
    assert list(found["model"]) == list(whole.module.state_dict())
    counters = {key: int(x) for key, x in found["model"].items() if key.endswith("num_batches_tracked")}
    assert counters
    assert set(counters.values()) == {25}
    require_same_optimizer(found["optimizer"], whole.optimizer)
    last.taken = 25
    reload(whole)
    require_same(last.train(range(25, 30)), whole.train(range(25, 30)), last, whole)
    require_same_optimizer(last.optimizer.state_dict(), whole.optimizer)


@pytest.mark.parametrize("name", CASES)
def test_there_and_back(tmp_path, name):
    kind, arguments = CASES[name]
    options = {} if name != "sgd" else dict(step=10)
    there_and_back(
        the_task(), lambda parameters: getattr(torch.optim, kind)(parameters.values(), **arguments), tmp_path, **options
    )


VARIANTS = ("momentum", "amsgrad", "adamw-amsgrad", "rmsprop-centered", "maximize")
"""Cases that are like another one in the way back."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in VARIANTS else ()) for name in CASES]
)
def test_jax_begins_and_pytorch_goes_on(tmp_path, name):
    kind, arguments = CASES[name]
    task = the_task()
    args, call = example(task)
    make = lambda parameters: getattr(torch.optim, kind)(parameters.values(), **arguments)  # noqa: E731
    whole, last = TorchRun(task, make), TorchRun(task, make)
    expected = whole.train(range(10))
    reload(whole)
    expected += whole.train(range(10, 25))
    module = task.entry.module()
    optimizer = torch_optimizer(module, kind, *args, **arguments)
    run = start_run(module, task.plan.from_torch(task.state, dtype=KEEP), optimizer, *args, **call)
    first = FlaxRun(task, run.transformation, run.state)
    assert off_by(first.train(range(10)), expected[:10])[0] <= LOSS
    to_torch_checkpoint(tmp_path / "ours.pth", run, first.state)
    loaded(tmp_path / "ours.pth", last)
    require_same(last.train(range(10, 25)), expected[10:], last, whole)
    require_same_optimizer(last.optimizer.state_dict(), whole.optimizer)


def two_groups(parameters):
    """A backbone that learns slowly, as in DETR, and a frozen parameter."""
    parameters["conv2.weight"].requires_grad_(False)
    slow = [p for key, p in parameters.items() if key.startswith(("conv1", "bn1"))]
    fast = [p for key, p in parameters.items() if key.startswith(("conv2", "bn2"))]
    return torch.optim.AdamW([{"params": fast}, {"params": slow, "lr": 1e-5, "weight_decay": 0}], lr=0.01)


def test_groups_with_their_own_learning_rate_and_a_schedule(tmp_path):
    there_and_back(
        the_task("BasicBlock-option-a"),
        two_groups,
        tmp_path,
        scheduler=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5),
        per_epoch=4,
        groups=["conv2|bn2", "conv1|bn1"],
    )


def test_a_difference_is_found(tmp_path):
    """A learning rate that is a thousandth off."""
    task = the_task()
    args, call = example(task)
    make = lambda parameters: torch.optim.Adam(parameters.values(), lr=0.01)  # noqa: E731
    whole, first = TorchRun(task, make), TorchRun(task, make)
    expected = whole.train(range(25))
    first.train(range(10))
    saved(tmp_path / "ours.pth", first)
    found = torch.load(tmp_path / "ours.pth", weights_only=True)
    found["optimizer"]["param_groups"][0]["lr"] *= 1.001
    torch.save(OrderedDict(found), tmp_path / "ours.pth")
    run = from_torch_checkpoint(tmp_path / "ours.pth", task.entry.module(), *args, **call, dtype=KEEP)
    other = FlaxRun(task, run.transformation, run.state)
    assert off_by(other.train(range(10, 25)), expected[10:])[0] > 100 * LOSS
    assert worst(other.state_dict(), whole.state_dict())[0] > 100 * FINAL
