"""What residual blocks refuse, on both sides."""

import jax.numpy as jnp
import pytest

torch = pytest.importorskip("torch")

from flax_attn.blocks import cifar_resnet, resnet, se
from flax_attn.layers import BatchNorm2d, FrozenBatchNorm2d
from flax_attn.models.se_resnet import SEResNet
from tests.helpers.layer import check_refusal, layers_of, trace
from torch_ref.blocks import cifar_resnet as torch_cifar_resnet
from torch_ref.blocks import resnet as torch_resnet
from torch_ref.blocks import se as torch_se


@pytest.mark.parametrize("kwargs", [{"groups": 2}, {"base_width": 32}, {"dilation": 2}])
def test_a_basic_block_has_one_group_width_and_dilation(kwargs):
    refuses = "BasicBlock: expected groups, base_width, dilation = 1, 64, 1"
    check_refusal(lambda: resnet.BasicBlock(8, 8, **kwargs), refuses, lambda: torch_resnet.BasicBlock(8, 8, **kwargs))


@pytest.mark.parametrize("name", ["BasicBlock", "Bottleneck"])
def test_a_missing_shortcut_is_named(name):
    twin = getattr(torch_resnet, name)(6, 9)
    refuses = f"{name}: expected a shortcut of shape .* got .2, 7, 5, 6."
    check_refusal(
        lambda: trace(getattr(resnet, name)(6, 9), 2, 7, 5, 6), refuses, lambda: twin(torch.zeros(2, 6, 7, 5))
    )


def test_option_a_adds_a_quarter_of_its_width_twice():
    twin = torch_resnet.BasicBlock(6, 9, 2, torch_cifar_resnet.OptionA(9))
    check_refusal(
        lambda: trace(resnet.BasicBlock(6, 9, 2, cifar_resnet.OptionA(9)), 2, 7, 5, 6),
        "OptionA at 'downsample': expected 5 channels on the last axis, got shape .2, 7, 5, 6.",
        lambda: twin(torch.zeros(2, 6, 7, 5)),
    )


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (cifar_resnet.CifarBasicBlock, torch_cifar_resnet.CifarBasicBlock),
        (cifar_resnet.PreActBasicBlock, torch_cifar_resnet.PreActBasicBlock),
        (se.CifarSEBasicBlock, torch_se.CifarSEBasicBlock),
    ],
)
def test_an_identity_shortcut_cannot_stride(ours, theirs):
    refuses = f"{ours.__name__}: expected stride 1 where inplanes == planes, got stride 2 and 8 planes"
    check_refusal(lambda: ours(8, 8, 2), refuses, lambda: theirs(8, 8, 2))


@pytest.mark.parametrize("block", [se.SEBasicBlock, se.SEBottleneck, se.SEResNetBlock, se.SENetBottleneck])
def test_a_network_has_the_normalisation_that_it_is_given_and_no_other(block):
    network = SEResNet(block, (1, 1), norm_layer=FrozenBatchNorm2d)
    kinds = {type(layer) for layer in layers_of(network, jnp.zeros((1, 32, 32, 3))).values()}
    assert FrozenBatchNorm2d in kinds
    assert BatchNorm2d not in kinds


@pytest.mark.parametrize("name", ["SEBasicBlock", "SEBottleneck"])
@pytest.mark.parametrize("kwargs", [{"groups": 2}, {"base_width": 32}, {"dilation": 2}])
def test_blocks_that_have_no_place_for_groups_refuse_them_by_their_own_name(name, kwargs):
    refuses = f"{name}: expected groups, base_width, dilation = 1, 64, 1"
    ours, theirs = getattr(se, name), getattr(torch_se, name)
    check_refusal(lambda: ours(8, 8, **kwargs), refuses, lambda: theirs(8, 8, **kwargs))
