"""Entries of realistic sizes, which ``python -m examples.benchmark`` measures.

Every public class is in ``BENCH``, or in ``PARTS`` with the reason why it is not measured alone.
"""

import dataclasses
from typing import Any

from flax_attn.blocks.attention import (
    MultiheadAttention,
    ScaledDotProductAttention,
    SimplifiedScaledDotProductAttention,
)
from flax_attn.blocks.bam import BAM
from flax_attn.blocks.cbam import CBAM, CBAMBasicBlock, CBAMBottleneck
from flax_attn.blocks.cifar_resnet import CifarBasicBlock, CifarOptionABlock, PreActBasicBlock
from flax_attn.blocks.criss_cross import CrissCrossAttention, CrissCrossAttention3D, RCCAModule
from flax_attn.blocks.danet import CAM_Module, DANetHead, PAM_Module
from flax_attn.blocks.esa import ESA, LCA, ESABlock
from flax_attn.blocks.gumbel_attention import GumbelHardAttention
from flax_attn.blocks.hard_attention import HardAttention
from flax_attn.blocks.inplace_abn import ABN
from flax_attn.blocks.non_local import (
    ConcatenationNonLocalBlock,
    DotProductNonLocalBlock,
    EmbeddedGaussianNonLocalBlock,
    GaussianNonLocalBlock,
    NONLocalBlock2D,
    NONLocalBlock3D,
)
from flax_attn.blocks.polarized import (
    ParallelPolarizedSelfAttention,
    PSA_p,
    PSA_s,
    SequentialPolarizedSelfAttention,
)
from flax_attn.blocks.recurrent_attention import GlimpseNetwork, Retina
from flax_attn.blocks.residual_attention import (
    AttentionModule_stage1,
    AttentionModule_stage1_cifar,
    ResidualBlock,
)
from flax_attn.blocks.resnet import BasicBlock, Bottleneck
from flax_attn.blocks.sam import SAM, SAMAttention
from flax_attn.blocks.se import (
    CifarSEBasicBlock,
    SEBasicBlock,
    SEBottleneck,
    SELayer,
    SENetBottleneck,
    SEResNeXtBottleneck,
    SqueezeExcitation,
)
from flax_attn.blocks.sge import SGEBasicBlock, SGEBottleneck, SpatialGroupEnhance
from flax_attn.blocks.sk import SKBottleneck
from flax_attn.blocks.spatial_transformer import SpatialTransformer
from flax_attn.blocks.stn import STN
from flax_attn.blocks.transformer import (
    Transformer,
    TransformerDecoderLayer,
    TransformerEncoderLayer,
)
from flax_attn.catalog.entry import IMAGE, PLAIN, Dim, Entry, Input, image, plain, volume
from flax_attn.catalog.models import MODELS
from flax_attn.catalog.published import PUBLISHED
from flax_attn.constructor import Constructor
from flax_attn.layers import Module
from flax_attn.models import (
    ccnet,
    cifar_resnet,
    danet,
    detr,
    ldnet,
    non_local_net,
    ram,
    res2net,
    residual_attention,
    resnet,
    se_inception,
    se_resnet,
    sge_resnet,
    smt,
    spatial_transformer_net,
)
from flax_attn.models.digits_net import DigitsNet
from flax_attn.models.res2net import Bottle2neck
from flax_attn.models.smt import SMTBlock


def _gate(cls: type[Module], argument: str, c: int = 256, **kwargs: Any) -> Entry:
    """A block for eight images of 56x56 whose channels are the ``argument``."""
    return Entry(cls, (image(argument, 56, 56, n=8),), {argument: c, **kwargs})


def _residual(cls: type[Module], c: int, planes: int, size: int = 56, n: int = 8, **kwargs: Any) -> Entry:
    return Entry(cls, (image("inplanes", size, size, n=n),), dict(inplanes=c, planes=planes, **kwargs))


def _stage(cls: type[Module], c: int, size: int, n: int = 1) -> Entry:
    return Entry(cls, (image("in_channels", size, size, n=n),), dict(in_channels=c, out_channels=c))


def _tokens(cls: type[Module], c: int, size: int, n: int = 8, **kwargs: Any) -> Entry:
    call = dict(H=size, W=size)
    return Entry(cls, (plain(n, size * size, "dim"),), dict(dim=c, **kwargs), call=call, outputs=(PLAIN,))


