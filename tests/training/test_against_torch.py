"""Steps of a small network equal those of a loop in PyTorch, in float64."""

import jax
import numpy as np
import optax
import pytest

torch = pytest.importorskip("torch")
from torch import nn

from convert import from_torch, to_torch
from flax_attn.training import TrainState, clip_grad_norm, clip_grad_value, new_ema, train_step, update_ema
from tests.training.networks import Small, data, loss

STEPS = 10
LIMIT = 1e-10


class TorchSmall(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.ModuleDict({"conv": nn.Conv2d(3, 4, 3, padding=1), "bn": nn.BatchNorm2d(4)})
        self.layer1 = nn.Sequential(nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5))
        self.fc = nn.Linear(5, 3)

    def forward(self, x):
        x = self.stem["bn"](self.stem["conv"](x)).relu()
        return self.fc(self.layer1(x).relu().mean((2, 3)))


def torch_net():
    torch.manual_seed(0)
    net = TorchSmall().double()
    with torch.no_grad():
        for tensor in net.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(0.1 * torch.rand_like(tensor))
    return net


def numbers(net):
    return {key: value.numpy().copy() for key, value in net.state_dict().items() if "num_batches" not in key}


def torch_run(net, accumulate=1, clip_norm=None, clip_value=None, ema_decay=None, ema_buffers=False, frozen=()):
    """Losses, norms and the averaged network of a loop in PyTorch."""
    for name in frozen:
        net.get_submodule(name).requires_grad_(False)
    optimizer = torch.optim.SGD((p for p in net.parameters() if p.requires_grad), lr=0.5, momentum=0.9)
    average = torch.optim.swa_utils.get_ema_multi_avg_fn(0.5 if ema_decay is None else ema_decay)
    ema = torch.optim.swa_utils.AveragedModel(net, multi_avg_fn=average, use_buffers=ema_buffers)
    losses, norms = [], []
    for number in range(STEPS):
        net.train()
        for name in frozen:
            net.get_submodule(name).eval()
        batch, total = data(seed=number), 0.0
        optimizer.zero_grad()
        x, y = torch.from_numpy(batch["x"]).permute(0, 3, 1, 2), torch.from_numpy(batch["y"])
        for part in zip(x.chunk(accumulate), y.chunk(accumulate), strict=True):
            part_loss = nn.functional.cross_entropy(net(part[0]), part[1]) / accumulate
            part_loss.backward()
            total += part_loss.item()
        parameters = [p for p in net.parameters() if p.grad is not None]
        limit = clip_norm or float("inf")
        norms.append(nn.utils.clip_grad_norm_(parameters, limit).item())
        if clip_value:
            nn.utils.clip_grad_value_(parameters, clip_value)
        optimizer.step()
        ema.update_parameters(net)
        losses.append(total)
    return losses, norms, ema.module


def same(module, variables, net):
    """Whether the variables of a module are the numbers of a network in PyTorch."""
    ours, expected = to_torch(module, variables, jax.ShapeDtypeStruct((2, 6, 5, 3), np.float64)), numbers(net)
    assert ours.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_allclose(ours[key], value, rtol=LIMIT, atol=LIMIT, err_msg=key)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"clip_norm": 1000.0},
        {"clip_value": 0.05, "ema_decay": 0.3, "ema_buffers": True},
        {"accumulate": 3, "clip_norm": 0.2, "ema_decay": 0.9},
        {"frozen": ["stem", "layer1.0"], "ema_decay": 0.99, "accumulate": 2},
    ],
    ids=lambda options: "-".join(options) or "plain",
)
def test_ten_steps(options):
    net, module, optimizer = torch_net(), Small(), optax.sgd(0.5, momentum=0.9)
    start = from_torch(module, numbers(net), jax.ShapeDtypeStruct((2, 6, 5, 3), np.float64), dtype="float64")
    state = TrainState.create(start, optimizer, ema="ema_decay" in options)
    step = train_step(module, loss, optimizer, **options)
    losses, norms, average = torch_run(net, **options)
    for number in range(STEPS):
        state, metrics = step(state, data(seed=number))
        np.testing.assert_allclose(metrics["loss"], losses[number], rtol=LIMIT)
        np.testing.assert_allclose(metrics["grad_norm"], norms[number], rtol=LIMIT)
    assert int(state.step) == STEPS
    same(module, state.variables, net)
    if "ema_decay" in options:
        same(module, state.ema_variables, average)
        assert int(state.ema["n_averaged"]) == STEPS


