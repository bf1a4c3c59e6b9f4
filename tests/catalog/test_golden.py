"""State-dict keys, their order and shapes are those of the published code, pinned in tests/catalog/golden."""

import itertools
import json
from pathlib import Path

import jax
import pytest

from convert import plan
from convert.rules import dropped
from flax_attn import (
    BAM,
    CBAM,
    DETR,
    ESA,
    PUBLISHED,
    SAM,
    AttentionModule_stage0,
    AttentionModule_stage1,
    AttentionModule_stage1_cifar,
    AttentionModule_stage2,
    AttentionModule_stage2_cifar,
    AttentionModule_stage3,
    AttentionModule_stage3_cifar,
    BasicBlock,
    Bottleneck,
    CAM_Module,
    CifarBasicBlock,
    CifarSEBasicBlock,
    ConcatenationNonLocalBlock,
    CrissCrossAttention,
    DANetHead,
    DotProductNonLocalBlock,
    EmbeddedGaussianNonLocalBlock,
    ESABlock,
    GaussianNonLocalBlock,
    LCABlock,
    MHAttentionMap,
    MultiheadAttention,
    PAM_Module,
    ParallelPolarizedSelfAttention,
    PositionEmbeddingLearned,
    PreActBasicBlock,
    PSA_p,
    PSA_s,
    RCCAModule,
    ResidualBlock,
    SAMAttention,
    SELayer,
    SequentialPolarizedSelfAttention,
    SKBottleneck,
    SpatialGroupEnhance,
    SqueezeExcitation,
    Transformer,
)
from flax_attn.blocks.resnet import downsample
from flax_attn.catalog import Entry, Make
from flax_attn.layers import BatchNorm2d
from tests.helpers.walk import entry_plan, published

GOLDEN = Path(__file__).parent / "golden"
FORMS = {
    "concatenation": ConcatenationNonLocalBlock,
    "dot_product": DotProductNonLocalBlock,
    "embedded_gaussian": EmbeddedGaussianNonLocalBlock,
    "gaussian": GaussianNonLocalBlock,
}


def keys_and_values(kdim, vdim):
    return {name: jax.ShapeDtypeStruct((5, 1, width), "float32") for name, width in (("key", kdim), ("value", vdim))}


