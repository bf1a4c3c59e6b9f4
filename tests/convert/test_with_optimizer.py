"""``convert CKPT --with-optimizer``: real training checkpoints go on as they would in PyTorch."""

import argparse
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from convert import from_torch, optimizer_from_torch, read, restore_run, to_torch
from convert.__main__ import main
from flax_attn.losses import ram_loss
from flax_attn.models.ram import ram_6_8x8_2
from tests.helpers.data import SHARED, needs

torch = pytest.importorskip("torch")
functional = torch.nn.functional

RAM = SHARED / "ram_mnist" / "ram_6_8x8_2_model_best.pth.tar"


def convert(capsys, *arguments):
    status = main(["convert", *map(str, arguments), "--json"])
    printed = capsys.readouterr()
    return status, json.loads(printed.out)["training"] if status == 0 else printed.err


def tensors(value, dtype):
    """Arrays in nested dicts as tensors of PyTorch."""
    if isinstance(value, dict):
        return {key: tensors(item, dtype) for key, item in value.items()}
    return torch.tensor(np.asarray(value, dtype)) if hasattr(value, "shape") else value


def batch(dtype):
    """Images, places, states of the network, noise of two glimpses, and labels."""
    rng, n = np.random.default_rng(0), 6
    arrays = rng.normal(size=(n, 28, 28, 1)), rng.uniform(-1, 1, (n, 2)), np.zeros((n, 256)), rng.normal(size=(2, n, 2))
    return [array.astype(dtype) for array in arrays], rng.integers(0, 10, n)


def torch_step(state_dict, optimizer_state, dtype):
    """The weights of the twin after one more step of PyTorch's Adam."""
    from torch_ref.models import ram as twins

    twin = twins.ram_6_8x8_2()
    twin.load_state_dict(tensors(state_dict, dtype))
    twin.to(getattr(torch, dtype))
    optimizer = torch.optim.Adam(twin.parameters())
    optimizer.load_state_dict(tensors(optimizer_state, dtype))
    (x, place, state, noise), labels = batch(dtype)
    x, place, state, noise = map(torch.tensor, (np.moveaxis(x, -1, 1), place, state, noise))
    state, place, first, early = twin(x, place, state, noise=noise[0])
    _, _, second, log_probas, late = twin(x, place, state, last=True, noise=noise[1])
    labels, baselines, log_pi = torch.tensor(labels), torch.stack([first, second], 1), torch.stack([early, late], 1)
    reward = (log_probas.argmax(1) == labels).to(baselines)[:, None].repeat(1, 2)
    reinforce = (-log_pi * (reward - baselines.detach())).sum(1).mean()
    loss = functional.nll_loss(log_probas, labels) + functional.mse_loss(baselines, reward) + 0.01 * reinforce
    loss.backward()
    optimizer.step()
    return {key: value.detach().numpy() for key, value in twin.state_dict().items()}


def flax_step(net, params, transformation, opt_state, dtype):
    """The parameters after one more step here."""
    (x, place, state, noise), labels = batch(dtype)

    @jax.jit
    def step(params, opt_state):
        def loss(params):
            state_, place_, first, early = net.apply({"params": params}, x, place, state, noise=noise[0])
            y = net.apply({"params": params}, x, place_, state_, last=True, noise=noise[1])
            return ram_loss(y[3], labels, jnp.stack([early, y[4]], 1), jnp.stack([first, y[2]], 1))

        updates, _ = transformation.update(jax.grad(loss)(params), opt_state, params)
        return optax.apply_updates(params, updates)

    return step(params, opt_state)


@needs("ram_mnist")
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float64", 1e-12)])
def test_recurrent_attention_makes_one_more_step_as_pytorch_does(dtype, tolerance):
    checkpoint, net = read(RAM), ram_6_8x8_2()
    (x, place, state, _), _ = batch(dtype)
    variables = from_torch(net, checkpoint.arrays, x, place, state, dtype=dtype)
    made, opt_state = optimizer_from_torch(
        net, checkpoint.extras["optim_state"], checkpoint, x, place, state, optimizer="Adam", dtype=dtype
    )
    assert made.step == 42200
    assert {leaf.dtype.name for leaf in jax.tree.leaves(opt_state[0].mu)} == {dtype}
    params = flax_step(net, variables["params"], made.transformation, opt_state, dtype)
    expected = torch_step(checkpoint.arrays, checkpoint.extras["optim_state"], dtype)
    for key, value in to_torch(net, {"params": params}, x, place, state).items():
        np.testing.assert_allclose(value, expected[key], rtol=0, atol=tolerance, err_msg=key)
        assert not np.array_equal(value, checkpoint.arrays[key])