def _attention(cls: type[Module], heads: str, **kwargs: Any) -> Entry:
    inputs = (plain(8, 196, 512),) * 3
    outputs = (PLAIN,) * (1 + (cls is MultiheadAttention))
    return Entry(cls, inputs, {heads: 8, **kwargs}, outputs=outputs)


def _network(make: Constructor[Module], h: int, w: int, n: int = 1, c: Dim = 3, **kwargs: Any) -> Entry:
    """The published network that ``make`` makes, with the default arguments of ``make`` but for ``kwargs``."""
    entry = next(entry for entry in PUBLISHED if entry.cls is make)
    others = entry.inputs[1:]
    inputs = (image(c, h, w, n=n), *(_batched(other, n) for other in others))
    return dataclasses.replace(entry, inputs=inputs, kwargs=kwargs)


def _batched(given: Input, n: int) -> Input:
    assert not callable(given.shape)
    return dataclasses.replace(given, shape=(n, *given.shape[1:]))


def _of_catalog(cls: type[Module], h: int, w: int, n: int) -> Entry:
    """A network that has no constructor, with the arguments that it has in the catalog."""
    entry = next(entry for entry in MODELS if entry.cls is cls)
    return dataclasses.replace(entry, inputs=(image(1, h, w, n=n),))


BENCH: list[Entry] = [
    _gate(SELayer, "channel"),
    _gate(SqueezeExcitation, "input_channels", c=240, squeeze_channels=60),
    Entry(SpatialGroupEnhance, (image(256, 56, 56, n=8),)),
    _gate(CBAM, "gate_channels"),
    _gate(BAM, "gate_channel"),
    _gate(ParallelPolarizedSelfAttention, "channel"),
    _gate(SequentialPolarizedSelfAttention, "channel"),
    _gate(PSA_p, "inplanes", planes=256),
    _gate(PSA_s, "inplanes", planes=256),
    _gate(ABN, "num_features"),
    Entry(ESA, (image("dim", 44, 44, n=1),), dict(dim=256), outputs=(PLAIN,)),
    Entry(LCA, (image("dim", 44, 44, n=1), image(1, 44, 44, n=1)), dict(dim=256), outputs=(PLAIN,)),
    Entry(ESABlock, (image("dim", 44, 44, n=1),), dict(dim=256)),
    _tokens(SAM, 128, size=32),
    _tokens(SAMAttention, 256, size=14, qkv_bias=True),
    _tokens(SMTBlock, 128, size=28, qkv_bias=True),
    *[
        Entry(
            cls,
            (image("in_channels", size, size),),
            dict(in_channels=256, dimension=2, sub_sample=True, bn_layer=True),
        )
        for cls, size in (
            (EmbeddedGaussianNonLocalBlock, 32),
            (GaussianNonLocalBlock, 32),
            (DotProductNonLocalBlock, 32),
            (ConcatenationNonLocalBlock, 16),
        )
    ],
    Entry(NONLocalBlock2D, (image("in_channels", 32, 32),), dict(in_channels=256)),
    Entry(NONLocalBlock3D, (volume("in_channels", 4, 14, 14),), dict(in_channels=256)),
    Entry(CrissCrossAttention, (image("in_dim", 97, 97, n=1),), dict(in_dim=512)),
    Entry(CrissCrossAttention3D, (volume("in_dim", 16, 32, 32, n=1),), dict(in_dim=64)),
    Entry(
        RCCAModule,
        (image("in_channels", 33, 33, n=1),),
        dict(in_channels=2048, out_channels=512, num_classes=19),
        call=dict(recurrence=2),
    ),
    Entry(PAM_Module, (image("in_dim", 64, 64, n=1),), dict(in_dim=256)),
    Entry(CAM_Module, (image("in_dim", 64, 64, n=1),), dict(in_dim=256)),
    Entry(
        DANetHead,
        (image("in_channels", 33, 33, n=1),),
        dict(in_channels=2048, out_channels=19),
        outputs=(IMAGE,) * 3,
    ),
    _attention(MultiheadAttention, "num_heads", embed_dim=512, batch_first=True),
    _attention(ScaledDotProductAttention, "h", d_model=512, d_k=64, d_v=64),
    _attention(SimplifiedScaledDotProductAttention, "h", d_model=512),
    Entry(TransformerEncoderLayer, (plain(2, 256, "d_model"),), dict(d_model=256, nhead=8), outputs=(PLAIN,)),
    Entry(
        TransformerDecoderLayer,
        (plain(2, 100, "d_model"), plain(2, 256, "d_model")),
        dict(d_model=256, nhead=8),
        outputs=(PLAIN,),
    ),
    Entry(
        Transformer,
        (image("d_model", 16, 16), plain(2, 16, 16, kind="padding"), plain(100, "d_model"), image("d_model", 16, 16)),
        dict(d_model=256, num_encoder_layers=2, num_decoder_layers=2),
        outputs=(PLAIN, IMAGE),
    ),
    Entry(
        HardAttention,
        (image("dim", 28, 28, n=8), plain(8, 784, name="noise")),
        dict(dim=256, hidden_dim=128),
        outputs=(PLAIN,) * 3,
    ),
    Entry(
        GumbelHardAttention,
        (image("dim", 28, 28, n=8), plain(8, 784, name="noise")),
        dict(dim=256, hidden_dim=128),
        outputs=(PLAIN,) * 2,
    ),
    Entry(Retina, (image(3, 64, 64, n=32), plain(32, 2, kind="uniform")), dict(g=8, k=3, s=2.0), outputs=(PLAIN,)),
    Entry(
        GlimpseNetwork,
        (image("c", 64, 64, n=32), plain(32, 2, kind="uniform")),
        dict(h_g=128, h_l=128, g=8, k=3, s=2.0, c=3),
        outputs=(PLAIN,),
    ),
    Entry(STN, (plain(8, 56, 56, 64), plain(8, 56, 56, 2, kind="uniform")), outputs=(PLAIN,)),
    Entry(SpatialTransformer, (image("in_channels", 28, 28, n=64),)),
    _residual(BasicBlock, 64, 64),
    _residual(Bottleneck, 256, 64),
    _residual(CifarBasicBlock, 16, 16, size=32, n=32),
    _residual(CifarOptionABlock, 16, 32, size=32, n=32, stride=2),
    _residual(PreActBasicBlock, 16, 16, size=32, n=32),
    _residual(SEBasicBlock, 64, 64),
    _residual(SEBottleneck, 256, 64),
    _residual(CifarSEBasicBlock, 16, 16, size=32, n=32),
    _residual(SEResNeXtBottleneck, 256, 64, size=28, groups=32, base_width=4),
    _residual(SENetBottleneck, 256, 64, size=28, groups=64),
    _residual(SGEBasicBlock, 64, 64),
    _residual(SGEBottleneck, 256, 64),
    _residual(SKBottleneck, 256, 64, size=28),
    _residual(CBAMBasicBlock, 64, 64),
    _residual(CBAMBottleneck, 256, 64),
    _residual(Bottle2neck, 256, 64),
    Entry(ResidualBlock, (image("input_channels", 56, 56, n=4),), dict(input_channels=256, output_channels=256)),
    _stage(AttentionModule_stage1, 256, size=56),
    _stage(AttentionModule_stage1_cifar, 128, size=16, n=8),
    _of_catalog(DigitsNet, 8, 8, n=64),
    _network(non_local_net.non_local_net, 28, 28, n=32, c=1),
    _network(spatial_transformer_net.spatial_transformer_net, 28, 28, n=64, c=1),
    _network(ram.ram, 28, 28, n=32, c=1),
    _network(cifar_resnet.cifar_resnet20, 32, 32, n=32),
    _network(cifar_resnet.cifar_preact_resnet20, 32, 32, n=32),
    _network(cifar_resnet.cifar_resnet20_option_a, 32, 32, n=32),
    _network(se_resnet.cifar_se_resnet20, 32, 32, n=32),
    _network(se_resnet.cifar_se_preactresnet20, 32, 32, n=32),
    _network(residual_attention.residual_attention_92_32input, 32, 32, n=2),
    _network(residual_attention.residual_attention_92_32input_update, 32, 32, n=2),
    _network(residual_attention.residual_attention_56, 224, 224),
    _network(resnet.resnet18, 224, 224, n=2),
    _network(resnet.resnet50, 224, 224, n=2),
    _network(se_resnet.se_resnet50, 224, 224, n=2),
    _network(se_resnet.legacy_seresnext50_32x4d, 224, 224, n=2),
    _network(sge_resnet.sge_resnet50, 224, 224, n=2),
    _network(sge_resnet.sk_resnet50, 224, 224, n=2),
    _network(sge_resnet.cbam_resnet50, 224, 224, n=2),
    _network(sge_resnet.bam_resnet50, 224, 224, n=2),
    _network(res2net.res2net50_v1b_26w_4s, 224, 224, n=2),
    _network(se_inception.se_inception_v3, 299, 299, n=2),
    _network(smt.smt_tiny, 224, 224, n=2),
    _network(ldnet.ldnet, 224, 224),
    _network(ldnet.ldnet_resnet34, 224, 224),
    _network(danet.danet_resnet50, 257, 257),
    _network(ccnet.ccnet_resnet101, 257, 257),
    _network(detr.detr_resnet50, 320, 416),
    _network(detr.detr_demo, 320, 416),
    _network(detr.detr_resnet50_panoptic, 160, 208),
]
"""The blocks, then the networks, each from small to large."""

