"""What residual blocks refuse, on both sides."""

import pytest

torch = pytest.importorskip("torch")

from flax_attn.blocks import resnet, se
from tests.helpers.layer import check_refusal, trace
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
    twin = torch_resnet.BasicBlock(6, 9, 2, torch_resnet.OptionA(9))
    check_refusal(
        lambda: trace(resnet.BasicBlock(6, 9, 2, resnet.OptionA(9)), 2, 7, 5, 6),
        "OptionA at 'downsample': expected 5 channels on the last axis, got shape .2, 7, 5, 6.",
        lambda: twin(torch.zeros(2, 6, 7, 5)),
    )


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (resnet.CifarBasicBlock, torch_resnet.CifarBasicBlock),
        (resnet.PreActBasicBlock, torch_resnet.PreActBasicBlock),
        (se.CifarSEBasicBlock, torch_se.CifarSEBasicBlock),
    ],
)
def test_an_identity_shortcut_cannot_stride(ours, theirs):
    refuses = f"{ours.__name__}: expected stride 1 where inplanes == planes, got stride 2 and 8 planes"
    check_refusal(lambda: ours(8, 8, 2), refuses, lambda: theirs(8, 8, 2))
