"""The stages and networks are what their specification spells out; what they refuse."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from flax_attn.blocks import residual_attention
from flax_attn.models import residual_attention as models
from tests.helpers.layer import check_refusal, trace
from tests.helpers.parity import randomise
from torch_ref.blocks import residual_attention as torch_residual_attention
from torch_ref.models import residual_attention as torch_models


def pool(x):
    return torch.nn.functional.max_pool2d(x, 3, 2, 1)


def up(x, size):
    return torch.nn.UpsamplingBilinear2d(size=size)(x)


def stage0(m, x, trunk, size1, size2, size3, size4):
    s1 = m.softmax1_blocks(pool(x))
    skip1 = m.skip1_connection_residual_block(s1)
    s2 = m.softmax2_blocks(pool(s1))
    skip2 = m.skip2_connection_residual_block(s2)
    s3 = m.softmax3_blocks(pool(s2))
    skip3 = m.skip3_connection_residual_block(s3)
    s4 = m.softmax4_blocks(pool(s3))
    s5 = m.softmax5_blocks(up(s4, size4) + s3 + skip3)
    s6 = m.softmax6_blocks(up(s5, size3) + s2 + skip2)
    s7 = m.softmax7_blocks(up(s6, size2) + s1 + skip1)
    return m.softmax8_blocks(up(s7, size1) + trunk)


def stage1(m, x, trunk, size1, size2, size3):
    s1 = m.softmax1_blocks(pool(x))
    skip1 = m.skip1_connection_residual_block(s1)
    s2 = m.softmax2_blocks(pool(s1))
    skip2 = m.skip2_connection_residual_block(s2)
    s3 = m.softmax3_blocks(pool(s2))
    s4 = m.softmax4_blocks(up(s3, size3) + s2 + skip2)
    s5 = m.softmax5_blocks(up(s4, size2) + s1 + skip1)
    return m.softmax6_blocks(up(s5, size1) + trunk)


def stage2(m, x, trunk, size1, size2):
    s1 = m.softmax1_blocks(pool(x))
    skip = m.skip1_connection_residual_block(s1)
    s2 = m.softmax2_blocks(pool(s1))
    s3 = m.softmax3_blocks(up(s2, size2) + s1 + skip)
    return m.softmax4_blocks(up(s3, size1) + trunk)


def stage3(m, x, trunk, size1):
    return m.softmax2_blocks(up(m.softmax1_blocks(pool(x)), size1) + trunk)


def stage1_cifar(m, x, trunk, size1, size2):
    down = m.down_residual_blocks1(pool(x))
    middle = m.middle_2r_blocks(pool(down))
    upper = m.up_residual_blocks1(up(middle, size2) + down + m.skip1_connection_residual_block(down))
    return m.conv1_1_blocks(up(upper, size1) + trunk)


def stage2_cifar(m, x, trunk, size):
    return m.conv1_1_blocks(up(m.middle_2r_blocks(pool(x)), size) + trunk)


def stage3_cifar(m, x, trunk, size):
    return m.conv1_1_blocks(m.middle_2r_blocks(x))


SIZES = [(29, 21), (15, 11), (8, 6), (4, 3)]
STAGES = [(stage0, 4), (stage1, 3), (stage2, 2), (stage3, 1), (stage1_cifar, 2), (stage2_cifar, 1), (stage3_cifar, 1)]


@pytest.mark.parametrize(("mask", "levels"), STAGES)
def test_twin_is_the_spelled_out_forward(mask, levels):
    sizes = SIZES[:levels]
    twin = getattr(torch_residual_attention, f"AttentionModule_{mask.__name__}")(8, 8, *sizes).double().eval()
    randomise(twin, np.random.default_rng(0))
    x = torch.randn(2, 8, *SIZES[0], dtype=torch.float64)
    first = twin.first_residual_blocks(x)
    trunk = twin.trunk_branches(first)
    expected = twin.last_blocks((1 + mask(twin, first, trunk, *sizes)) * trunk)
    torch.testing.assert_close(twin(x), expected, rtol=1e-12, atol=1e-12)


def both(name, *args):
    return [getattr(module, name)(*args) for module in (residual_attention, torch_residual_attention)]


def test_an_image_of_another_size_is_refused():
    ours, theirs = both("AttentionModule_stage2", 8, 8, (7, 5), (4, 3))
    refuses = "AttentionModule_stage2: expected an image of .7, 5., got shape .2, 9, 5, 8."
    check_refusal(lambda: trace(ours, 2, 9, 5, 8), refuses, lambda: theirs(torch.zeros(2, 8, 9, 5)))


def test_sizes_halve_rounding_up():
    theirs = torch_residual_attention.AttentionModule_stage2(8, 8, (7, 5), (3, 2))
    check_refusal(
        lambda: residual_attention.AttentionModule_stage2(8, 8, (7, 5), (3, 2)),
        "AttentionModule_stage2: expected size .4, 3. below .7, 5., got .3, 2.",
        lambda: theirs(torch.zeros(2, 8, 7, 5)),
    )


def test_width_does_not_change():
    check_refusal(
        lambda: residual_attention.AttentionModule_stage3(8, 12),
        "AttentionModule_stage3: expected in_channels == out_channels, got 8, 12",
        lambda: torch_residual_attention.AttentionModule_stage3(8, 12),
    )


def test_the_third_cifar_stage_takes_any_size():
    ours, theirs = both("AttentionModule_stage3_cifar", 8, 8)
    assert trace(ours, 2, 3, 2, 8)[0].shape == (2, 3, 2, 8)
    assert theirs(torch.zeros(2, 8, 3, 2)).shape == (2, 8, 3, 2)


BODY_56 = "residual_block1 attention_module1 residual_block2 attention_module2 residual_block3 attention_module3"
BODY_92 = (
    "residual_block1 attention_module1 residual_block2 attention_module2 attention_module2_2 "
    "residual_block3 attention_module3 attention_module3_2 attention_module3_3"
)
BODY_448 = f"residual_block0 attention_module0 {BODY_92}"
LARGE = [((56, 56), (28, 28), (14, 14)), ((28, 28), (14, 14)), ((14, 14),)]
NETWORKS = [
    ("residual_attention_56", BODY_56, LARGE, 7),
    ("residual_attention_92", BODY_92, LARGE, 7),
    ("residual_attention_448input", BODY_448, [((112, 112), (56, 56), (28, 28), (14, 14)), *LARGE], 7),
    ("residual_attention_92_32input", BODY_92, [((16, 16), (8, 8)), ((8, 8),), ((4, 4),)], 4),
    ("residual_attention_92_32input_update", BODY_92, [((32, 32), (16, 16)), ((16, 16),), ((8, 8),)], 8),
]
POOLS = {"32input": lambda x: torch.nn.functional.max_pool2d(x, 2), "update": lambda x: x}


@pytest.mark.parametrize(("name", "body", "sizes", "last"), NETWORKS)
def test_networks_are_the_spelled_out_forward_at_the_published_size(name, body, sizes, last):
    published = getattr(models, name)()
    twin = getattr(torch_models, type(published).__name__)(published.attention, 10, published.size, 2).double().eval()
    made = getattr(torch_models, name)()
    assert (made.fc.out_features, made.size) == (10, published.size)
    randomise(twin, np.random.default_rng(0))
    images = torch.randn(1, 3, *published.size, dtype=torch.float64)
    x = POOLS.get(name.rpartition("_")[2], pool)(twin.conv1(images))
    for block in [*body.split(), "residual_block4", "residual_block5", "residual_block6"]:
        x = getattr(twin, block)(x)
    x = torch.nn.functional.avg_pool2d(twin.mpool2(x), last)
    torch.testing.assert_close(twin(images), twin.fc(x.flatten(1)), rtol=1e-11, atol=1e-11)
    stages = (m for m in twin.children() if isinstance(m, torch_residual_attention._AttentionModule))
    assert list(dict.fromkeys(m.sizes for m in stages)) == sizes


def test_every_stage_has_modules_and_every_network_stages():
    for attention in [(), (1, 0), (1, 1, 1, 1)]:
        check_refusal(
            lambda attention=attention: models.CifarResidualAttentionModel(attention),
            "CifarResidualAttentionModel: expected a number of modules for each of one to 3 stages, got",
        )


def test_a_network_takes_images_of_its_size():
    ours, theirs = (m.ResidualAttentionModel((1,), size=(17, 13), width=1) for m in (models, torch_models))
    refuses = "ResidualAttentionModel: expected images of .17, 13., got shape .2, 33, 13, 3."
    check_refusal(lambda: trace(ours, 2, 33, 13, 3), refuses, lambda: theirs(torch.zeros(2, 3, 33, 13)))


def test_a_network_keeps_pixels_and_channels():
    model = models.OldCifarResidualAttentionModel
    check_refusal(lambda: model((1,), size=(9, 1)), "Old.*: no pixel is left of images of .9, 1.")
    check_refusal(lambda: model((1,), width=0), "OldCifarResidualAttentionModel: expected width >= 1, got 0")
    refuses = "ResidualAttentionModel: expected width >= 2, got 1"
    check_refusal(lambda: models.ResidualAttentionModel((1, 1, 1, 1), width=1), refuses)


def test_cifar_images_are_scaled_only():
    images = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 3), np.uint8)
    ours = models.preprocess(images)
    theirs = torch_models.preprocess(torch.tensor(np.moveaxis(images, -1, 1)))
    assert ours.dtype == "float32"
    np.testing.assert_array_equal(np.moveaxis(ours, -1, 1), theirs.numpy())
