"""A training in a file of ours: every scheduler goes on, frozen stays frozen, and a damaged file is one clear error."""

import json

import jax
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from convert import CheckpointError, from_torch_checkpoint, restore_run, save_run, to_torch_checkpoint
from tests.convert.test_optimizer import MAKE, Two, X, flax_steps, net, torch_steps

torch = pytest.importorskip("torch")
scheduling = torch.optim.lr_scheduler

SCHEDULERS = {
    "MultiStepLR": lambda o: scheduling.MultiStepLR(o, [3, 3, 9], 0.5),
    "SequentialLR": lambda o: scheduling.SequentialLR(
        o, [scheduling.LinearLR(o, 0.1, total_iters=3), scheduling.MultiStepLR(o, [4, 8])], [3]
    ),
    "ChainedScheduler": lambda o: scheduling.ChainedScheduler(
        [scheduling.ConstantLR(o, 0.5, 8), scheduling.ExponentialLR(o, 0.9)]
    ),
    "OneCycleLR": lambda o: scheduling.OneCycleLR(o, 0.05, total_steps=40, cycle_momentum=False),
}


def written(path, name, scheduler=None, frozen=None, **beside):
    """A checkpoint of PyTorch after 4 steps."""
    network = net()
    optimizer = MAKE[name](network.parameters())
    scheduler = scheduler and scheduler(optimizer)
    for i in range(4):
        torch_steps(network, optimizer, i, i + 1, frozen=frozen)
        if scheduler:
            scheduler.step()
            beside["lr_scheduler"] = scheduler.state_dict()
    torch.save({"model": network.state_dict(), "optimizer": optimizer.state_dict(), **beside}, path)


def read_again(path, run, **arguments):
    save_run(path, run)
    return restore_run(path, X, cls=Two, **arguments)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_goes_through_the_file(tmp_path, name):
    written(tmp_path / "a.pth", "sgd", SCHEDULERS[name])
    run = from_torch_checkpoint(tmp_path / "a.pth", Two(), X, steps_per_epoch=1)
    again = read_again(tmp_path / "run.safetensors", run)
    assert again.scheduler.kind == name
    expected = [float(run.optimizer.schedules[0](count)) for count in range(4, 12)]
    assert len(set(expected)) > 1
    assert [float(again.optimizer.schedules[0](count)) for count in range(4, 12)] == pytest.approx(expected, rel=1e-12)
    to_torch_checkpoint(tmp_path / "b.pth", again)
    found = torch.load(tmp_path / "b.pth", weights_only=True)["lr_scheduler"]
    assert found == torch.load(tmp_path / "a.pth", weights_only=True)["lr_scheduler"]