@needs("ram_mnist")
def test_the_command_takes_the_run_of_recurrent_attention_over(tmp_path, capsys):
    status, training = convert(capsys, RAM, "--out", tmp_path / "ram.safetensors", "--with-optimizer")
    assert (status, training["optimizer"], training["groups"], training["step"]) == (0, "Adam", [18], 42200)
    assert (training["frozen"], training["scheduler"], training["assumed"]) == ([], None, "")
    run = restore_run(tmp_path / "ram.safetensors")
    assert int(run.state.step) == 42200
    assert run.layout.model + run.layout.optimizer == ("model_state", "optim_state")
    assert run.beside["epoch"] == read(RAM).extras["epoch"]
    stored = run.optimizer.to_torch(run.state.opt_state)["state"]
    for ours, theirs in zip(stored.values(), read(RAM).extras["optim_state"]["state"].values(), strict=True):
        for slot, value in theirs.items():
            np.testing.assert_array_equal(ours[slot], value)


SMALL = dict(num_classes=3, num_queries=5, hidden_dim=16, nheads=2, enc_layers=1, dec_layers=1, dim_feedforward=24)
ARGUMENTS = [f"--arg={name}={value}" for name, value in SMALL.items()]
LIKE_DETR = ["--model", "detr_resnet50", "--arg=block=BasicBlock", "--arg=layers=[1,1,1,1]", *ARGUMENTS]


@pytest.fixture(scope="module")
def detr(tmp_path_factory):
    """A small DETR, its optimizer, and the checkpoint that main.py of DETR would write, after two steps."""
    from torch_ref.blocks.resnet import BasicBlock
    from torch_ref.models.detr.network import DETR

    net = DETR(BasicBlock, (1, 1, 1, 1), **SMALL)
    for name, parameter in net.named_parameters():
        parameter.requires_grad_("backbone" not in name or any(f"layer{i}" in name for i in (2, 3, 4)))
    own = [(name, parameter) for name, parameter in net.named_parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for name, parameter in own if "backbone" not in name]},
        {"params": [parameter for name, parameter in own if "backbone" in name], "lr": 1e-5},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-4, weight_decay=1e-4)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 200)
    for seed in range(2):
        step(net, optimizer, seed)
    scheduler.step()
    path = tmp_path_factory.mktemp("detr") / "checkpoint.pth"
    beside = {"lr_scheduler": scheduler.state_dict(), "epoch": 0, "args": argparse.Namespace(lr=1e-4, lr_drop=200)}
    torch.save({"model": net.state_dict(), "optimizer": optimizer.state_dict(), **beside}, path)
    return net, optimizer, path


def step(net, optimizer, seed):
    """One step with gradients that are drawn; their state dict."""
    torch.manual_seed(seed)
    gradients = {key: torch.zeros_like(value) for key, value in net.state_dict().items()}
    for name, parameter in net.named_parameters():
        if parameter.requires_grad:
            parameter.grad = gradients[name] = torch.randn(parameter.shape)
    optimizer.step()
    return gradients


