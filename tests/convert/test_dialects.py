"""Foreign names: every pinned list is known for what it is, read without loss, written back to the bit, and refused as
strictly as ours are, by the names that the file has."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convert import MismatchError, from_torch, plan, recognition, to_torch
from convert.dialects import AUTO, DIALECTS, NATIVE, choose, detect, find_dialect
from convert.rules import dropped
from convert.tensors import Lazy, as_numpy
from flax_attn import (
    DETR,
    Bottleneck,
    CrissCrossAttention,
    DANetHead,
    DotProductNonLocalBlock,
    EmbeddedGaussianNonLocalBlock,
    RCCAModule,
    SAMAttention,
    SELayer,
    Transformer,
    catalog,
)
from flax_attn.models.cifar_resnet import cifar_resnet20, cifar_resnet20_option_a
from tests.catalog.test_golden import GOLDEN, golden
from tests.helpers.walk import entry_plan, walk_published

FOREIGN = {
    "hf_hub_det": ["hf"],
    "hf_hub_seg": ["hf"],
    "hf_no_timm_det": ["hf_no_timm"],
    "hf5_seg": ["hf5"],
    "hf5_no_timm_det": ["hf5_no_timm"],
    "hf5_learned_det": ["hf5_learned"],
    "hf5_learned_no_timm_det": ["hf5_learned_no_timm"],
    "hf5_memory_learned_det": ["hf5"],
    "hf5_memory_learned_no_timm_det": ["hf5_no_timm"],
    "mmpretrain_seresnet50": ["mmpretrain"],
    "mmdet_detr": ["mmdet"],
    "mmdet2_detr": ["mmdet2"],
    "mmdet2_early_detr": ["mmdet2_early"],
    "mmseg_danet": ["mmseg"],
    "mmseg_ccnet": ["mmseg"],
    "mmseg_nonlocal": ["mmseg_nonlocal"],
    "mmcv_CrissCrossAttention": ["mmseg"],
    "timm_CbamModule": ["timm_cbam"],
    "timm_NonLocalAttn": ["timm_nonlocal", "timm_nonlocal_scaled"],
    "timm_seresnet50": ["timm"],
    **{f"timm_legacy_{name}": ["cadene"] for name in ("senet154", "seresnet18", "seresnet50", "seresnext50_32x4d")},
    **{f"mmcv_NonLocal2d_{form}_ss{i}": ["mmcv_nonlocal"] for form in ("gaussian", "concatenation") for i in (0, 1)},
    **{
        f"mmcv_NonLocal2d_{form}_ss{i}": ["mmcv_nonlocal", "mmcv_nonlocal_scaled"]
        for form in ("dot_product", "embedded_gaussian")
        for i in (0, 1)
    },
}
NETWORKS = {
    "timm_seresnet50": "timm_seresnet50",
    "mmpretrain_seresnet50": "insight_se_resnet50",
    **{f"timm_legacy_{name}": f"legacy_{name}" for name in ("senet154", "seresnet18", "seresnet50")},
    "timm_legacy_seresnext50_32x4d": "legacy_seresnext50_32x4d",
}
X = jax.ShapeDtypeStruct((1, 9, 7, 8), jnp.float32)

foreign = pytest.mark.parametrize("name", FOREIGN)


def shapes(name):
    return golden(f"foreign/{name}")


def random_state(shapes, seed=0):
    rng = np.random.default_rng(seed)
    return {k: np.asarray(rng.normal(size=s), np.float32) for k, s in shapes.items() if not dropped(k)}


def state_of(module, *inputs, seed=0, **call):
    return random_state(plan(module, *inputs, **call).shapes, seed)


def numbers(translation):
    assert translation.problems == []
    return {key: as_numpy(entry.value) for key, entry in translation.entries.items()}


def same_bits(a, b):
    assert a.keys() == b.keys()
    for key in a:
        assert (a[key].dtype, a[key].shape) == (b[key].dtype, b[key].shape), key
        assert a[key].tobytes() == b[key].tobytes(), key


def torch_module(module):
    """Random numbers in a torch module, in float64; what it holds."""
    from tests.helpers.parity import randomise

    randomise(module, np.random.default_rng(3))
    return module.double().eval()


# Which dialect


def test_every_pinned_foreign_list_is_tested():
    assert {path.stem for path in (GOLDEN / "foreign").glob("*.json")} == FOREIGN.keys()


@foreign
def test_a_foreign_list_is_detected(name):
    assert [dialect.name for dialect in detect(shapes(name))] == FOREIGN[name]


@pytest.mark.parametrize("name", [path.stem for path in GOLDEN.glob("*.json")])
def test_our_pinned_names_are_no_dialect(name):
    assert detect(golden(name)) == []


@walk_published
def test_the_names_of_our_networks_are_no_dialect(entry):
    assert detect(entry_plan(entry).shapes) == []


def test_dialects_are_found_by_name():
    assert len({dialect.name for dialect in DIALECTS} | {NATIVE, AUTO}) == len(DIALECTS) + 2
    assert find_dialect("timm").name == "timm"
    assert choose(None, shapes("timm_seresnet50")) is None
    assert choose(NATIVE, shapes("timm_seresnet50")) is None
    assert choose(AUTO, shapes("timm_seresnet50")) is find_dialect("timm")
    with pytest.raises(ValueError, match=r"no dialect is called 'tim'; did you mean 'timm'\? There are hf, "):
        choose("tim", {})
    with pytest.raises(ValueError, match="may be those of mmcv_nonlocal or mmcv_nonlocal_scaled"):
        choose(AUTO, shapes("mmcv_NonLocal2d_embedded_gaussian_ss1"))


# Both directions


@foreign
def test_a_foreign_list_is_read_and_written_back_to_the_bit(name):
    state = random_state(shapes(name))
    dialect = find_dialect(FOREIGN[name][0])
    native = numbers(dialect.read(state))
    same_bits(dialect.write(native), state)
    assert detect(native) == []
    assert sum(x.size for x in native.values()) >= sum(x.size for x in state.values())


@pytest.mark.parametrize("name", NETWORKS)
def test_a_foreign_list_fits_its_network(name):
    (entry,) = catalog.find_entries(NETWORKS[name])
    mapping = recognition.entry_plan(entry, entry.module(num_classes=10))
    state = random_state(shapes(name))
    same_bits(mapping.to_torch(mapping.from_torch(state, AUTO), FOREIGN[name][0]), state)


@pytest.mark.parametrize(
    ("name", "layers", "positions"),
    [
        *[(name, (1, 1, 1, 1), "sine") for name in ("mmdet_detr", "mmdet2_detr", "mmdet2_early_detr")],
        *[(name, (2, 2, 2, 2), "learned") for name in FOREIGN if "learned" in name],
    ],
)
def test_a_foreign_list_fits_a_small_detr(name, layers, positions):
    sizes = dict(num_classes=5, num_queries=7, hidden_dim=32, enc_layers=1, dec_layers=2, dim_feedforward=48)
    net = DETR(Bottleneck, layers, position_embedding=positions, **sizes)
    mapping = plan(net, jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32))
    state = random_state(shapes(name))
    same_bits(mapping.to_torch(mapping.from_torch(state, AUTO), FOREIGN[name][0]), state)


@pytest.mark.parametrize(("name", "constructor"), [("hf_hub_seg", "detr_resnet50_panoptic")])
def test_hf_names_are_those_of_our_panoptic_detr_but_for_the_number_of_layers(name, constructor):
    (entry,) = catalog.find_entries(constructor)
    ours = entry_plan(entry).shapes
    native = numbers(find_dialect("hf").read(random_state(shapes(name))))
    assert native.keys() <= ours.keys()
    left = [key for key in ours.keys() - native.keys() if ".layers." not in key]
    assert left == []


@pytest.mark.parametrize("name", ["hf_hub_det", "hf_hub_seg", "hf_no_timm_det", "hf5_seg", "hf5_no_timm_det"])
def test_the_transformer_of_hugging_face_is_ours(name):
    state = random_state(shapes(name))
    start = "detr." * name.endswith("seg")
    d = state[f"{start}model.input_projection.bias"].size
    native = numbers(find_dialect(FOREIGN[name][0]).read(state))
    inside = {k.removeprefix(f"{start}transformer."): v for k, v in native.items() if "transformer." in k}
    layers = [
        len({k.split(".")[2] for k in inside if k.startswith(f"{side}.layers")}) for side in ("encoder", "decoder")
    ]
    width = inside["encoder.layers.0.linear1.bias"].size
    x, mask = jnp.zeros((1, 3, 2, d)), jnp.zeros((1, 3, 2), bool)
    call = dict(mask=mask, query_embed=jnp.zeros((4, d)), pos_embed=x)
    variables = from_torch(Transformer(d, 8, *layers, width), inside, x, **call)
    kernel = variables["params"]["encoder"]["layers"]["0"]["self_attn"]["in_proj_weight"]
    q, k, v = (
        next(w for key, w in state.items() if f"encoder.layers.0.self_attn.{which}_proj.weight" in key)
        for which in "qkv"
    )
    np.testing.assert_array_equal(np.split(kernel, 3), [q, k, v])


def test_the_backbone_of_transformers_own_is_renamed_to_torchvisions():
    native = find_dialect("hf_no_timm").read(random_state(shapes("hf_no_timm_det"))).entries
    origin = "model.backbone.conv_encoder.model.encoder.stages.3.layers.1.layer.2.normalization.running_var"
    assert native["backbone.0.body.layer4.1.bn3.running_var"].origins == (origin,)
    assert (
        native["backbone.0.body.layer2.0.downsample.0.weight"]
        .origins[0]
        .endswith("1.layers.0.shortcut.convolution.weight")
    )
    expected = {k.removeprefix("backbone.0.body.") for k in native if k.startswith("backbone.0.body.")}
    ours = {k for k in golden("insight_old_resnet50") if not dropped(k) and not k.startswith("fc.")}
    assert expected <= ours


def test_from_torch_and_to_torch_take_a_dialect():
    torch_names = state_of(SELayer(8, 2, bias=True), X)
    theirs = {
        "se.fc1.weight": torch_names["fc.0.weight"][:, :, None, None],
        "se.fc1.bias": torch_names["fc.0.bias"],
        "se.fc2.weight": torch_names["fc.2.weight"][:, :, None, None],
        "se.fc2.bias": torch_names["fc.2.bias"],
    }

    from flax_attn.layers import Module

    class Block(Module):
        def setup(self):
            self.se = SELayer(8, 2, bias=True)

        def __call__(self, x, train=False):
            return self.se(x)

    for dialect in ("timm", AUTO):
        variables = from_torch(Block(), theirs, X, dialect=dialect)
        np.testing.assert_array_equal(variables["params"]["se"]["fc"]["0"]["kernel"].T, torch_names["fc.0.weight"])
        same_bits(to_torch(Block(), variables, X, dialect="timm"), theirs)
    ours = {f"se.{key}": value for key, value in torch_names.items()}
    same_bits(to_torch(Block(), from_torch(Block(), ours, X, dialect=AUTO), X), ours)
    with pytest.raises(MismatchError, match=r"\+ se.fc1.weight: found shape"):
        from_torch(Block(), theirs, X)
    with pytest.raises(ValueError, match="no dialect is called 'cadine'"):
        to_torch(Block(), variables, X, dialect="cadine")


@pytest.mark.parametrize("constructor", [cifar_resnet20, cifar_resnet20_option_a])
def test_akamaster_calls_the_classifier_linear(constructor):
    x = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
    state = state_of(constructor(), x)
    theirs = {k.replace("fc.", "linear.").replace("downsample.", "shortcut."): v for k, v in state.items()}
    variables = from_torch(constructor(), theirs, x, dialect=AUTO)
    same_bits(to_torch(constructor(), variables, x), state)
    same_bits(to_torch(constructor(), variables, x, dialect="akamaster"), theirs)


def test_smt_dense_renames_one_convolution():
    from flax_attn.layers import Module

    class Block(Module):
        def setup(self):
            self.attn = SAMAttention(16, 4)

        def __call__(self, x, train=False):
            return self.attn(x, 3, 2)

    x = jax.ShapeDtypeStruct((1, 6, 16), jnp.float32)
    state = state_of(Block(), x)
    theirs = {k.replace("local_conv", "dw_conv"): v for k, v in state.items()}
    assert theirs.keys() != state.keys()
    same_bits(to_torch(Block(), from_torch(Block(), theirs, x, dialect=AUTO), x), state)
    assert detect({"block1.0.attn.local_conv_1.weight": (1,)}) == []


# What a mismatch says


def refusal(module, state, *inputs, dialect=AUTO, **call):
    with pytest.raises(MismatchError) as error:
        from_torch(module, state, *inputs, dialect=dialect, **call)
    return str(error.value).splitlines()


def test_a_mismatch_names_the_keys_of_the_file():
    x = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
    state = state_of(cifar_resnet20_option_a(), x)
    theirs = {k.replace("fc.", "linear."): v for k, v in state.items()}
    del theirs["linear.bias"]
    theirs |= {"linear.weight": np.zeros((10, 65), np.float32), "linear.scale": np.zeros(3, np.float32)}
    assert refusal(cifar_resnet20_option_a(), theirs, x) == [
        "the state dict does not fit CifarOptionAResNet, read as akamaster: 3 differences",
        "- linear.bias (here fc.bias): expected shape (10,), found nothing",
        "+ linear.scale (here fc.scale): found shape (3,), expected nothing",
        "~ linear.weight (here fc.weight): expected shape (10, 64), found (10, 65)",
    ]


def test_a_name_of_ours_among_theirs_is_refused():
    x = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
    theirs = state_of(cifar_resnet20_option_a(), x)
    theirs["linear.weight"] = theirs.pop("fc.weight")
    lines = refusal(cifar_resnet20_option_a(), theirs, x)
    assert lines[1:] == ["+ fc.bias: expected linear.bias instead"]
    both = theirs | {"fc.weight": theirs["linear.weight"], "linear.bias": theirs["fc.bias"]}
    lines = refusal(cifar_resnet20_option_a(), both, x)
    assert "* fc.weight: comes from linear.weight and from fc.weight" in lines


def test_parts_of_a_projection_are_missed_by_name():
    state = {
        k.removeprefix("model."): v for k, v in random_state(shapes("hf5_no_timm_det")).items() if "coder.layers" in k
    }
    state |= {"decoder.layernorm.weight": np.zeros(32, "f4"), "decoder.layernorm.bias": np.zeros(32, "f4")}
    state = {k: v for k, v in state.items() if "backbone" not in k}
    x = jnp.zeros((1, 3, 2, 32))
    call = dict(mask=jnp.zeros((1, 3, 2), bool), query_embed=jnp.zeros((4, 32)), pos_embed=x)
    net = Transformer(32, 8, 1, 2, 48)
    assert from_torch(net, state, x, dialect="hf5", **call)
    name = "decoder.layers.1.encoder_attn.{}_proj.{}"
    state.pop(name.format("k", "weight"))
    state[name.format("v", "bias")] = np.zeros(31, np.float32)
    state["encoder.layers.0.self_attn.q_proj.bias"] = np.zeros(32)
    state.pop("encoder.layers.0.self_attn.o_proj.bias")
    lines = refusal(net, state, x, dialect="hf5", **call)
    three = [name.format(which, "bias") for which in "qkv"]
    first = ", ".join(f"encoder.layers.0.self_attn.{which}_proj.bias" for which in "qkv")
    beside = f"{name.format('q', 'weight')}, {name.format('v', 'weight')}"
    assert sorted(lines[1:]) == sorted(
        [
            "- encoder.layers.0.self_attn.o_proj.bias (here encoder.layers.0.self_attn.out_proj.bias): "
            "expected shape (32,), found nothing",
            f"- {name.format('k', 'weight')}: expected beside {beside}, found nothing",
            f"~ {', '.join(three)}: expected parts of one shape, found (32,), (32,), (31,)",
            f"~ {first}: expected parts of one dtype, found float32, float64",
        ]
    )


def test_a_gate_of_larger_kernels_is_refused():
    state = random_state(shapes("timm_seresnet50"))
    state["layer1.0.se.fc1.weight"] = np.zeros((16, 256, 3, 3), np.float32)
    line = "~ layer1.0.se.fc1.weight: expected a 1x1 convolution's weight, found (16, 256, 3, 3)"
    assert find_dialect("timm").read(state).problems == [line]


# Arithmetic, against PyTorch modules with the names of mmseg and mmcv


def conv_module(torch, inputs, outputs, kernel=3, bn=True):
    block = torch.nn.Module()
    block.conv = torch.nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=not bn)
    if bn:
        block.bn = torch.nn.BatchNorm2d(outputs)
    return block


def run(block, x):
    return block.bn(block.conv(x)).relu()


def scale(torch):
    gamma = torch.nn.Module()
    gamma.scale = torch.nn.Parameter(torch.zeros(()))
    return gamma


def close(module, variables, x, expected, **call):
    out = module.apply(variables, jnp.asarray(np.moveaxis(x.numpy(), 1, -1)), **call)
    outs, expected = (out, expected) if isinstance(out, tuple) else ([out], [expected])
    for a, b in zip(outs, expected, strict=True):
        b = np.moveaxis(b.detach().numpy(), 1, -1)
        assert np.abs(a - b).max() < 1e-10 * np.abs(b).max()


def test_mmseg_criss_cross_head_is_ours_with_relu():
    torch = pytest.importorskip("torch")
    from torch_ref.blocks.criss_cross import criss_cross_attention

    head = torch.nn.Module()
    head.convs = torch.nn.ModuleList([conv_module(torch, 36, 9), conv_module(torch, 9, 9)])
    head.cca = torch.nn.Module()
    for name, width in (("query", 1), ("key", 1), ("value", 9)):
        setattr(head.cca, f"{name}_conv", torch.nn.Conv2d(9, width, 1))
    head.cca.gamma = scale(torch)
    head.conv_cat, head.conv_seg = conv_module(torch, 45, 9), torch.nn.Conv2d(9, 3, 1)
    torch_module(head)
    head.cca.gamma.scale.data.fill_(0.7)
    x = torch.randn(2, 36, 6, 5, dtype=torch.float64)
    y = run(head.convs[0], x)
    for _ in range(2):
        projected = head.cca.query_conv(y), head.cca.key_conv(y), head.cca.value_conv(y)
        y = head.cca.gamma.scale * criss_cross_attention(*projected)[0] + y
    expected = head.conv_seg(run(head.conv_cat, torch.cat([x, run(head.convs[1], y)], 1)))
    ours = RCCAModule(36, 9, 3, inplace_abn=False, activation="relu")
    struct = jax.ShapeDtypeStruct((2, 6, 5, 36), jnp.float32)
    variables = from_torch(ours, head.state_dict(), struct, dialect=AUTO)
    close(ours, variables, x, expected, recurrence=2)
    back = to_torch(ours, variables, struct, dialect="mmseg")
    same_bits(back, {k: v.numpy() for k, v in head.state_dict().items() if not dropped(k)})
    with pytest.raises(AssertionError):
        close(RCCAModule(36, 9, 3, inplace_abn=False), variables, x, expected, recurrence=2)


def test_mmseg_dual_attention_head_is_ours():
    torch = pytest.importorskip("torch")
    head = torch.nn.Module()
    for which in ("pam", "cam"):
        setattr(head, f"{which}_in_conv", conv_module(torch, 36, 9))
        setattr(head, which, torch.nn.Module())
        getattr(head, which).gamma = scale(torch)
        setattr(head, f"{which}_out_conv", conv_module(torch, 9, 9))
        setattr(head, f"{which}_conv_seg", torch.nn.Conv2d(9, 3, 1))
    head.conv_seg = torch.nn.Conv2d(9, 3, 1)
    for name, width in (("query", 1), ("key", 1), ("value", 9)):
        setattr(head.pam, f"{name}_project", torch.nn.Conv2d(9, width, 1))
    torch_module(head)
    head.pam.gamma.scale.data.fill_(0.7)
    head.cam.gamma.scale.data.fill_(-0.4)
    x = torch.randn(2, 36, 6, 5, dtype=torch.float64)
    a = run(head.pam_in_conv, x)
    q, k, v = (getattr(head.pam, f"{name}_project")(a).flatten(2) for name in ("query", "key", "value"))
    a = head.pam.gamma.scale * (v @ (q.mT @ k).softmax(-1).mT).view(a.shape) + a
    b = run(head.cam_in_conv, x)
    energy = b.flatten(2) @ b.flatten(2).mT
    attention = (energy.amax(-1, keepdim=True) - energy).softmax(-1)
    b = head.cam.gamma.scale * (attention @ b.flatten(2)).view(b.shape) + b
    a, b = run(head.pam_out_conv, a), run(head.cam_out_conv, b)
    expected = head.conv_seg(a + b), head.pam_conv_seg(a), head.cam_conv_seg(b)
    struct = jax.ShapeDtypeStruct((2, 6, 5, 36), jnp.float32)
    variables = from_torch(DANetHead(36, 3), head.state_dict(), struct, dialect=AUTO)
    close(DANetHead(36, 3), variables, x, expected)
    back = to_torch(DANetHead(36, 3), variables, struct, dialect="mmseg")
    same_bits(back, {k: v.numpy() for k, v in head.state_dict().items() if not dropped(k)})


def mmcv_non_local(torch, sub_sample=False, bn=True):
    block = torch.nn.Module()
    for name in ("g", "theta", "phi"):
        part = conv_module(torch, 10, 5, 1, bn=False)
        setattr(
            block, name, torch.nn.Sequential(part, torch.nn.MaxPool2d(2)) if sub_sample and name != "theta" else part
        )
    block.conv_out = conv_module(torch, 5, 10, 1, bn=bn)
    return torch_module(block)


@pytest.mark.parametrize("dialect", ["mmcv_nonlocal", "mmcv_nonlocal_scaled"])
@pytest.mark.parametrize("bn", [True, False])
def test_mmcv_non_local_block_is_ours_with_and_without_scale(dialect, bn):
    torch = pytest.importorskip("torch")
    block = mmcv_non_local(torch, bn=bn)
    x = torch.randn(2, 10, 6, 5, dtype=torch.float64)
    g, theta, phi = (getattr(block, name).conv(x).flatten(2) for name in ("g", "theta", "phi"))
    scores = (theta.mT @ phi) / (theta.shape[1] ** 0.5 if dialect.endswith("scaled") else 1)
    y = block.conv_out.conv((g @ scores.softmax(-1).mT).view(2, 5, 6, 5))
    expected = (block.conv_out.bn(y) if bn else y) + x
    ours = EmbeddedGaussianNonLocalBlock(10, dimension=2, sub_sample=False, bn_layer=bn)
    struct = jax.ShapeDtypeStruct((2, 6, 5, 10), jnp.float32)
    variables = from_torch(ours, block.state_dict(), struct, dialect=dialect)
    close(ours, variables, x, expected)
    back = to_torch(ours, variables, struct, dialect=dialect)
    state = {k: v.numpy() for k, v in block.state_dict().items() if not dropped(k)}
    assert back.keys() == state.keys()
    for key, value in state.items():
        np.testing.assert_allclose(back[key], value, rtol=4e-16 if dialect.endswith("scaled") else 0)


def test_a_bias_that_mmcv_has_no_place_for_is_refused():
    block = DotProductNonLocalBlock(8, dimension=2)
    variables = from_torch(block, random_state(shapes("mmcv_NonLocal2d_dot_product_ss1")), X, dialect="mmcv_nonlocal")
    assert (
        to_torch(block, variables, X, dialect="mmcv_nonlocal").keys()
        == random_state(shapes("mmcv_NonLocal2d_dot_product_ss1")).keys()
    )
    variables["params"]["W"]["0"]["bias"] = np.ones(8, np.float32)
    with pytest.raises(ValueError, match=r"mmcv_nonlocal cannot be written: W.0.bias: expected zeros"):
        to_torch(block, variables, X, dialect="mmcv_nonlocal")


def test_mmcv_criss_cross_attention_has_a_gamma_without_axes():
    module, x = CrissCrossAttention(16), jax.ShapeDtypeStruct((1, 5, 4, 16), jnp.float32)
    state = random_state(shapes("mmcv_CrissCrossAttention"))
    variables = from_torch(module, state, x, dialect=AUTO)
    assert variables["params"]["gamma"] == state["gamma.scale"][None]


def test_inplace_abn_becomes_plain_batchnorm_and_cannot_go_back():
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 6, 5, 36)))
    inplace, plain = RCCAModule(36, 9, 3), RCCAModule(36, 9, 3, inplace_abn=False)
    state = {k: v.astype(np.float64) for k, v in state_of(inplace, x).items()}
    state = {k: np.abs(v) if k.endswith("running_var") else v for k, v in state.items()}
    variables = from_torch(plain, state, x, dialect="inplace_abn")
    a = plain.apply(variables, x)
    b = inplace.apply(from_torch(inplace, state, x), x)
    assert np.abs(a - b).max() < 1e-12 * np.abs(b).max()
    assert detect(state) == []
    with pytest.raises(ValueError, match=r"inplace_abn can be read and not written: .*\.weight does not tell"):
        to_torch(plain, variables, x, dialect="inplace_abn")


def test_nothing_is_joined_before_it_is_asked_for():
    state = random_state(shapes("hf_hub_det"))
    entry = find_dialect("hf").read(state).entries["transformer.encoder.layers.0.self_attn.in_proj_weight"]
    assert isinstance(entry.value, Lazy)
    assert entry.value.shape == (768, 256)
    untouched = find_dialect("hf").read(state).entries["transformer.encoder.layers.0.linear1.weight"].value
    assert np.shares_memory(untouched, state["model.encoder.layers.0.fc1.weight"])


def lazy(state, made):
    """``state`` as ``Lazy`` values, each of which adds its key to ``made``."""

    def make(key):
        made.append(key)
        return state[key]

    return {key: Lazy(x.shape, x.dtype, functools.partial(make, key)) for key, x in state.items()}


@foreign
def test_no_lazy_value_is_made_before_it_is_asked_for(name):
    state, made = random_state(shapes(name)), []
    dialect = find_dialect(FOREIGN[name][0])
    entries, problems = dialect.read(lazy(state, made))
    assert (problems, made) == ([], [])
    native = {}
    for key, entry in entries.items():
        native[key] = as_numpy(entry.value)
        assert (native[key].shape, native[key].dtype) == (entry.value.shape, entry.value.dtype)
        assert set(made) >= set(entry.origins)
        assert len(made) <= 3
        made.clear()
    same_bits(native, numbers(dialect.read(state)))


@foreign
def test_lazy_values_are_written_one_at_a_time(name):
    dialect, made = find_dialect(FOREIGN[name][0]), []
    state = random_state(shapes(name))
    native = numbers(dialect.read(state))
    written = dialect.write(lazy(native, made))
    assert all(not native[key].any() for key in made)
    made.clear()
    out = {}
    for key, value in written.items():
        out[key] = as_numpy(value)
        assert (out[key].shape, out[key].dtype) == (value.shape, value.dtype)
        assert len(made) == 1
        made.clear()
    same_bits(out, state)
