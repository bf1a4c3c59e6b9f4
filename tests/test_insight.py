"""PytorchInsight's blocks: what the catalog's shapes do not reach, and what they refuse."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from flax_attn.blocks import bam, cbam
from tests.layers import array, check_layer, check_refusal, trace
from tests.parity import randomise
from torch_ref.blocks import bam as torch_bam
from torch_ref.blocks import cbam as torch_cbam


def test_bam_on_a_square_is_upstreams_pooling():
    twin = torch_bam.BAM(32).double().eval()
    randomise(twin, np.random.default_rng(0))
    x = torch.randn(2, 32, 5, 5, dtype=torch.float64)
    pooled = torch.nn.functional.avg_pool2d(x, x.shape[2], stride=x.shape[2]).flatten(1)
    gate = torch.sigmoid(twin.channel_att.gate_c(pooled)[..., None, None] * twin.spatial_att(x))
    torch.testing.assert_close(twin(x), (1 + gate) * x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["ChannelGate", "SpatialGate"])
def test_a_tied_maximum_gives_its_gradient_to_the_first(name):
    kwargs = dict(gate_channels=4, reduction_ratio=2) if name == "ChannelGate" else {}
    ours, theirs = getattr(cbam, name)(**kwargs), getattr(torch_cbam, name)(**kwargs).double().eval()
    randomise(theirs, np.random.default_rng(0))
    check_layer(ours, theirs, (array(2, 3, 2, 4) > 0.5).astype("float64"))


@pytest.mark.parametrize("cls", [cbam.ChannelGate, cbam.CBAM])
def test_channels_are_not_reduced_by_zero(cls):
    check_refusal(lambda: cls(8, 0), f"{cls.__name__}: expected reduction_ratio >= 1, got 0")


def test_a_channel_gate_takes_images_of_its_width():
    twin = torch_cbam.ChannelGate(8, 2)
    refuses = "ChannelGate: expected 8 channels on the last axis, got shape .2, 7, 5, 6."
    check_refusal(lambda: trace(cbam.ChannelGate(8, 2), 2, 7, 5, 6), refuses, lambda: twin(torch.zeros(2, 6, 7, 5)))


@pytest.mark.parametrize("ratio", [0, 9])
def test_a_bam_is_not_empty_inside(ratio):
    refuses = f"BAM: expected 1 <= reduction_ratio <= gate_channel, got {ratio}, 8"
    check_refusal(lambda: bam.BAM(8, ratio), refuses, lambda: torch_bam.BAM(8, ratio))
