"""DANet: the dilations of its backbone, which no key tells, and what it refuses."""

import jax
import pytest

torch = pytest.importorskip("torch")

from convert import plan
from flax_attn.models import danet
from tests.helpers.layer import check_refusal, layers_of
from torch_ref.models import danet as torch_danet

IMAGE = jax.ShapeDtypeStruct((1, 33, 41, 3), "float32")


def expected_geometry(last):
    """(stride, dilation) of the 3x3 convolution of each block of ResNet-50, as in the released network."""
    stages = [(1, [1] * 3), (2, [1] * 4), (1, [1, 2, 2, 2, 2, 2]), (1, last)]
    return {
        f"pretrained.layer{i}.{j}.conv2": (stride if j == 0 else 1, dilation)
        for i, (stride, dilations) in enumerate(stages, 1)
        for j, dilation in enumerate(dilations)
    }


@pytest.mark.parametrize(("multi_grid", "last"), [((4, 8, 16), [4, 8, 16]), (None, [2, 4, 4])])
def test_the_last_two_stages_dilate(multi_grid, last):
    ours = {
        path: (conv.stride, conv.dilation)
        for path, conv in layers_of(danet.danet_resnet50(multi_grid=multi_grid), IMAGE).items()
        if ".layer" in path and path.endswith(".conv2")
    }
    with torch.device("meta"):
        twin = torch_danet.danet_resnet50(multi_grid=multi_grid)
    theirs = {
        path: (conv.stride[0], conv.dilation[0])
        for path, conv in twin.named_modules()
        if ".layer" in path and path.endswith(".conv2")
    }
    assert ours == theirs == expected_geometry(last)


def test_multi_grid_alters_no_key():
    with_grid, without = (plan(danet.danet_resnet50(multi_grid=grid), IMAGE).rows for grid in ((4, 8, 16), None))
    assert {row.key: row.torch_shape for row in with_grid} == {row.key: row.torch_shape for row in without}


def test_scores_have_the_size_of_the_image():
    x = jax.ShapeDtypeStruct((2, 37, 50, 3), "float32")
    outputs = jax.eval_shape(danet.DANet(5, (1, 1), multi_grid=None).init_with_output, jax.random.key(0), x)[0]
    assert [out.shape for out in outputs] == [(2, 37, 50, 5)] * 3


def test_a_multi_grid_has_a_dilation_for_each_block():
    check_refusal(
        lambda: danet.DANet(19, (3, 4, 6, 2)),
        r"DANet: expected a dilation for each of the last stage's 2 blocks, got \(4, 8, 16\)",
        lambda: torch_danet.DANet(19, (3, 4, 6, 2)),
    )


@pytest.mark.parametrize("layers", [(), (1, 0), (1, 1, 1, 1, 1)])
def test_there_are_one_to_four_stages(layers):
    check_refusal(lambda: danet.DANet(19, layers, multi_grid=None), "DANet: expected one to four stages of blocks, got")
