"""Gates as torchvision, timm and others write them load into ``SqueezeExcitation``, ``SELayer`` and ``CBAM``."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn

from convert import from_torch
from flax_attn import CBAM, SELayer, SqueezeExcitation, layers
from tests.helpers.tolerances import assert_close


class Torchvision(nn.Module):
    def __init__(self, channels, hidden):
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(channels, hidden, 1), nn.Conv2d(hidden, channels, 1)

    def forward(self, x):
        return x * torch.sigmoid(self.fc2(torch.relu(self.fc1(x.mean((2, 3), keepdim=True)))))


class Timm(Torchvision):
    def __init__(self, channels, hidden):
        super().__init__(channels, hidden)
        self.bn = nn.BatchNorm2d(hidden)

    def forward(self, x):
        y = self.fc2(nn.functional.silu(self.bn(self.fc1(x.mean((2, 3), keepdim=True)))))
        return x * nn.functional.relu6(y + 3) / 6


class MiniFASNet(nn.Module):
    def __init__(self, channels, hidden):
        super().__init__()
        self.fc1, self.bn1 = nn.Conv2d(channels, hidden, 1, bias=False), nn.BatchNorm2d(hidden)
        self.fc2, self.bn2 = nn.Conv2d(hidden, channels, 1, bias=False), nn.BatchNorm2d(channels)

    def forward(self, x):
        y = torch.relu(self.bn1(self.fc1(x.mean((2, 3), keepdim=True))))
        return x * torch.sigmoid(self.bn2(self.fc2(y)))


class Convolutions(nn.Module):
    def __init__(self, channels, hidden):
        super().__init__()
        squeeze, excite = nn.Conv2d(channels, hidden, 1), nn.Conv2d(hidden, channels, 1)
        self.fc = nn.Sequential(squeeze, nn.BatchNorm2d(hidden), nn.ReLU(), excite, nn.Sigmoid())

    def forward(self, x):
        return x * self.fc(nn.functional.adaptive_avg_pool2d(x, 1))


class ShortCBAM(nn.Module):
    def __init__(self, channels, hidden):
        super().__init__()
        self.ChannelGate, self.SpatialGate = nn.Module(), nn.Module()
        squeeze, excite = (nn.Conv2d(*sizes, 1, bias=False) for sizes in ((channels, hidden), (hidden, channels)))
        self.ChannelGate.mlp = nn.Sequential(squeeze, nn.ReLU(), excite)
        self.SpatialGate.spatial = nn.Module()
        self.SpatialGate.spatial.conv = nn.Conv2d(2, 1, 3, padding=1, bias=False)

    def forward(self, x):
        mlp, conv = self.ChannelGate.mlp, self.SpatialGate.spatial.conv
        x = x * torch.sigmoid(mlp(x.mean((2, 3), keepdim=True)) + mlp(x.amax((2, 3), keepdim=True)))
        pooled = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return x * torch.sigmoid(conv(pooled))


NORM = {"norm_layer": layers.BatchNorm2d}
GATES = {
    Torchvision: SqueezeExcitation(12, 3),
    Timm: SqueezeExcitation(12, 3, layers.SiLU, layers.Hardsigmoid, **NORM),
    MiniFASNet: SqueezeExcitation(12, 3, bias=False, **NORM, norm_both=True),
    Convolutions: SELayer(12, 4, bias=True, conv=True, **NORM),
    ShortCBAM: CBAM(12, 4, conv=True, bias=False, kernel_size=3, norm=False, mean_first=True),
}


@pytest.mark.parametrize("theirs", GATES)
def test_a_gate_of_another_code_loads_and_gives_its_numbers(theirs):
    torch.manual_seed(0)
    module = theirs(12, 3).double().eval()
    for norm in (m for m in module.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.uniform_(norm.running_mean, -1, 1)
        nn.init.uniform_(norm.running_var, 0.5, 1.5)
    x = torch.randn(2, 12, 5, 7, dtype=torch.float64)
    given = jnp.asarray(x.permute(0, 2, 3, 1).numpy())
    variables = from_torch(GATES[theirs], module.state_dict(), given)
    got = jax.jit(GATES[theirs].apply)(variables, given)
    assert_close(np.moveaxis(np.asarray(got), -1, 1), module(x).detach().numpy())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SqueezeExcitation(8, 0), "expected input_channels, squeeze_channels >= 1"),
        (lambda: SqueezeExcitation(8, 2, norm_both=True), "expected a norm_layer with norm_both=True"),
        (lambda: CBAM(8, kernel_size=4).init(jax.random.key(0), jnp.ones((1, 3, 3, 8))), "expected an odd kernel_size"),
    ],
)
def test_options_that_contradict_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
