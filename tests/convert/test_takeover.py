"""A training goes from PyTorch to JAX and back in the middle, and the losses are those of PyTorch alone."""

import argparse
import copy
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from convert import CheckpointError, from_torch_checkpoint, restore_run, save_run, start_run, to_torch_checkpoint
from convert import torch_optimizer as torch_optimizer_of
from convert.optimizer import optimizer_from_torch
from flax_attn import layers
from flax_attn.training import train_step

torch = pytest.importorskip("torch")
optim, lr_scheduler = torch.optim, torch.optim.lr_scheduler

STEPS = 40
DATA = np.random.default_rng(0).normal(size=(STEPS, 6, 4, 4, 3)), np.random.default_rng(1).normal(size=(STEPS, 6, 2))
X = np.zeros((2, 4, 4, 3))
GROUPS = ["^head", "^body"]


class Flat(layers.Module):
    """A body with statistics, and a head."""

    def setup(self):
        self.body = layers.Sequential([layers.Conv2d(3, 5, 3, bias=False), layers.BatchNorm2d(5), layers.ReLU()])
        self.head = layers.Linear(20, 2)

    def __call__(self, x, train=False):
        return self.head(layers.flatten(self.body(x, train)))


class TorchFlat(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3, bias=False), torch.nn.BatchNorm2d(5), torch.nn.ReLU())
        self.head = torch.nn.Linear(20, 2)

    def forward(self, x):
        return self.head(self.body(x).flatten(1))


def in_groups(net):
    return [dict(params=[*net.head.parameters()]), dict(params=[*net.body.parameters()], lr=3e-3)]


class Torch:
    """A PyTorch training of ``TorchFlat`` in float64."""

    def __init__(self, optimizer, scheduler=None, groups=False):
        torch.manual_seed(0)
        self.net = TorchFlat().double()
        self.optimizer = optimizer(in_groups(self.net) if groups else self.net.parameters())
        self.scheduler = scheduler and scheduler(self.optimizer)

    def steps(self, start, stop):
        return [self.step(i) for i in range(start, stop)]

    def step(self, i):
        images, targets = (torch.tensor(array[i]) for array in DATA)
        self.optimizer.zero_grad()
        loss = (self.net(images.movedim(-1, 1)) - targets).square().mean()
        loss.backward()
        self.optimizer.step()
        if self.scheduler:
            self.scheduler.step(*[loss.item()] * isinstance(self.scheduler, lr_scheduler.ReduceLROnPlateau))
        return loss.item()

    def save(self, path, **beside):
        states = dict(model=self.net.state_dict(), optimizer=self.optimizer.state_dict(), **beside)
        torch.save(states | ({"lr_scheduler": self.scheduler.state_dict()} if self.scheduler else {}), path)

    def load(self, path):
        states = torch.load(path, weights_only=True)
        self.net.load_state_dict(states["model"])
        self.optimizer.load_state_dict(states["optimizer"])
        if self.scheduler:
            self.scheduler.load_state_dict(states["lr_scheduler"])
        return states


def flax_steps(run, start, stop):
    step = train_step(run.module, lambda out, batch: ((out - batch["y"]) ** 2).mean(), run.transformation)
    state, losses = run.state, []
    for i in range(start, stop):
        state, metrics = step(state, {"x": DATA[0][i], "y": DATA[1][i]})
        losses.append(float(metrics["loss"]))
    return state, losses


def assert_same_end(path, one, other):
    """Two PyTorch trainings that have come to the same parameters, statistics and state of the optimizer."""
    for key, value in one.net.state_dict().items():
        np.testing.assert_allclose(other.net.state_dict()[key], value, rtol=1e-8, atol=1e-10, err_msg=key)
    states = [training.optimizer.state_dict()["state"] for training in (one, other)]
    assert states[0].keys() == states[1].keys()
    for i, stored in states[0].items():
        for name, value in stored.items():
            np.testing.assert_allclose(states[1][i][name], value, rtol=1e-8, atol=1e-10, err_msg=f"{name} of {i}")
    for mine, theirs in zip(one.optimizer.param_groups, other.optimizer.param_groups, strict=True):
        numbers = {name: value for name, value in mine.items() if isinstance(value, float)}
        assert {name: theirs[name] for name in numbers} == pytest.approx(numbers, rel=1e-12)


