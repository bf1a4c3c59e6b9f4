"""DETR: what the walk over the catalog does not see."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from convert import plan
from flax_attn import DETR, MLP, Backbone, BasicBlock, Bottleneck, DETRdemo, DETRsegm, Joiner, MaskHeadSmallConv
from flax_attn.catalog import find_entries
from flax_attn.models.detr.demo import detr_demo
from flax_attn.models.detr.network import detr_resnet50, mask_like
from flax_attn.models.detr.segmentation import detr_resnet50_dc5_panoptic
from tests.helpers.layer import check_refusal, trace
from tests.helpers.walk import entry_plan
from torch_ref.models.detr import demo as torch_demo
from torch_ref.models.detr import network as torch_detr
from torch_ref.models.detr import segmentation as torch_segmentation

SMALL = dict(num_classes=3, num_queries=5, hidden_dim=16, nheads=2, enc_layers=1, dim_feedforward=24)


def tiny(**arguments):
    return DETR(BasicBlock, (1, 1), **SMALL, **arguments)


def drawn(module, *shape):
    x = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
    return x, jax.jit(module.init)(jax.random.key(0), x)


def test_a_mask_is_resized_to_the_pixel_rounded_down():
    mask = np.zeros((1, 33, 41), bool)
    mask[:, [0, 11], 27] = True
    got = mask_like(jnp.asarray(mask), jnp.zeros((1, 3, 3, 1)))
    np.testing.assert_array_equal(got[0], [[False, False, True], [False, False, True], [False] * 3])
    np.testing.assert_array_equal(got, torch_detr.mask_like(torch.tensor(mask), torch.zeros(1, 1, 3, 3)))


@pytest.mark.slow
def test_without_a_mask_nothing_is_padded():
    module = tiny(dec_layers=1)
    x, variables = drawn(module, 2, 17, 25, 3)
    apply = jax.jit(module.apply)
    unmasked, padded = apply(variables, x), np.zeros(x.shape[:3], bool)
    np.testing.assert_array_equal(unmasked["pred_boxes"], apply(variables, x, padded)["pred_boxes"])
    padded[1, :, 12:] = True
    masked = apply(variables, x, padded)["pred_boxes"]
    np.testing.assert_allclose(masked[0], unmasked["pred_boxes"][0], rtol=1e-5)
    assert np.abs(masked[1] - unmasked["pred_boxes"][1]).max() > 1e-4


def test_auxiliary_outputs_are_those_of_the_earlier_layers():
    found = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2, 5, 16)))
    out, variables = tiny(aux_loss=True).init_with_output(jax.random.key(0), found, method="predict")
    assert len(out["aux_outputs"]) == 2
    predicted = [tiny().apply(variables, f[None], method="predict") for f in found]
    for got, expected in zip([*out["aux_outputs"], out], predicted, strict=True):
        assert expected.keys() == {"pred_logits", "pred_boxes"}
        for name in expected:
            np.testing.assert_allclose(got[name], expected[name], atol=1e-12)


@pytest.mark.parametrize(("dilation", "last"), [(False, (1, 3, 4, 2048)), (True, (1, 5, 7, 2048))])
def test_dc5_keeps_the_size_of_the_third_stage(dilation, last):
    maps, _ = trace(Backbone(Bottleneck, (1, 1, 1, 2), dilation), 1, 65, 97, 3)
    assert [m.shape for m in maps] == [(1, 17, 25, 256), (1, 9, 13, 512), (1, 5, 7, 1024), last]
    twin = torch_detr.Backbone(torch_detr.Bottleneck, (1, 1, 1, 2), dilation)
    assert twin(torch.zeros(1, 3, 65, 97))[-1].shape == (last[0], last[3], *last[1:3])


def test_masks_have_a_quarter_of_the_size():
    module = DETRsegm(DETR(BasicBlock, (1, 1, 1, 1), 3, 5, hidden_dim=128, enc_layers=1, dec_layers=1))
    out, _ = trace(module, 2, 33, 41, 3)
    assert out["pred_masks"].shape == (2, 5, 9, 11)


def test_detr_resnet50_has_the_published_number_of_parameters():
    rows = plan(detr_resnet50(), jnp.zeros((1, 33, 41, 3))).rows
    assert len(rows) == 458
    assert sum(np.prod(row.shape) for row in rows if row.path[0] == "params") == 41_524_768


@pytest.mark.slow
def test_full_size_network_gives_the_twins_numbers_as_it_starts():
    """With random numbers in every leaf, as in test_published, its output hardly depends on the image."""
    torch.manual_seed(0)
    twin = torch_segmentation.detr_resnet50_dc5_panoptic().double().eval()
    for name, buffer in twin.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(1.5, 2.5)
    x, mask = torch.randn(2, 3, 65, 97, dtype=torch.float64), torch.zeros(2, 65, 97, dtype=torch.bool)
    mask[1, 40:] = mask[1, :, 70:] = True
    with torch.no_grad():
        expected, other = twin(x, mask), twin(x.roll(1, 2), mask)
    module, image = detr_resnet50_dc5_panoptic(), jnp.asarray(x.permute(0, 2, 3, 1).numpy())
    padded = jnp.asarray(mask.numpy())
    variables = plan(module, image, padded).from_torch(twin.state_dict())
    got = jax.jit(module.apply)(variables, image, padded)
    assert got.keys() == expected.keys() == {"pred_logits", "pred_boxes", "pred_masks"}
    for name, out in expected.items():
        assert (other[name] - out).norm() > 1e-4 * out.norm()
        assert np.linalg.norm(got[name] - out.numpy()) <= 1e-12 * out.norm()


def demo_keys():
    """Key and shape of everything in the notebook's network, as upstreams describe it."""
    transformer = torch.nn.Transformer(256, 8, batch_first=True, device="meta")
    keys = {f"transformer.{k}": tuple(v.shape) for k, v in transformer.state_dict().items()}
    for name, *shape in (("query_pos", 100, 256), ("row_embed", 50, 128), ("col_embed", 50, 128)):
        keys[name] = tuple(shape)
    for name, *shape in (("conv", 256, 2048, 1, 1), ("linear_class", 92, 256), ("linear_bbox", 4, 256)):
        keys |= {f"{name}.weight": tuple(shape), f"{name}.bias": tuple(shape[:1])}
    body = {
        row.key: row.torch_shape
        for row in entry_plan(find_entries("resnet50")[0]).rows
        if not row.key.startswith("fc.")
    }
    return keys | {f"backbone.{key}": shape for key, shape in body.items()}