@pytest.mark.parametrize("start_missing", [False, True])
@pytest.mark.parametrize("name", ["adam", "adagrad", "sgd"])
def test_frozen_and_beginning_parameters_stay_so(tmp_path, name, start_missing):
    written(tmp_path / "a.pth", name, frozen="body")
    run = from_torch_checkpoint(tmp_path / "a.pth", Two(), X, start_missing=start_missing)
    again = read_again(tmp_path / "run.safetensors", run)
    ends = [flax_steps(r.optimizer, r.state.opt_state, r.state.params, 4, 7)[0] for r in (run, again)]
    jax.tree.map(np.testing.assert_array_equal, *ends)
    moved = not np.array_equal(ends[1]["body"]["kernel"], run.state.params["body"]["kernel"])
    assert moved == start_missing


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The arrays, the metadata and the JSON of a file of ours."""
    path = tmp_path_factory.mktemp("run")
    written(path / "a.pth", "adam", SCHEDULERS["MultiStepLR"], model_ema=net().state_dict())
    run = from_torch_checkpoint(path / "a.pth", Two(), X, steps_per_epoch=1, ema="model_ema")
    save_run(path / "run.safetensors", run)
    with safe_open(path / "run.safetensors", "np") as file:
        metadata = file.metadata()
        return {key: file.get_tensor(key) for key in file.keys()}, metadata, json.loads(metadata["run"])  # noqa: SIM118


def restored(path, saved, text=None, arrays=None):
    save_file(saved[0] if arrays is None else arrays, path, metadata=saved[1] | ({} if text is None else {"run": text}))
    return restore_run(path, X, module=Two())


def test_the_average_goes_through_the_file(tmp_path, saved):
    ema = restored(tmp_path / "a.safetensors", saved).state.ema
    assert {*ema} == {"params", "batch_stats"}
    np.testing.assert_array_equal(ema["params"]["head"]["kernel"], net().state_dict()["head.weight"].T)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "7", "{}", "[" * 100_000, '{"step": ' + "1" * 5000 + "}"])
def test_metadata_that_are_no_run(tmp_path, saved, text):
    with pytest.raises(CheckpointError, match=r"a\.safetensors: expected a complete file, got a damaged one"):
        restored(tmp_path / "a.safetensors", saved, text)


VALUES = {
    ("kind",): [None, "Lion", 3, []],
    ("groups",): [None, [], [[]], {"a": 1}, "x"],
    ("groups", 0, "params"): [None, [0, 0, 1, 2], [[0], [1], [2], [3]], "0123"],
    ("groups", 0, "lr"): [None, "x", [], float("nan"), -1],
    ("keys",): [None, [], "x", [["x"]], ["^body"], [[1, 2, 3, 4]]],
    ("frozen",): [None, 3, [[]]],
    ("step",): [None, "x", -1, 1.5, 10**30],
    ("shapes",): [None, [], "x", [["body.weight", [3, 4]]], {"body.weight": 1}],
    ("dialect",): ["x", 3, []],
    ("rng",): [None, "x", 3],
    ("scheduler",): ["x", [], {}, 3],
    ("scheduler", "kind"): ["x", 3],
    ("scheduler", "state"): [None, {}, [], {"last_epoch": 1}],
    ("scheduler", "state", "milestones"): [None, {"a": 1}, "x"],
    ("scheduler", "state", "gamma"): [None, "x", -1],
    ("scheduler", "steps_per_epoch"): ["x", -1, []],
    ("layout",): [None, {}, [], "x", {"model": ["model"]}],
    ("layout", "counters"): [None, [], {"x": "y"}],
    ("layout", "beside"): [None, [], "x"],
    ("layout", "optimizer"): [3, [[]], [None]],
    ("layout", "prefix"): [None, 3],
}


@pytest.mark.parametrize(("place", "value"), [(place, value) for place, values in VALUES.items() for value in values])
def test_values_that_no_run_has(tmp_path, saved, place, value):
    facts = json.loads(saved[1]["run"])
    inner = facts
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    with pytest.raises(CheckpointError, match=r"a\.safetensors: "):
        restored(tmp_path / "a.safetensors", saved, json.dumps(facts))


@pytest.mark.parametrize("name", ["kind", "groups", "keys", "frozen", "step", "shapes", "rng", "scheduler", "layout"])
def test_metadata_without_an_entry(tmp_path, saved, name):
    facts = {key: value for key, value in saved[2].items() if key != name}
    with pytest.raises(CheckpointError, match="expected a complete file, got a damaged one"):
        restored(tmp_path / "a.safetensors", saved, json.dumps(facts))


@pytest.mark.parametrize("key", ["rng", "optimizer/exp_avg/body.weight", "ema/params/head/bias"])
def test_arrays_that_are_missing_or_of_another_shape(tmp_path, saved, key):
    for arrays in ({k: v for k, v in saved[0].items() if k != key}, saved[0] | {key: np.ones((7, 7), np.float32)}):
        with pytest.raises(CheckpointError, match="expected a complete file, got a damaged one"):
            restored(tmp_path / "a.safetensors", saved, arrays=arrays)


def test_how_often_the_scheduler_steps_may_be_said_later(tmp_path, saved):
    facts = saved[2] | {"scheduler": {**saved[2]["scheduler"], "steps_per_epoch": None}}
    with pytest.raises(ValueError, match="does not say how often PyTorch steps it; pass steps_per_epoch"):
        restored(tmp_path / "a.safetensors", saved, json.dumps(facts))
    again = restore_run(tmp_path / "a.safetensors", X, module=Two(), steps_per_epoch=2)
    assert again.scheduler.steps_per_epoch == 2
    with pytest.raises(ValueError, match="expected steps_per_epoch to be 1 or more, got 0"):
        restore_run(tmp_path / "a.safetensors", X, module=Two(), steps_per_epoch=0)


def test_a_rate_that_was_set_here_is_written(tmp_path):
    """The rates in the optax state win over those of the file, whether or not the state of the plateau is given."""
    written(tmp_path / "a.pth", "adam", lr_scheduler=plateau_of(0.01))
    run = from_torch_checkpoint(tmp_path / "a.pth", Two(), X)
    for lr in (0.01, 0.25):
        state = run.state.replace(opt_state=run.optimizer.set_lr(run.state.opt_state, [lr]))
        to_torch_checkpoint(tmp_path / "b.pth", run, state)
        assert torch.load(tmp_path / "b.pth", weights_only=True)["optimizer"]["param_groups"][0]["lr"] == lr
        save_run(tmp_path / "run.safetensors", run, state)
        again = restore_run(tmp_path / "run.safetensors", X, cls=Two)
        assert again.optimizer.lr(again.state.opt_state, 0) == lr
        assert float(again.scheduler.plateau[1].lr[0]) == lr


def plateau_of(lr):
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.ones(1))], lr=lr)
    optimizer.step()
    scheduler = scheduling.ReduceLROnPlateau(optimizer, patience=1)
    scheduler.step(1.0)
    return scheduler.state_dict()


def test_a_recipe_that_nobody_knows(tmp_path):
    written(tmp_path / "a.pth", "adam")
    with pytest.raises(ValueError, match="recipe: no published network is called 'detr_resnet5O'"):
        from_torch_checkpoint(tmp_path / "a.pth", Two(), X, recipe="detr_resnet5O")
    with pytest.raises(ValueError, match="recipe: no recipe of detr_demo is known"):
        from_torch_checkpoint(tmp_path / "a.pth", Two(), X, recipe="detr_demo")
