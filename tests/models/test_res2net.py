"""What Res2Net refuses, and how its blocks chain their groups."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from flax_attn.models import res2net
from tests.helpers.layer import check_refusal, normal
from tests.helpers.parity import randomise
from torch_ref.models import res2net as torch_res2net


def groups(block, x):
    """What ``block`` joins before its last convolution, by groups, and the groups of its input."""
    seen = []
    block.conv3.register_forward_hook(lambda _, args, out: seen.append(args[0]))
    block(x)
    return seen[0].chunk(block.scale, 1), torch.relu(block.bn1(block.conv1(x))).chunk(block.scale, 1)


def fresh(block):
    block = block.double().eval()
    randomise(block, np.random.default_rng(0))
    return block


def test_a_group_is_added_to_the_one_before_and_the_last_stays():
    block = fresh(torch_res2net.Bottle2neck(16, 4, base_width=48, scale=3))
    got, given = groups(block, torch.tensor(normal(2, 16, 7, 5)))
    first = torch.relu(block.bns[0](block.convs[0](given[0])))
    second = torch.relu(block.bns[1](block.convs[1](first + given[1])))
    for a, b in zip(got, (first, second, given[2]), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("stride", [1, 2])
def test_the_first_block_takes_groups_by_themselves_and_pools_the_last_over_zeros(stride):
    shortcut = torch_res2net.pooled_downsample(6, 16, stride)
    block = fresh(torch_res2net.Bottle2neck(6, 4, stride, shortcut, 48, 3, True))
    got, given = groups(block, torch.tensor(normal(2, 6, 7, 5)))
    expected = [torch.relu(block.bns[i](block.convs[i](given[i]))) for i in (0, 1)]
    for a, b in zip(got, expected, strict=False):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    torch.testing.assert_close(got[2][..., 0, 0], given[2][..., :2, :2].sum((2, 3)) / 9, rtol=0, atol=1e-12)


def test_a_shortcut_pools_only_what_there_is_at_an_odd_edge():
    pool = torch_res2net.pooled_downsample(6, 9, 2)[0]
    x = torch.tensor(normal(2, 6, 7, 5))
    assert pool(x).shape == (2, 6, 4, 3)
    torch.testing.assert_close(pool(x)[..., -1, -1], x[..., -1, -1], rtol=0, atol=1e-12)


def test_blocks_have_groups_and_only_the_first_strides():
    ours, theirs = res2net.Bottle2neck, torch_res2net.Bottle2neck
    check_refusal(lambda: ours(8, 2, scale=1), "Bottle2neck: expected scale >= 2", lambda: theirs(8, 2, scale=1))
    refuses = "Bottle2neck: expected stride 1 in a block that is not first, got 2"
    check_refusal(lambda: ours(8, 2, 2), refuses, lambda: theirs(8, 2, 2))


@pytest.mark.parametrize("layers", [(), (1, 0)])
def test_a_stage_has_a_block(layers):
    refuses = "Res2Net: expected at least one block in each stage"
    check_refusal(lambda: res2net.Res2Net(layers), refuses)