OPTIMIZERS = {
    "sgd": lambda p: optim.SGD(p, lr=0.05),
    "sgd momentum": lambda p: optim.SGD(p, lr=0.02, momentum=0.9, weight_decay=0.01),
    "sgd dampening": lambda p: optim.SGD(p, lr=0.02, momentum=0.9, dampening=0.3),
    "sgd nesterov": lambda p: optim.SGD(p, lr=0.02, momentum=0.9, nesterov=True),
    "adam": lambda p: optim.Adam(p, lr=0.01, weight_decay=0.01),
    "adam amsgrad": lambda p: optim.Adam(p, lr=0.01, amsgrad=True),
    "adamw": lambda p: optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "adamw amsgrad": lambda p: optim.AdamW(p, lr=0.01, amsgrad=True),
    "adamax": lambda p: optim.Adamax(p, lr=0.01, weight_decay=0.01),
    "nadam": lambda p: optim.NAdam(p, lr=0.01, weight_decay=0.01, decoupled_weight_decay=True),
    "radam": lambda p: optim.RAdam(p, lr=0.01, weight_decay=0.01),
    "rmsprop": lambda p: optim.RMSprop(p, lr=0.003),
    "rmsprop centered": lambda p: optim.RMSprop(p, lr=0.003, centered=True, momentum=0.5, weight_decay=0.01),
    "adagrad": lambda p: optim.Adagrad(p, lr=0.05, lr_decay=0.01, initial_accumulator_value=0.1),
    "adadelta": lambda p: optim.Adadelta(p, lr=1.0, weight_decay=0.01),
    "sgd maximize": lambda p: optim.SGD(p, lr=1e-3, momentum=0.5, maximize=True),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_there_and_back_with_two_groups(tmp_path, name):
    """10 steps in PyTorch, 15 in JAX, 10 in PyTorch: equal to 35 in PyTorch."""
    alone, first, last = (Torch(OPTIMIZERS[name], groups=True) for _ in range(3))
    expected = alone.steps(0, 35)
    first.steps(0, 10)
    first.save(tmp_path / "a.pth", epoch=1)
    run = from_torch_checkpoint(tmp_path / "a.pth", Flat(), X, groups=GROUPS)
    state, losses = flax_steps(run, 10, 25)
    assert losses == pytest.approx(expected[10:25], rel=1e-9)
    to_torch_checkpoint(tmp_path / "b.pth", run, state, epoch=2)
    states = last.load(tmp_path / "b.pth")
    assert states["epoch"] == 2
    assert states["model"]["body.1.num_batches_tracked"] == 25
    assert list(states["model"]) == list(alone.net.state_dict())
    assert last.steps(25, 35) == pytest.approx(expected[25:], rel=1e-9)
    assert_same_end(tmp_path, alone, last)


SCHEDULERS = {
    "step": lambda o: lr_scheduler.StepLR(o, 6, 0.5),
    "multi step": lambda o: lr_scheduler.MultiStepLR(o, [4, 12, 12, 27], 0.5),
    "one cycle": lambda o: lr_scheduler.OneCycleLR(o, [0.05, 0.02], total_steps=STEPS),
    "sequence": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, total_iters=8), lr_scheduler.CosineAnnealingLR(o, 20)], [8]
    ),
    "cyclic": lambda o: lr_scheduler.CyclicLR(o, 1e-3, 1e-2, step_size_up=5),
}