def test_the_command_takes_a_run_of_detr_over(tmp_path, capsys, detr):
    """Two groups with rates of their own, a stem that is frozen, a scheduler, and what the script has beside them."""
    net, optimizer, path = detr
    out = tmp_path / "detr.safetensors"
    status, training = convert(capsys, path, "--out", out, "--with-optimizer", "--steps-per-epoch=2", *LIKE_DETR)
    assert (status, training["optimizer"], training["groups"], training["step"]) == (0, "AdamW", [43, 9], 2)
    assert [key.split(".")[3] for key in training["frozen"]] == ["conv1", "layer1", "layer1"]
    assert (training["scheduler"], training["steps_per_epoch"]) == ("StepLR", 2)
    run = restore_run(out)
    assert run.beside == {"epoch": 0, "args": {"lr": 1e-4, "lr_drop": 200}}
    gradients = step(net, optimizer, 2)
    tree = run.plan.from_torch(gradients)["params"]
    updates, _ = run.transformation.update(tree, run.state.opt_state, run.state.params)
    params = optax.apply_updates(run.state.params, updates)
    found = run.plan.to_torch({**run.state.variables, "params": params})
    for key, value in net.state_dict().items():
        np.testing.assert_allclose(found[key], value.numpy(), rtol=1e-6, atol=1e-7, err_msg=key)
    before = read(path).arrays
    assert all(np.array_equal(found[key], before[key]) for key in training["frozen"])


def test_a_scheduler_of_functions_is_kept(tmp_path, capsys, detr):
    """The schedulers of transformers are LambdaLR. The command goes on, and who restores the run gives schedules."""
    _, optimizer, path = detr
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.9**epoch)
    states = torch.load(path, weights_only=False) | {"lr_scheduler": scheduler.state_dict()}
    torch.save(states, tmp_path / "a.pth")
    out = tmp_path / "a.safetensors"
    status, training = convert(capsys, tmp_path / "a.pth", "--out", out, "--with-optimizer", *LIKE_DETR)
    assert (status, training["scheduler"]) == (0, "unknown")
    with pytest.raises(ValueError, match="pass schedules, for each group a function"):
        restore_run(out)
    run = restore_run(out, schedules=[lambda count: 1e-4 * 0.9**count, lambda count: 1e-5 * 0.9**count])
    assert run.scheduler.state["lr_lambdas"] == [None, None]


def test_what_the_command_needs_of_an_older_file_of_another_network(tmp_path, capsys, detr):
    """Before version 2.7 AdamW looks as Adam does. Without a published training somebody must say which it is."""
    _, _, path = detr
    states = torch.load(path, weights_only=False)
    for group in states["optimizer"]["param_groups"]:
        del group["decoupled_weight_decay"]
    torch.save(states, tmp_path / "old.pth")
    arguments = [tmp_path / "old.pth", "--out", tmp_path / "a.safetensors", "--with-optimizer"]
    status, training = convert(capsys, *arguments, *LIKE_DETR)
    assert (status, training["optimizer"]) == (0, "AdamW")
    assert training["assumed"].startswith("AdamW, as in the published training")
    plain = ["--model", "DETR", *LIKE_DETR[2:]]
    status, error = convert(capsys, *arguments, *plain)
    assert status == 2
    assert "may be Adam or AdamW, which look the same in this file; say which" in error
    said = [
        "--optimizer",
        "AdamW",
        "--group",
        "^(?!backbone)",
        "--group",
        r"^backbone.*layer[234].*(conv\d|downs.*0)\.",
    ]
    status, training = convert(capsys, *arguments, *plain, *said)
    assert (status, training["groups"], training["assumed"]) == (0, [43, 9], "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps-per-epoch", "0"], "--optimizer, --group and --steps-per-epoch need --with-optimizer"),
        (["--group", "x"], "--optimizer, --group and --steps-per-epoch need --with-optimizer"),
        (["--with-optimizer", "--steps-per-epoch", "0"], "--steps-per-epoch: expected 1 or more, got 0"),
        (["--with-optimizer", "--replace", "class_embed"], "--with-optimizer and --replace do not go together"),
        (["--with-optimizer", "--format", "npz"], "--with-optimizer writes safetensors, got the format npz"),
        (["--with-optimizer", "--optimizer", "Lion"], "expected one of the optimizers SGD, Adam, .* got 'Lion'"),
        (["--with-optimizer", "--optimizer", "SGD"], "expected the state of SGD, got that of Adam"),
        (["--with-optimizer", "--group", "("], r"groups: expected a regular expression, got '\('"),
    ],
)
def test_options_that_do_not_go_together(tmp_path, capsys, detr, arguments, message):
    status = main(["convert", str(detr[2]), "--out", str(tmp_path / "a.safetensors"), *LIKE_DETR, *arguments])
    error = capsys.readouterr().err
    assert status == 2
    assert "Traceback" not in error
    assert re.search(message, error)