def test_demo_has_the_keys_of_the_notebook():
    keys = demo_keys()
    assert {"transformer.encoder.norm.weight", "transformer.decoder.norm.weight"} < keys.keys()
    rows = plan(detr_demo(), jnp.zeros((1, 33, 41, 3))).rows
    assert {row.key: row.torch_shape for row in rows} == keys
    with torch.device("meta"):
        state = torch_demo.detr_demo().state_dict()
    counters = {key for key in state if key.endswith("num_batches_tracked")}
    assert {key: tuple(state[key].shape) for key in state.keys() - counters} == keys


REFUSED = [
    (
        lambda: Joiner(BasicBlock, (1,), 8, "cosine"),
        "Joiner: expected position_embedding 'sine' or 'learned', got 'cosine'",
    ),
    (lambda: MLP(3, 4, 5, 0), "MLP: expected num_layers >= 1, got 0"),
    (lambda: DETR(BasicBlock, (1,), 0), r"DETR: expected num_classes, num_queries, dec_layers >= 1, got \(0, 100, 6\)"),
    (lambda: DETR(BasicBlock, (1,), hidden_dim=18), "DETR: expected 4 and nheads=8 to divide hidden_dim, got 18"),
    (
        lambda: MaskHeadSmallConv(17, (1, 2, 3), 128),
        "MaskHeadSmallConv: expected 8 to divide dim and 128 context_dim, got 17, 128",
    ),
    (lambda: MaskHeadSmallConv(16, (1, 2), 128), "MaskHeadSmallConv: expected three fpn_dims, got .1, 2."),
    (lambda: DETRsegm(tiny()), "DETRsegm: expected a detector of four stages, got 2"),
    (
        lambda: trace(tiny(dec_layers=1), 1, 17, 25, 3, mask=jnp.zeros((1, 25, 17), bool)),
        r"DETR: expected a mask of shape \(1, 17, 25\), got \(1, 25, 17\)",
    ),
    (
        lambda: DETRdemo(BasicBlock, (1,), hidden_dim=9, nheads=3),
        "DETRdemo: expected 2 and nheads=3 to divide hidden_dim, got 9",
    ),
    (
        lambda: trace(DETRdemo(BasicBlock, (1,), hidden_dim=8, num_encoder_layers=0), 1, 204, 8, 3),
        "DETRdemo: expected a map of at most 50 rows and columns, got 51, 2",
    ),
]


@pytest.mark.usefixtures("no_annotation_checks")
@pytest.mark.parametrize(("call", "sentence"), REFUSED)
def test_what_does_not_fit_is_refused(call, sentence):
    check_refusal(call, sentence)


@pytest.mark.parametrize(
    "call",
    [
        lambda: torch_detr.Joiner(torch_detr.Bottleneck, (1,), 8, "cosine"),
        lambda: torch_segmentation.MaskHeadSmallConv(17, (1, 2, 3), 128),
        lambda: torch_detr.DETR(torch_detr.Bottleneck, (1,), hidden_dim=18),
        lambda: torch_demo.DETRdemo(torch_demo.Bottleneck, (1,), hidden_dim=8)(torch.zeros(1, 3, 204, 8)),
    ],
)
def test_pytorch_refuses_it_too(call):
    with pytest.raises((ValueError, RuntimeError, AssertionError)):
        call()