@pytest.mark.parametrize("optimizer", ["sgd momentum", "adamw"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_schedule_goes_on(tmp_path, name, optimizer):
    """The learning rates, and the momentum where the scheduler moves it, are those of PyTorch alone."""
    alone, first, last = (Torch(OPTIMIZERS[optimizer], SCHEDULERS[name], groups=True) for _ in range(3))
    expected = alone.steps(0, 35)
    first.steps(0, 10)
    first.save(tmp_path / "a.pth")
    run = from_torch_checkpoint(tmp_path / "a.pth", Flat(), X, groups=GROUPS, steps_per_epoch=1)
    state, losses = flax_steps(run, 10, 25)
    assert losses == pytest.approx(expected[10:25], rel=1e-9)
    to_torch_checkpoint(tmp_path / "b.pth", run, state)
    last.load(tmp_path / "b.pth")
    assert last.steps(25, 35) == pytest.approx(expected[25:], rel=1e-9)
    assert_same_end(tmp_path, alone, last)


def test_a_scheduler_that_steps_after_each_epoch(tmp_path):
    def epochs(training, start, stop):
        losses = []
        for i in range(start, stop):
            losses += [training.step(i)]
            if (i + 1) % 4 == 0:
                schedule.step()
        return losses

    training = Torch(OPTIMIZERS["adam"])
    schedule = lr_scheduler.StepLR(training.optimizer, 2, 0.1)
    epochs(training, 0, 10)
    training.scheduler = schedule
    training.save(tmp_path / "a.pth")
    training.scheduler = None
    run = from_torch_checkpoint(tmp_path / "a.pth", Flat(), X, steps_per_epoch=4, step_in_epoch=2)
    expected = epochs(training, 10, 30)
    state, losses = flax_steps(run, 10, 30)
    assert losses == pytest.approx(expected, rel=1e-9)
    to_torch_checkpoint(tmp_path / "b.pth", run, state)
    states = torch.load(tmp_path / "b.pth", weights_only=True)
    assert states["lr_scheduler"] == schedule.state_dict()
    assert states["optimizer"]["param_groups"][0]["lr"] == training.optimizer.param_groups[0]["lr"]


def test_a_plateau_is_stepped_by_its_metric(tmp_path):
    def make(optimizer):
        return lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=1)

    alone, first, last = (Torch(OPTIMIZERS["adam"], make, groups=True) for _ in range(3))
    expected = alone.steps(0, 35)
    first.steps(0, 10)
    first.save(tmp_path / "a.pth")
    run = from_torch_checkpoint(tmp_path / "a.pth", Flat(), X, groups=GROUPS)
    plateau, plateau_state = run.scheduler.plateau
    step = train_step(run.module, lambda out, batch: ((out - batch["y"]) ** 2).mean(), run.transformation)
    state, losses = run.state, []
    for i in range(10, 25):
        state, metrics = step(state, {"x": DATA[0][i], "y": DATA[1][i]})
        losses.append(float(metrics["loss"]))
        plateau_state = plateau.step(plateau_state, metrics["loss"])
        state = state.replace(opt_state=run.optimizer.set_lr(state.opt_state, plateau_state.lr))
    assert losses == pytest.approx(expected[10:25], rel=1e-9)
    to_torch_checkpoint(tmp_path / "b.pth", run, state, plateau_state)
    last.load(tmp_path / "b.pth")
    assert last.steps(25, 35) == pytest.approx(expected[25:], rel=1e-9)
    assert_same_end(tmp_path, alone, last)


def test_a_schedule_of_the_user_stands_for_a_function(tmp_path):
    """The state of a LambdaLR is counted on, so that PyTorch goes on with its own function."""

    def make(optimizer):
        return lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.9**epoch)

    alone, first, last = (Torch(OPTIMIZERS["sgd momentum"], make) for _ in range(3))
    expected = alone.steps(0, 20)
    first.steps(0, 5)
    first.save(tmp_path / "a.pth")
    with pytest.raises(ValueError, match="LambdaLR"):
        from_torch_checkpoint(tmp_path / "a.pth", Flat(), X, steps_per_epoch=1)
    schedules = [lambda count: 0.02 * 0.9**count]
    run = from_torch_checkpoint(tmp_path / "a.pth", Flat(), X, schedules=schedules, step=5, steps_per_epoch=1)
    save_run(tmp_path / "run.safetensors", run)
    with pytest.raises(ValueError, match="pass schedules, for each group a function"):
        restore_run(tmp_path / "run.safetensors", X, cls=Flat)
    run = restore_run(tmp_path / "run.safetensors", X, cls=Flat, schedules=schedules)
    state, losses = flax_steps(run, 5, 15)
    assert losses == pytest.approx(expected[5:15], rel=1e-9)
    to_torch_checkpoint(tmp_path / "b.pth", run, state)
    last.load(tmp_path / "b.pth")
    assert last.steps(15, 20) == pytest.approx(expected[15:], rel=1e-9)