CASES = {
    "ResidualAttentionModel_56.residual_block1": (
        ResidualBlock,
        dict(input_channels=64, output_channels=256),
        (1, 4, 4, 64),
    ),
    "ESA_blcok": (ESABlock, dict(dim=64), (1, 4, 4, 64)),
    "ESA_layer": (ESA, dict(dim=64), (1, 4, 4, 64)),
    "LCA_blcok": (LCABlock, dict(dim=64), (1, 4, 4, 64), dict(mask=jax.ShapeDtypeStruct((1, 4, 4, 1), "float32"))),
    "cifar_preact_resnet20.layer2.0": (PreActBasicBlock, dict(inplanes=16, planes=32, stride=2), (1, 4, 4, 16)),
    "cifar_resnet20.layer1.0": (CifarBasicBlock, dict(inplanes=16, planes=16), (1, 4, 4, 16)),
    "cifar_resnet20.layer2.0": (CifarBasicBlock, dict(inplanes=16, planes=32, stride=2), (1, 4, 4, 16)),
    "cifar_se_preactresnet20.layer2.0": (CifarSEBasicBlock, dict(inplanes=16, planes=32, stride=2), (1, 4, 4, 16)),
    "cifar_se_resnet20.layer2.0": (CifarSEBasicBlock, dict(inplanes=16, planes=32, stride=2), (1, 4, 4, 16)),
    "insight_bam_resnet50.bam1": (BAM, dict(gate_channel=256), (1, 4, 4, 256)),
    "insight_cbam_resnet50.layer1.0.cbam": (CBAM, dict(gate_channels=256), (1, 4, 4, 256)),
    "insight_old_resnet50.layer2.0": (
        Bottleneck,
        dict(inplanes=256, planes=128, stride=2, downsample=Make(downsample, 256, 512, stride=2)),
        (1, 4, 4, 256),
    ),
    "insight_se_resnet50.layer1.0.se": (SELayer, dict(channel=256, bias=True), (1, 4, 4, 256)),
    "insight_sk_resnet50.layer2.0": (
        SKBottleneck,
        dict(inplanes=256, planes=128, stride=2, downsample=Make(downsample, 256, 512, stride=2)),
        (1, 4, 4, 256),
    ),
    "smt_Attention_ca0": (SAMAttention, dict(dim=64, qkv_bias=True), (1, 16, 64), dict(H=4, W=4)),
    "smt_Attention_ca1": (SAM, dict(dim=64), (1, 16, 64), dict(H=4, W=4)),
    "timm_resnet18.layer2.0": (
        BasicBlock,
        dict(inplanes=64, planes=128, stride=2, downsample=Make(downsample, 64, 128, stride=2)),
        (1, 4, 4, 64),
    ),
    "CAM_Module": (CAM_Module, dict(in_dim=16), (1, 4, 4, 16)),
    "CrissCrossAttention": (CrissCrossAttention, dict(in_dim=16), (1, 4, 4, 16)),
    "DANetHead_64_19": (DANetHead, dict(in_channels=64, out_channels=19), (1, 4, 4, 64)),
    "PAM_Module": (PAM_Module, dict(in_dim=64), (1, 4, 4, 64)),
    "ccnet_r101.head": (RCCAModule, dict(in_channels=2048, out_channels=512, num_classes=19), (1, 4, 4, 2048)),
    "detr_r18_learned_prenorm_2x2": (
        DETR,
        dict(
            block=BasicBlock,
            layers=(2, 2, 2, 2),
            enc_layers=2,
            dec_layers=2,
            pre_norm=True,
            position_embedding="learned",
        ),
        (1, 33, 41, 3),
    ),
    "detr_r18_learned_prenorm_2x2.backbone.1": (PositionEmbeddingLearned, dict(num_pos_feats=128), (1, 4, 4, 1)),
    "detr_r50_panoptic.bbox_attention": (
        MHAttentionMap,
        dict(query_dim=256, hidden_dim=256, num_heads=8),
        (1, 3, 256),
        dict(k=jax.ShapeDtypeStruct((1, 4, 4, 256), "float32")),
    ),
    "detr_transformer_small": (
        Transformer,
        dict(d_model=32, nhead=4, num_encoder_layers=1, num_decoder_layers=2, dim_feedforward=64),
        (1, 4, 4, 32),
        dict(
            mask=jax.ShapeDtypeStruct((1, 4, 4), "bool"),
            query_embed=jax.ShapeDtypeStruct((3, 32), "float32"),
            pos_embed=jax.ShapeDtypeStruct((1, 4, 4, 32), "float32"),
        ),
    ),
    "torch_MHA": (MultiheadAttention, dict(embed_dim=32, num_heads=4), (4, 1, 32), keys_and_values(32, 32)),
    "torch_MHA_kdim_biaskv": (
        MultiheadAttention,
        dict(embed_dim=32, num_heads=4, add_bias_kv=True, kdim=16, vdim=24),
        (4, 1, 32),
        keys_and_values(16, 24),
    ),
    "torch_MHA_nobias": (
        MultiheadAttention,
        dict(embed_dim=32, num_heads=4, bias=False),
        (4, 1, 32),
        keys_and_values(32, 32),
    ),
    "PSA_p": (PSA_p, dict(inplanes=64, planes=64), (1, 4, 4, 64)),
    "PSA_s": (PSA_s, dict(inplanes=64, planes=64), (1, 4, 4, 64)),
    "ParallelPolarizedSelfAttention": (ParallelPolarizedSelfAttention, dict(channel=64), (1, 4, 4, 64)),
    "SequentialPolarizedSelfAttention": (SequentialPolarizedSelfAttention, dict(channel=64), (1, 4, 4, 64)),
    "SGE_ea": (SpatialGroupEnhance, dict(groups=8, init_bias=0.0), (1, 4, 4, 64)),
    "torchvision_SqueezeExcitation": (
        SqueezeExcitation,
        dict(input_channels=16, squeeze_channels=4),
        (1, 4, 4, 16),
    ),
    "timm_SEModule_bn": (
        SqueezeExcitation,
        dict(input_channels=16, squeeze_channels=4, norm_layer=BatchNorm2d),
        (1, 4, 4, 16),
    ),
}
RESIDUAL_ATTENTION = {
    "448input.attention_module0": (AttentionModule_stage0, 128, 112),
    "56.attention_module1": (AttentionModule_stage1, 256, 56),
    "56.attention_module2": (AttentionModule_stage2, 512, 28),
    "56.attention_module3": (AttentionModule_stage3, 1024, 14),
    "92_32input.attention_module1": (AttentionModule_stage1_cifar, 128, 16),
    "92_32input.attention_module2": (AttentionModule_stage2_cifar, 256, 8),
    "92_32input.attention_module3": (AttentionModule_stage3_cifar, 512, 4),
}
for name, (cls, c, size) in RESIDUAL_ATTENTION.items():
    CASES[f"ResidualAttentionModel_{name}"] = (cls, dict(in_channels=c, out_channels=c), (1, size, size, c))
