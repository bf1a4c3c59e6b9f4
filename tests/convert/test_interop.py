"""The real thing: torchvision's and timm's networks and Hugging Face's DETR, with random weights, give our numbers.

Needs the extra "interop"; what is not installed is skipped.
"""

import functools
import importlib
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convert import from_torch, to_torch
from convert.rules import dropped
from flax_attn import (
    CBAM,
    DETR,
    Bottleneck,
    DETRsegm,
    EmbeddedGaussianNonLocalBlock,
    ResNet,
    SEResNet,
    SEResNeXtBottleneck,
    catalog,
)

torch = pytest.importorskip("torch")

from tests.helpers.parity import randomise
from torch_ref.blocks.position import PositionEmbeddingSine

NORM_RELATIVE = 1e-9
OPERATORS = torch.library.Library("torchvision", "FRAGMENT")


@functools.cache
def library(name):
    """Import ``name``, where it is installed; timm and transformers bring torchvision in."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torchvision()
        return pytest.importorskip(name, exc_type=ImportError)


def torchvision():
    """Import torchvision. Beside a torch for the CPU its own library does not load, and two operators that it declares
    a shape for are not there; nothing here calls them."""
    try:
        importlib.import_module("torchvision")
    except ImportError:
        pytest.skip("could not import torchvision")
    except RuntimeError:
        for operator in ("nms", "qnms"):
            OPERATORS.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        importlib.import_module("torchvision")


def randomised(module, seed=0):
    """Random numbers everywhere, gammas and statistics included, in float64 and eval mode."""
    randomise(module, np.random.default_rng(seed))
    return module.double().eval()


def near(ours, theirs):
    theirs = theirs.detach().numpy()
    assert ours.shape == theirs.shape
    assert np.linalg.norm(ours - theirs) <= NORM_RELATIVE * np.linalg.norm(theirs)


def published(name):
    (entry,) = catalog.find_entries(name)
    return entry


def same(state, back):
    assert back.keys() == {key for key in state if not dropped(key)}
    for key, value in back.items():
        np.testing.assert_array_equal(value, state[key].numpy())


CLASSIFIERS = [
    ("torchvision.models", "resnet18", "resnet18", None),
    ("torchvision.models", "resnet50", "resnet50", None),
    ("timm", "resnet18", "resnet18", None),
    ("timm", "resnet50", "resnet50", None),
    ("timm", "res2net50d", "res2net50_v1b_26w_4s", None),
    ("timm", "seresnet50", "timm_seresnet50", "timm"),
    pytest.param("timm", "seresnet101", "insight_se_resnet101", "timm", marks=pytest.mark.slow),
    ("timm", "legacy_seresnet18", "legacy_seresnet18", "cadene"),
    ("timm", "legacy_seresnet50", "legacy_seresnet50", "cadene"),
    ("timm", "legacy_seresnext50_32x4d", "legacy_seresnext50_32x4d", "cadene"),
    pytest.param("timm", "legacy_senet154", "legacy_senet154", "cadene", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("package", "name", "constructor", "dialect"), CLASSIFIERS)
def test_a_classifier_gives_our_numbers(package, name, constructor, dialect):
    entry, models = published(constructor), library(package)
    make = functools.partial(models.create_model, name) if package == "timm" else getattr(models, name)
    theirs, ours = randomised(make(num_classes=10)), entry.cls(num_classes=10)
    x = np.random.default_rng(1).normal(size=(2, 65, 97, 3))
    state = theirs.state_dict()
    variables = from_torch(ours, state, x, dialect="auto")
    with torch.no_grad():
        expected = theirs(torch.tensor(np.moveaxis(x, -1, 1)))
    near(jax.jit(ours.apply)(variables, x), expected)
    same(state, to_torch(ours, variables, x, dialect=dialect))


STAGES = (3, 4, 6, 3)
CLASSES = [
    ("torchvision.models", "resnext50_32x4d", ResNet(Bottleneck, STAGES, 10, groups=32, width_per_group=4), None),
    ("torchvision.models", "wide_resnet50_2", ResNet(Bottleneck, STAGES, 10, width_per_group=128), None),
    ("timm", "resnet26", ResNet(Bottleneck, (2, 2, 2, 2), 10), None),
    ("timm", "resnet50c", ResNet(Bottleneck, STAGES, 10, stem_width=32), None),
    (
        "timm",
        "seresnext50_32x4d",
        SEResNet(SEResNeXtBottleneck, STAGES, 10, groups=32, width_per_group=4),
        "timm",
    ),
]


@pytest.mark.parametrize(("package", "name", "ours", "dialect"), CLASSES, ids=[name for _, name, *_ in CLASSES])
def test_arguments_give_networks_that_have_no_constructor_here(package, name, ours, dialect):
    models = library(package)
    make = functools.partial(models.create_model, name) if package == "timm" else getattr(models, name)
    theirs = randomised(make(num_classes=10))
    x = np.random.default_rng(1).normal(size=(2, 33, 49, 3))
    variables = from_torch(ours, theirs.state_dict(), x, dialect="auto")
    with torch.no_grad():
        expected = theirs(torch.tensor(np.moveaxis(x, -1, 1)))
    near(jax.jit(ours.apply)(variables, x), expected)
    same(theirs.state_dict(), to_torch(ours, variables, x, dialect=dialect))


def non_local(channels):
    return EmbeddedGaussianNonLocalBlock(channels, channels // 8, dimension=2, sub_sample=False)


BLOCKS = [
    ("cbam", "CbamModule", {}, CBAM(64, conv=True, bias=False, mean_first=True), "timm_cbam"),
    ("non_local_attn", "NonLocalAttn", {}, non_local(64), "timm_nonlocal_scaled"),
    ("non_local_attn", "NonLocalAttn", dict(use_scale=False), non_local(64), "timm_nonlocal"),
]


@pytest.mark.parametrize(("file", "name", "kwargs", "ours", "dialect"), BLOCKS, ids=[block[-1] for block in BLOCKS])
def test_a_block_of_timm_gives_our_numbers(file, name, kwargs, ours, dialect):
    library("timm")
    theirs = randomised(getattr(importlib.import_module(f"timm.layers.{file}"), name)(64, **kwargs))
    x = np.random.default_rng(1).normal(size=(2, 6, 5, 64))
    variables = from_torch(ours, theirs.state_dict(), x, dialect=dialect)
    with torch.no_grad():
        expected = np.moveaxis(theirs(torch.tensor(np.moveaxis(x, -1, 1))).numpy(), 1, -1)
    near(ours.apply(variables, jnp.asarray(x)), torch.tensor(expected))
    back = to_torch(ours, variables, x, dialect=dialect)
    assert back.keys() == {key for key in theirs.state_dict() if not dropped(key)}
    for key, value in back.items():
        np.testing.assert_allclose(value, theirs.state_dict()[key], rtol=4e-16)


FEEDFORWARD = 48
SMALL = dict(
    d_model=128,
    encoder_layers=2,
    decoder_layers=2,
    encoder_attention_heads=8,
    decoder_attention_heads=8,
    encoder_ffn_dim=FEEDFORWARD,
    decoder_ffn_dim=FEEDFORWARD,
    num_queries=7,
    num_labels=5,
    use_pretrained_backbone=False,
)


def hugging_face(kind, backbone, positions="sine"):
    """A small DETR with ``backbone`` of timm or of transformers, as its config says."""
    transformers = library("transformers")
    library("timm")
    config = dict(use_timm_backbone=True, backbone="resnet26")
    if backbone == "transformers":
        stages = [f"stage{i}" for i in range(1, 5)]
        own = dict(layer_type="bottleneck", depths=[2, 2, 2, 2], out_features=stages)
        config = dict(use_timm_backbone=False, backbone=None, backbone_config=transformers.ResNetConfig(**own))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return randomised(
            getattr(transformers, kind)(transformers.DetrConfig(**SMALL, **config, position_embedding_type=positions))
        )


def with_float32_positions(theirs):
    """``theirs`` with the positions of DETR's own code, which are float32 in every precision.

    Those of transformers have the precision of the image. The two agree to float32's precision.
    """
    (position,) = (m for m in theirs.modules() if type(m).__name__ == "DetrSinePositionEmbedding")
    sine = PositionEmbeddingSine(position.num_position_features, position.temperature, position.normalize)
    own = position.forward

    def forward(shape, device, dtype, mask):
        ours = sine(torch.zeros(0, dtype=dtype), mask == 0)
        torch.testing.assert_close(own(shape, device, dtype, mask), ours, atol=1e-6, rtol=0)
        return ours

    position.forward = forward
    return theirs


def detr(kind):
    """The same network of ours."""
    sizes = dict(num_classes=5, num_queries=7, hidden_dim=128, enc_layers=2, dec_layers=2)
    net = DETR(Bottleneck, (2, 2, 2, 2), nheads=8, dim_feedforward=FEEDFORWARD, **sizes)
    return DETRsegm(net) if kind == "DetrForSegmentation" else net


def hub_names(theirs, folder):
    """The state dict in the file that transformers writes, which bears the names of the hub."""
    safetensors = pytest.importorskip("safetensors.torch")
    theirs.save_pretrained(folder)
    return safetensors.load_file(folder / "model.safetensors")


@pytest.mark.parametrize("backbone", ["timm", "transformers"])
@pytest.mark.parametrize("kind", ["DetrForObjectDetection", "DetrForSegmentation"])
def test_hugging_faces_detr_gives_our_numbers(kind, backbone, tmp_path):
    ours, theirs = detr(kind), with_float32_positions(hugging_face(kind, backbone))
    x = np.random.default_rng(1).normal(size=(2, 3, 96, 128))
    pixel_mask = np.ones((2, 96, 128), int)
    pixel_mask[1, 70:], pixel_mask[1, :, 90:] = 0, 0
    with torch.no_grad():
        expected = theirs(torch.tensor(x), pixel_mask=torch.tensor(pixel_mask))
    inputs = jnp.asarray(np.moveaxis(x, 1, -1)), jnp.asarray(pixel_mask == 0)
    suffix = "" if backbone == "timm" else "_no_timm"
    memory, hub = theirs.state_dict(), hub_names(theirs, tmp_path)
    variables = from_torch(ours, memory, *inputs, dialect="auto")
    out = jax.jit(ours.apply)(variables, *inputs)
    near(out["pred_logits"], expected.logits)
    near(out["pred_boxes"], expected.pred_boxes)
    if kind == "DetrForSegmentation":
        near(out["pred_masks"], expected.pred_masks)
    same(memory, to_torch(ours, variables, *inputs, dialect=f"hf5{suffix}"))
    assert memory.keys() != hub.keys()
    variables = from_torch(ours, hub, *inputs, dialect="auto")
    same(hub, to_torch(ours, variables, *inputs, dialect=f"hf{suffix}"))
    same(memory, to_torch(ours, variables, *inputs, dialect=f"hf5{suffix}"))


@pytest.mark.parametrize("backbone", ["timm", "transformers"])
def test_learned_positions_have_new_names_in_a_file_too(backbone, tmp_path):
    theirs = hugging_face("DetrForObjectDetection", backbone, positions="learned")
    sizes = dict(num_classes=5, num_queries=7, hidden_dim=128, enc_layers=2, dec_layers=2)
    ours = DETR(Bottleneck, (2, 2, 2, 2), nheads=8, dim_feedforward=FEEDFORWARD, position_embedding="learned", **sizes)
    x = np.random.default_rng(1).normal(size=(2, 3, 96, 128))
    with torch.no_grad():
        expected = theirs(torch.tensor(x), pixel_mask=torch.ones(2, 96, 128, dtype=torch.long))
    inputs = jnp.asarray(np.moveaxis(x, 1, -1)), jnp.zeros((2, 96, 128), bool)
    suffix = "" if backbone == "timm" else "_no_timm"
    for state, dialect in ((theirs.state_dict(), "hf5"), (hub_names(theirs, tmp_path), "hf5_learned")):
        variables = from_torch(ours, state, *inputs, dialect="auto")
        same(state, to_torch(ours, variables, *inputs, dialect=f"{dialect}{suffix}"))
    out = jax.jit(ours.apply)(variables, *inputs)
    near(out["pred_logits"], expected.logits)
    near(out["pred_boxes"], expected.pred_boxes)
