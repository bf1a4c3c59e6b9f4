"""PytorchInsight's blocks and networks: where gates are, what the catalog's shapes do not reach, what is refused."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from flax_attn.blocks import bam, cbam, sk
from tests.helpers.layer import array, check_layer, check_refusal, trace
from tests.helpers.parity import randomise
from torch_ref.blocks import bam as torch_bam
from torch_ref.blocks import cbam as torch_cbam
from torch_ref.blocks import resnet as torch_resnet
from torch_ref.blocks import se as torch_se
from torch_ref.blocks import sge as torch_sge
from torch_ref.blocks import sk as torch_sk
from torch_ref.models import sge_resnet as torch_sge_resnet


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


@pytest.mark.parametrize("kwargs", [{"groups": 2}, {"base_width": 32}])
def test_selective_kernels_have_one_group_and_width(kwargs):
    refuses = "SKBottleneck: expected groups, base_width = 1, 64, got"
    check_refusal(lambda: sk.SKBottleneck(32, 32, **kwargs), refuses, lambda: torch_sk.SKBottleneck(32, 32, **kwargs))


GATED = [(torch_sge, "SGE", "sge"), (torch_se, "InsightSE", "se"), (torch_cbam, "CBAM", "cbam")]


@pytest.mark.parametrize(("module", "prefix", "gate"), GATED)
def test_the_gate_is_behind_the_last_norm_and_before_the_shortcut(module, prefix, gate):
    basic, bottleneck = getattr(module, f"{prefix}BasicBlock")(64, 64), getattr(module, f"{prefix}Bottleneck")(64, 16)
    for block in (basic, bottleneck):
        block.double().eval()
        randomise(block, np.random.default_rng(0))
        x = torch.randn(2, 64, 5, 4, dtype=torch.float64)
        y = block.conv2(torch.relu(block.bn1(block.conv1(x))))
        y = block.bn2(y) if block is basic else block.bn3(block.conv3(torch.relu(block.bn2(y))))
        torch.testing.assert_close(block(x), torch.relu(getattr(block, gate)(y) + x), rtol=0, atol=1e-12)


def test_bams_are_between_the_stages_and_seven_pixels_are_all():
    twin = torch_sge_resnet.BAMResNet(torch_resnet.BasicBlock, (1, 1, 1, 1), 5).double().eval()
    randomise(twin, np.random.default_rng(0))
    images = torch.randn(1, 3, 224, 224, dtype=torch.float64)
    x = torch.nn.functional.max_pool2d(torch.relu(twin.bn1(twin.conv1(images))), 3, 2, 1)
    maps = [twin.bam1(twin.layer1(x))]
    maps.append(twin.bam2(twin.layer2(maps[-1])))
    maps.append(twin.bam3(twin.layer3(maps[-1])))
    maps.append(twin.layer4(maps[-1]))
    for got, expected in zip(twin.features(images), maps, strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=0)
    scores = twin.fc(torch.nn.functional.avg_pool2d(maps[-1], 7, stride=1).flatten(1))
    torch.testing.assert_close(twin(images), scores, rtol=1e-12, atol=1e-12)