PARTS: dict[str, tuple[str, ...]] = {
    "a part of a network or block that is measured": (
        "OptionA",
        "BasicConv2d",
        *(f"Inception{letter}" for letter in ("A", "B", "C", "D", "E", "Aux")),
        "ChannelGate",
        "SpatialGate",
        "PPM",
        "Mlp",
        "CoreNetwork",
        "ActionNetwork",
        "LocationNetwork",
        "OldLocationNetwork",
        "BaselineNetwork",
        "OldBaselineNetwork",
        "TransformerEncoder",
        "TransformerDecoder",
        "PositionEmbeddingSine",
        "PositionEmbeddingLearned",
        "MHAttentionMap",
        "MaskHeadSmallConv",
        "Backbone",
        "Joiner",
        "MLP",
        "DecoderBlock",
        "HeadUpdator",
        "SMTHead",
        "OverlapPatchEmbed",
    ),
    "a grid of coordinates, whose time is that of a few elementwise operations": (
        "AffineGridGen",
        "AffineGridGenV2",
        "CylinderGridGen",
        "CylinderGridGenV2",
        "DenseAffineGridGen",
        "DenseAffine3DGridGen",
        "DenseAffine3DGridGen_rotate",
        "Depth3DGridGen",
        "Depth3DGridGen_with_mask",
    ),
    "the same layers as SEBasicBlock or SEBottleneck, under other names or with another stride": (
        "InsightSEBasicBlock",
        "InsightSEBottleneck",
        "SEResNetBlock",
        "SEResNetBottleneck",
    ),
    "the same hourglass as AttentionModule_stage1 or AttentionModule_stage1_cifar, with another depth": (
        "AttentionModule_stage0",
        "AttentionModule_stage2",
        "AttentionModule_stage3",
        "AttentionModule_stage2_cifar",
        "AttentionModule_stage3_cifar",
    ),
    "the same arithmetic as ABN": ("InPlaceABN",),
    "NONLocalBlock2D for signals": ("NONLocalBlock1D",),
    "ESABlock with LCA in place of ESA": ("LCABlock",),
    "RecurrentAttention with a smaller locator, and a ReLU behind its baseline": ("OldRecurrentAttention",),
}
"""The classes that are not measured alone, by the reason."""

CAUSES: dict[str, tuple[str, ...]] = {
    "convolutions of 1 to 64 channels take XLA longer than PyTorch's library": (
        "BasicBlock",
        "SEBasicBlock",
        "SGEBasicBlock",
        "CBAMBasicBlock",
        "CifarBasicBlock",
        "CifarOptionABlock",
        "PreActBasicBlock",
        "CifarSEBasicBlock",
        "cifar_resnet20",
        "cifar_preact_resnet20",
        "cifar_resnet20_option_a",
        "cifar_se_resnet20",
        "cifar_se_preactresnet20",
        "spatial_transformer_net",
        "resnet18",
        "res2net50_v1b_26w_4s",
    ),
    "3x3 convolutions of 512 to 2048 channels take XLA longer than PyTorch's library": (
        "RCCAModule",
        "DANetHead",
        "ccnet_resnet101",
        "danet_resnet50",
    ),
    "the mean over all positions takes XLA longer than PyTorch's of an image with channels first": ("SELayer",),
    "the product of all channels takes XLA longer than PyTorch's library": ("CAM_Module",),
}
"""Why entries of ``BENCH`` are slower than PyTorch in float32 on a CPU. ``docs/performance.md`` shows it."""