for form, d, sub_sample, bn_layer in itertools.product(FORMS, (1, 2, 3), (False, True), (False, True)):
    kwargs = dict(in_channels=8, dimension=d, sub_sample=sub_sample, bn_layer=bn_layer)
    CASES[f"NL_{form}_{d}d_ss{sub_sample:d}_bn{bn_layer:d}"] = (FORMS[form], kwargs, (1, *[4] * d, 8))


NETWORKS = [entry for entry in PUBLISHED if entry.keys]
networks = published(NETWORKS)


def golden(name):
    """The shapes of a published state dict by key, in its order."""
    return {key: tuple(shape) for key, shape in json.loads((GOLDEN / f"{name}.json").read_text()).items()}


def without_counters(found):
    return [(key, shape) for key, shape in found.items() if not dropped(key)]


def shapes(twin):
    return [(key, tuple(value.shape)) for key, value in twin.state_dict().items()]


def test_every_pinned_list_is_held_against_a_class():
    assert {path.stem for path in GOLDEN.glob("*.json")} == CASES.keys() | {entry.keys for entry in NETWORKS}


@pytest.mark.parametrize("name", CASES)
def test_flax_module_maps_onto_the_published_keys(name):
    cls, kwargs, shape, *call = CASES[name]
    mapping = plan(Entry(cls, (), kwargs).module(), jax.ShapeDtypeStruct(shape, "float32"), **dict(*call))
    assert list(mapping.shapes.items()) == without_counters(golden(name))


@pytest.mark.parametrize("name", CASES)
def test_twin_has_the_published_keys(name):
    pytest.importorskip("torch")
    from torch_ref.twins import build_twin

    cls, kwargs, *_ = CASES[name]
    assert shapes(build_twin(cls, kwargs)) == list(golden(name).items())


@networks
def test_published_network_maps_onto_its_keys(entry):
    assert list(entry_plan(entry).shapes.items()) == without_counters(golden(entry.keys))


@networks
def test_published_twin_has_its_keys(entry):
    torch = pytest.importorskip("torch")
    from torch_ref.twins import build_twin

    with torch.device("meta"):
        twin = build_twin(entry.cls, entry.kwargs)
    assert shapes(twin) == list(golden(entry.keys).items())
    assert [name for name, _ in twin.named_parameters()] == list(entry_plan(entry).parameters)