def test_a_part_of_the_model_of_the_file(tmp_path):
    """The rest of the state dict is kept, and goes back."""
    training = Torch(OPTIMIZERS["adam"])
    training.steps(0, 3)
    model = {f"net.{key}": value for key, value in training.net.state_dict().items()} | {"loss.scale": torch.ones(2)}
    torch.save({"state_dict": model, "optimizer": training.optimizer.state_dict()}, tmp_path / "a.pth")
    run = from_torch_checkpoint(tmp_path / "a.pth", Flat(), X, prefix="net.")
    save_run(tmp_path / "run.safetensors", run)
    run = restore_run(tmp_path / "run.safetensors", X, cls=Flat)
    to_torch_checkpoint(tmp_path / "b.pth", run)
    found = torch.load(tmp_path / "b.pth", weights_only=True)["state_dict"]
    assert list(found) == list(model)
    assert all(torch.equal(found[key], value) for key, value in model.items())


def test_the_user_says_how_often_the_scheduler_steps(tmp_path):
    training = Torch(OPTIMIZERS["adam"], SCHEDULERS["step"])
    training.steps(0, 2)
    training.save(tmp_path / "a.pth")
    with pytest.raises(ValueError, match="StepLR, and does not say how often PyTorch steps it; pass steps_per_epoch"):
        from_torch_checkpoint(tmp_path / "a.pth", Flat(), X)


def test_averaged_weights(tmp_path):
    """PyTorch's AveragedModel goes on as the average of the training state."""
    swa_utils = torch.optim.swa_utils

    def averaged(training):
        return swa_utils.AveragedModel(training.net, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.9))

    training = Torch(OPTIMIZERS["adam"])
    average = averaged(training)
    for i in range(5):
        training.step(i)
        average.update_parameters(training.net)
    training.save(tmp_path / "a.pth", model_ema=average.state_dict())
    run = from_torch_checkpoint(tmp_path / "a.pth", Flat(), X, ema="model_ema")
    step = train_step(
        run.module, lambda out, batch: ((out - batch["y"]) ** 2).mean(), run.transformation, ema_decay=0.9
    )
    state = run.state
    for i in range(5, 10):
        training.step(i)
        average.update_parameters(training.net)
        state, _ = step(state, {"x": DATA[0][i], "y": DATA[1][i]})
    to_torch_checkpoint(tmp_path / "b.pth", run, state)
    found = torch.load(tmp_path / "b.pth", weights_only=True)["model_ema"]
    assert found.keys() == average.state_dict().keys()
    for key, value in average.state_dict().items():
        np.testing.assert_allclose(found[key], value, rtol=1e-9, err_msg=key)


def test_a_training_that_begins_here_goes_on_in_pytorch(tmp_path):
    module = Flat(param_dtype="float64")
    variables = module.init(jax.random.key(0), X)
    optimizer = torch_optimizer_of(
        module, "AdamW", X, groups=[dict(params="^head"), dict(params="^body", lr=3e-3)], lr=0.01, weight_decay=0.1
    )
    run = start_run(module, variables, optimizer, X)
    to_torch_checkpoint(tmp_path / "start.pth", run)
    alone, last = (Torch(OPTIMIZERS["adamw"], groups=True) for _ in range(2))
    alone.load(tmp_path / "start.pth")
    state, losses = flax_steps(run, 0, 10)
    assert losses == pytest.approx(alone.steps(0, 10), rel=1e-9)
    to_torch_checkpoint(tmp_path / "b.pth", run, state)
    last.load(tmp_path / "b.pth")
    assert last.steps(10, 15) == pytest.approx(alone.steps(10, 15), rel=1e-9)