GRADS = [np.array([[3.0, -4.0], [0.5, 0.0]]), np.array([-7.0])]


def torch_grads():
    tensors = [torch.zeros(grad.shape, dtype=torch.float64) for grad in GRADS]
    for tensor, grad in zip(tensors, GRADS, strict=True):
        tensor.grad = torch.from_numpy(grad.copy())
    return tensors


@pytest.mark.parametrize("norm_type", [1.0, 2.0, 3.0, float("inf")])
@pytest.mark.parametrize("limit", [1e-6, 0.7, 1e3])
def test_clipping_by_norm(limit, norm_type):
    tensors = torch_grads()
    expected = nn.utils.clip_grad_norm_(tensors, limit, norm_type=norm_type)
    ours, norm = clip_grad_norm([jax.numpy.asarray(grad) for grad in [*GRADS, np.zeros((0, 3))]], limit, norm_type)
    np.testing.assert_allclose(norm, expected, rtol=1e-14)
    for ours_each, tensor in zip(ours[:2], tensors, strict=True):
        np.testing.assert_allclose(ours_each, tensor.grad, rtol=1e-14)


def test_clipping_of_a_gradient_near_zero_and_of_nan():
    for value in (1e-7, np.nan, np.inf):
        tensor = torch.zeros(2, dtype=torch.float64)
        tensor.grad = torch.tensor([value, 1e-7], dtype=torch.float64)
        nn.utils.clip_grad_norm_([tensor], 1e-7)
        ours, _ = clip_grad_norm(jax.numpy.array([value, 1e-7]), 1e-7)
        np.testing.assert_allclose(ours, tensor.grad, rtol=1e-14)


def test_clipping_by_value():
    tensors = torch_grads()
    nn.utils.clip_grad_value_(tensors, 2.5)
    for ours, tensor in zip(clip_grad_value(GRADS, 2.5), tensors, strict=True):
        np.testing.assert_array_equal(ours, tensor.grad)


@pytest.mark.parametrize("decay", [0.0, 0.4, 0.6, 1.0])
@pytest.mark.parametrize("buffers", [False, True])
def test_average_of_floats_and_integers(decay, buffers):
    net = nn.BatchNorm1d(3).double()
    average = torch.optim.swa_utils.get_ema_multi_avg_fn(decay)
    model = torch.optim.swa_utils.AveragedModel(net, multi_avg_fn=average, use_buffers=buffers)

    def ours():
        state = {key: value.numpy().copy() for key, value in net.state_dict().items()}
        names = {"params": ("weight", "bias"), "batch_stats": ("running_mean", "running_var", "num_batches_tracked")}
        return {name: {key: state[key] for key in keys} for name, keys in names.items()}

    ema = new_ema(ours())
    for number in range(4):
        with torch.no_grad():
            net.weight.add_(torch.rand(3, generator=torch.manual_seed(number)))
            net.num_batches_tracked.add_(7)
        net(torch.rand(5, 3, dtype=torch.float64))
        model.update_parameters(net)
        ema = update_ema(ema, ours(), decay, buffers=buffers)
    for key, value in model.module.state_dict().items():
        got = {**ema["params"], **ema["batch_stats"]}[key]
        np.testing.assert_allclose(got, value, rtol=1e-14, err_msg=key)


def test_average_of_timm():
    variables = {"params": {"w": np.array([1.0, 2.0])}, "batch_stats": {"mean": np.array([0.5])}}
    ema = new_ema(variables, copy_first=False)
    moved = jax.tree.map(lambda leaf: leaf + 1, variables)
    ema = update_ema(ema, moved, 0.75, buffers=True)
    expected = jax.tree.map(lambda old, new: 0.75 * old + 0.25 * new, variables, moved)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-15), ema, expected)
