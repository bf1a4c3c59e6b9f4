"""LDNet: two ways to enlarge, kernels of a sample's own, second names, what is refused, what comes before and after."""

import json

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from convert.__main__ import main
from convert.commands.terminal import REFUSED
from flax_attn.models import ldnet
from tests.catalog.test_golden import GOLDEN
from tests.helpers.layer import array, channels_first, channels_last, check_refusal, check_values, normal, trace
from tests.helpers.parity import randomise
from tests.helpers.tolerances import assert_close
from torch_ref.models import ldnet as torch_ldnet


def fresh(layer):
    layer = layer.double().eval()
    randomise(layer, np.random.default_rng(0))
    return layer


def test_each_sample_has_its_own_kernels():
    x, head = torch.tensor(normal(2, 3, 7, 5)), torch.tensor(normal(2, 4, 3, seed=1))
    rows = [torch.nn.functional.conv2d(x[i : i + 1], head[i, :, :, None, None]) for i in range(2)]
    torch.testing.assert_close(torch_ldnet.dynamic_conv(x, head), torch.cat(rows), rtol=0, atol=1e-12)


def test_a_decoder_keeps_corner_pixels_in_place():
    block, x = fresh(torch_ldnet.DecoderBlock(8, 3)), torch.tensor(normal(2, 8, 4, 3))
    plain = block.conv2(block.conv1(x))
    corners = torch.tensor([0, -1])
    torch.testing.assert_close(block(x)[..., corners, :][..., corners], plain[..., corners, :][..., corners])


def test_an_updator_sums_over_the_image_under_a_map_with_its_outer_corners_in_place():
    layer, x = fresh(torch_ldnet.HeadUpdator(6)), torch.tensor(normal(2, 6, 2, 4))
    pred, head = torch.tensor(normal(2, 3, 1, 2, seed=1)), torch.tensor(normal(2, 3, 6, seed=2))
    left, right = pred[..., :1], pred[..., 1:]
    weight = torch.sigmoid(torch.cat([left, 0.75 * left + 0.25 * right, 0.25 * left + 0.75 * right, right], -1))
    seen = (weight[:, :, None] * x[:, None].sum(3, keepdim=True)).sum((3, 4))
    given = []
    layer.pred_transform_layer.register_forward_hook(lambda _, args, out: given.append(args[0]))
    layer(x, head, pred)
    torch.testing.assert_close(given[0], seen, rtol=0, atol=1e-12)


def test_an_updator_wants_a_map_of_half_the_size():
    shapes = [jax.ShapeDtypeStruct(shape, "float32") for shape in ((2, 8, 6, 5), (2, 1, 5), (2, 4, 2, 1))]
    check_refusal(
        lambda: jax.eval_shape(lambda *args: ldnet.HeadUpdator(5).init(jax.random.key(0), *args), *shapes),
        "HeadUpdator: expected a pred of half the size of x, got shape .2, 4, 2, 1. for .2, 8, 6, 5.",
        lambda: torch_ldnet.HeadUpdator(5)(torch.zeros(2, 5, 8, 6), torch.zeros(2, 1, 5), torch.zeros(2, 1, 4, 2)),
    )


@pytest.mark.parametrize("name", ["LDNet", "LDNetResNet34"])
def test_sides_halve_five_times(name):
    with torch.device("meta"):
        twin = getattr(torch_ldnet, name)()
    for h, w in ((80, 96), (96, 80)):
        check_refusal(
            lambda: trace(getattr(ldnet, name)(), 1, h, w, 3),  # noqa: B023
            f"{name}: expected a height and width divisible by 32, got shape .1, {h}, {w}, 3.",
            lambda: twin(torch.zeros(1, 3, h, w, device="meta")),  # noqa: B023
        )


def test_masks_have_one_class_and_encoders_four_stages():
    check_refusal(lambda: ldnet.LDNet(3), "LDNet: expected num_classes=1, got 3", lambda: torch_ldnet.LDNet(3))
    refuses = "LDNetResNet34: expected four stages of at least one block, got .3, 4, 6."
    check_refusal(lambda: ldnet.LDNetResNet34(layers=(3, 4, 6)), refuses)


@pytest.mark.parametrize(("name", "keys"), [("ldnet", "LDNet"), ("ldnet_resnet34", "LDNet_ResNet34")])
def test_twin_has_its_parts_in_the_published_order(name, keys):
    with torch.device("meta"):
        twin = getattr(torch_ldnet, name)()
    published = json.loads((GOLDEN / f"{keys}.json").read_text())
    assert [name for name, _ in twin.named_children()] == list(dict.fromkeys(key.split(".")[0] for key in published))


def test_input_is_bytes_over_255():
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), np.uint8)
    ours, theirs = ldnet.preprocess(images), torch_ldnet.preprocess(torch.tensor(channels_first(images)))
    assert ours.dtype == "float32"
    assert theirs.dtype == torch.float32
    assert_close(ours, channels_last(theirs), "float32")
    assert_close(ours, images / 255, "float32")


@pytest.mark.parametrize("size", [(13, 5), (3, 11)])
def test_a_map_at_the_size_of_the_image(size):
    check_values(
        lambda x: ldnet.resize_prediction(x, size),
        lambda x: torch_ldnet.resize_prediction(x, size),
        array(2, 8, 6, 1),
    )


def test_a_map_made_larger_keeps_its_outer_corners_in_place():
    x = array(1, 1, 2, 1)
    larger = ldnet.resize_prediction(x, (1, 4))[0, 0, :, 0]
    assert_close(larger, np.asarray([[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]]) @ x[0, 0, :, 0])


@pytest.mark.slow
def test_convert_reads_a_whole_file_with_second_names(capsys, tmp_path):
    source, out = tmp_path / "net.pth", tmp_path / "net.safetensors"
    state = torch_ldnet.ldnet().state_dict()
    torch.save(state, source)
    assert main(["convert", str(source), "--model", "ldnet", "--out", str(out)]) == 0
    assert "mapped 669 arrays" in capsys.readouterr().out
    assert main(["verify", str(source), "--model", "ldnet"]) == 0
    state["lcaList.0.ff.norm.bias"] = state["lcaList.0.ff.norm.bias"] + 1
    torch.save(state, source)
    assert main(["convert", str(source), "--model", "ldnet", "--out", str(out)]) == REFUSED
    assert "! lcaList.0.ff.norm.bias: differs from lca4.ff.norm.bias" in capsys.readouterr().err
    source.unlink()
    out.unlink()