@pytest.mark.parametrize("name", ["adam amsgrad", "nadam", "sgd momentum"])
def test_a_run_in_a_file_of_ours(tmp_path, name):
    alone, first, last = (Torch(OPTIMIZERS[name], SCHEDULERS["step"], groups=True) for _ in range(3))
    expected = alone.steps(0, 30)
    first.steps(0, 10)
    first.save(tmp_path / "a.pth", epoch=3, args=argparse.Namespace(lr=0.1, sizes=[1, 2]))
    run = from_torch_checkpoint(tmp_path / "a.pth", Flat(), X, groups=GROUPS, steps_per_epoch=1)
    state, _ = flax_steps(run, 10, 15)
    save_run(tmp_path / "run.safetensors", run, state)
    again = restore_run(tmp_path / "run.safetensors", X, cls=Flat)
    assert again.module == run.module
    assert again.beside == {"epoch": 3, "args": {"lr": 0.1, "sizes": [1, 2]}}
    for one, other in zip(jax.tree.leaves(again.state.variables), jax.tree.leaves(state.variables), strict=True):
        np.testing.assert_array_equal(one, other)
    assert jax.random.key_data(again.state.rng).tolist() == jax.random.key_data(state.rng).tolist()
    state, losses = flax_steps(again, 15, 25)
    assert losses == pytest.approx(expected[15:25], rel=1e-9)
    to_torch_checkpoint(tmp_path / "b.pth", again, state)
    last.load(tmp_path / "b.pth")
    assert last.steps(25, 30) == pytest.approx(expected[25:], rel=1e-9)
    assert_same_end(tmp_path, alone, last)


def test_other_files_are_no_runs(tmp_path):
    torch.save({"fc.weight": torch.ones(2, 3)}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="expected a training that save_run or convert --with-optimizer wrote"):
        restore_run(tmp_path / "a.pth")


def test_a_file_without_an_optimizer(tmp_path):
    torch.save({"model": Torch(OPTIMIZERS["sgd"]).net.state_dict(), "epoch": 3}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="expected the state of an optimizer beside the weights, found epoch"):
        from_torch_checkpoint(tmp_path / "a.pth", Flat(), X)


def test_several_optimizers_are_told_apart(tmp_path):
    training = Torch(OPTIMIZERS["adam"])
    training.steps(0, 2)
    state = training.optimizer.state_dict()
    other = Torch(OPTIMIZERS["sgd"]).optimizer.state_dict()
    states = {"state_dict": training.net.state_dict(), "optimizer_states": [state, other], "lr_schedulers": []}
    torch.save(states, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"optimizer_at: optimizer_states\.0, optimizer_states\.1"):
        from_torch_checkpoint(tmp_path / "a.pth", Flat(), X)
    run = from_torch_checkpoint(tmp_path / "a.pth", Flat(), X, optimizer_at="optimizer_states.0")
    assert run.optimizer.kind.name == "Adam"
    to_torch_checkpoint(tmp_path / "b.pth", run)
    found = torch.load(tmp_path / "b.pth", weights_only=True)
    assert found["optimizer_states"][0]["state"][0]["step"] == 2
    assert found["lr_schedulers"] == []


class Settings(SimpleNamespace):
    """An object of a class that torch.load would have to import."""


def test_objects_that_pytorch_would_import_are_left_out_with_a_warning(tmp_path):
    training = Torch(OPTIMIZERS["adam"])
    training.steps(0, 2)
    training.save(tmp_path / "a.pth", args=argparse.Namespace(lr=0.1), nested={"own": Settings(a=1), "kept": 2})
    run = from_torch_checkpoint(tmp_path / "a.pth", Flat(), X)
    with pytest.warns(UserWarning, match=r"left out, because it is no plain data: nested\.own \(.*Settings\)"):
        to_torch_checkpoint(tmp_path / "b.pth", run)
    states = torch.load(tmp_path / "b.pth", weights_only=True)
    assert (states["args"], states["nested"]) == ({"lr": 0.1}, {"kept": 2})


def test_the_pytorch_optimizer_does_not_share_its_counters(tmp_path):
    """PyTorch counts in place: two parameters with one counter would count twice."""
    training = Torch(OPTIMIZERS["nadam"])
    training.steps(0, 3)
    made, state = optimizer_from_torch(Flat(), training.optimizer.state_dict(), training.net.state_dict(), X)
    stored = made.to_torch(state)["state"]
    places = {stored[i][name].__array_interface__["data"][0] for i in stored for name in ("step", "mu_product")}
    assert len(places) == 2 * len(stored)
    assert copy.deepcopy(stored[0]["step"]) == 3
