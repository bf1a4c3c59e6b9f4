"""Entries of the blocks, with small odd shapes."""

import dataclasses

from flax_attn.blocks.attention import (
    MultiheadAttention,
    ScaledDotProductAttention,
    SimplifiedScaledDotProductAttention,
)
from flax_attn.blocks.attention_map import MHAttentionMap
from flax_attn.blocks.bam import BAM
from flax_attn.blocks.cbam import CBAM, CBAMBasicBlock, CBAMBottleneck, ChannelGate, SpatialGate
from flax_attn.blocks.cifar_resnet import CifarBasicBlock, CifarOptionABlock, OptionA, PreActBasicBlock
from flax_attn.blocks.criss_cross import CrissCrossAttention, CrissCrossAttention3D, RCCAModule
from flax_attn.blocks.danet import CAM_Module, DANetHead, PAM_Module
from flax_attn.blocks.esa import ESA, LCA, PPM, ESABlock, LCABlock
from flax_attn.blocks.gumbel_attention import GumbelHardAttention
from flax_attn.blocks.hard_attention import HardAttention
from flax_attn.blocks.inception import (
    BasicConv2d,
    InceptionA,
    InceptionAux,
    InceptionB,
    InceptionC,
    InceptionD,
    InceptionE,
)
from flax_attn.blocks.inplace_abn import ABN, InPlaceABN
from flax_attn.blocks.non_local import (
    ConcatenationNonLocalBlock,
    DotProductNonLocalBlock,
    EmbeddedGaussianNonLocalBlock,
    GaussianNonLocalBlock,
    NONLocalBlock1D,
    NONLocalBlock2D,
    NONLocalBlock3D,
)
from flax_attn.blocks.polarized import (
    ParallelPolarizedSelfAttention,
    PSA_p,
    PSA_s,
    SequentialPolarizedSelfAttention,
)
from flax_attn.blocks.position import PositionEmbeddingLearned, PositionEmbeddingSine
from flax_attn.blocks.recurrent_attention import (
    ActionNetwork,
    BaselineNetwork,
    CoreNetwork,
    GlimpseNetwork,
    LocationNetwork,
    OldBaselineNetwork,
    OldLocationNetwork,
    Retina,
)
from flax_attn.blocks.residual_attention import (
    AttentionModule_stage0,
    AttentionModule_stage1,
    AttentionModule_stage1_cifar,
    AttentionModule_stage2,
    AttentionModule_stage2_cifar,
    AttentionModule_stage3,
    AttentionModule_stage3_cifar,
    ResidualBlock,
)
from flax_attn.blocks.resnet import BasicBlock, Bottleneck, downsample
from flax_attn.blocks.sam import SAM, Mlp, SAMAttention
from flax_attn.blocks.se import (
    CifarSEBasicBlock,
    InsightSEBasicBlock,
    InsightSEBottleneck,
    SEBasicBlock,
    SEBottleneck,
    SELayer,
    SENetBottleneck,
    SEResNetBlock,
    SEResNetBottleneck,
    SEResNeXtBottleneck,
    SqueezeExcitation,
)
from flax_attn.blocks.sge import SGEBasicBlock, SGEBottleneck, SpatialGroupEnhance
from flax_attn.blocks.sk import SKBottleneck
from flax_attn.blocks.spatial_transformer import SpatialTransformer
from flax_attn.blocks.stn import (
    STN,
    AffineGridGen,
    AffineGridGenV2,
    CylinderGridGen,
    CylinderGridGenV2,
    DenseAffine3DGridGen,
    DenseAffine3DGridGen_rotate,
    DenseAffineGridGen,
    Depth3DGridGen,
    Depth3DGridGen_with_mask,
)
from flax_attn.blocks.transformer import (
    Transformer,
    TransformerDecoder,
    TransformerDecoderLayer,
    TransformerEncoder,
    TransformerEncoderLayer,
)
from flax_attn.catalog.entry import IMAGE, PLAIN, Dim, Entry, Input, Make, image, plain, signal, sized, volume
from flax_attn.layers import BatchNorm2d, FrozenBatchNorm2d, LayerNorm, Module, SiLU, Tanh


def _non_local(cls: type[Module], dimension: int, sub_sample: bool, bn_layer: bool) -> Entry:
    inputs = Input(lambda module: (2, *(3, 7, 5)[-module.dimension :], module.in_channels))
    kwargs = dict(in_channels=6, dimension=dimension, sub_sample=sub_sample, bn_layer=bn_layer)
    tag = f"{dimension}d" + "-sub" * sub_sample + "-bn" * bn_layer
    return Entry(cls, (inputs,), kwargs, tag=tag, call=dict(return_nl_map=True), outputs=(IMAGE, PLAIN))


def _stage(cls: type[Module], *sizes: tuple[int, int], slow: bool = False) -> Entry:
    names = [field.name for field in dataclasses.fields(cls) if field.name.startswith("size")]
    kwargs = dict(in_channels=8, out_channels=8, **dict(zip(names, sizes, strict=True)))
    return Entry(cls, (sized(names[0]),), kwargs, slow=slow)


def _grid(cls: type[Module], *shapes: tuple[Dim, ...], aux_loss: bool = False) -> Entry:
    kwargs = dict(height=7, width=5, aux_loss=aux_loss)
    return Entry(cls, tuple(plain(2, *s) for s in shapes), kwargs, outputs=(PLAIN,) * (1 + aux_loss))


BLOCKS = [
    Entry(BasicBlock, (image("inplanes"),), dict(inplanes=6, planes=6, norm_layer=FrozenBatchNorm2d), tag="frozen"),
    Entry(
        BasicBlock,
        (image("inplanes"),),
        dict(inplanes=6, planes=12, stride=2, downsample=Make(OptionA, 12)),
        tag="option-a",
    ),
    Entry(Bottleneck, (image("inplanes"),), dict(inplanes=12, planes=3)),
    Entry(
        Bottleneck,
        (image("inplanes"),),
        dict(
            inplanes=6,
            planes=4,
            stride=2,
            downsample=Make(downsample, 6, 16, stride=2, norm_layer=FrozenBatchNorm2d),
            groups=2,
            base_width=48,
            dilation=2,
            norm_layer=FrozenBatchNorm2d,
        ),
        tag="frozen",
    ),
    Entry(OptionA, (image(lambda module: module.planes // 2),), dict(planes=12)),
    Entry(CifarBasicBlock, (image("inplanes"),), dict(inplanes=6, planes=6)),
    Entry(CifarBasicBlock, (image("inplanes"),), dict(inplanes=6, planes=9, stride=2), tag="downsample"),
    Entry(CifarOptionABlock, (image("inplanes"),), dict(inplanes=6, planes=12, stride=2)),
    Entry(PreActBasicBlock, (image("inplanes"),), dict(inplanes=6, planes=6)),
    Entry(PreActBasicBlock, (image("inplanes"),), dict(inplanes=6, planes=9, stride=2), tag="downsample"),
    Entry(
        BasicConv2d, (image("in_channels"),), dict(in_channels=6, out_channels=9, kernel_size=(1, 3), padding=(0, 1))
    ),
    Entry(InceptionA, (image("in_channels"),), dict(in_channels=19, pool_features=6)),
    Entry(InceptionB, (image("in_channels"),), dict(in_channels=19)),
    Entry(InceptionC, (image("in_channels"),), dict(in_channels=19, channels_7x7=8, gated=True)),
    Entry(InceptionD, (image("in_channels"),), dict(in_channels=19)),
    Entry(InceptionE, (image("in_channels"),), dict(in_channels=19)),
    Entry(
        InceptionAux, (image("in_channels", 20, 23),), dict(in_channels=19, num_classes=5, gated=True), outputs=(PLAIN,)
    ),
    Entry(SELayer, (image("channel"),), dict(channel=19, reduction=4)),
    Entry(SELayer, (image("channel"),), dict(channel=12, reduction=4, bias=True), tag="bias"),
    Entry(SELayer, (image("channel"),), dict(channel=6, reduction=16), tag="empty-hidden"),
    Entry(
        SELayer,
        (image("channel"),),
        dict(channel=19, hidden=7, conv=True, norm_layer=BatchNorm2d, activation=SiLU, gate_layer=Tanh),
        tag="conv",
    ),
    Entry(SqueezeExcitation, (image("input_channels"),), dict(input_channels=19, squeeze_channels=7)),
    Entry(
        SqueezeExcitation,
        (image("input_channels"),),
        dict(input_channels=19, squeeze_channels=7, bias=False, norm_layer=BatchNorm2d, norm_both=True),
        tag="norm",
    ),
    Entry(SEBasicBlock, (image("inplanes"),), dict(inplanes=6, planes=6, reduction=2)),
    Entry(
        SEBasicBlock,
        (image("inplanes"),),
        dict(inplanes=6, planes=9, stride=2, downsample=Make(downsample, 6, 9, stride=2), reduction=4),
        tag="downsample",
    ),
    Entry(SEBottleneck, (image("inplanes"),), dict(inplanes=12, planes=3, reduction=2)),
    Entry(
        SEBottleneck,
        (image("inplanes"),),
        dict(inplanes=6, planes=4, stride=2, downsample=Make(downsample, 6, 16, stride=2), reduction=4),
        tag="downsample",
    ),
    Entry(InsightSEBasicBlock, (image("inplanes"),), dict(inplanes=32, planes=32)),
    Entry(
        InsightSEBottleneck,
        (image("inplanes"),),
        dict(inplanes=6, planes=8, stride=2, downsample=Make(downsample, 6, 32, stride=2)),
    ),
    Entry(CifarSEBasicBlock, (image("inplanes"),), dict(inplanes=6, planes=6, reduction=2)),
    Entry(CifarSEBasicBlock, (image("inplanes"),), dict(inplanes=6, planes=9, stride=2, reduction=4), tag="downsample"),
    Entry(
        SEResNetBlock,
        (image("inplanes"),),
        dict(inplanes=6, planes=9, stride=2, downsample=Make(downsample, 6, 9, stride=2), reduction=4),
    ),
    Entry(
        SEResNetBottleneck,
        (image("inplanes"),),
        dict(
            inplanes=6,
            planes=4,
            stride=2,
            downsample=Make(downsample, 6, 16, stride=2),
            groups=2,
            dilation=2,
            reduction=4,
        ),
    ),
    Entry(
        SEResNeXtBottleneck,
        (image("inplanes"),),
        dict(
            inplanes=6,
            planes=4,
            stride=2,
            downsample=Make(downsample, 6, 16, stride=2, norm_layer=FrozenBatchNorm2d),
            groups=2,
            base_width=48,
            dilation=2,
            norm_layer=FrozenBatchNorm2d,
            reduction=4,
        ),
    ),
    Entry(SENetBottleneck, (image("inplanes"),), dict(inplanes=12, planes=3, groups=3, reduction=2)),
    Entry(SpatialGroupEnhance, (image(lambda module: 4 * module.groups),), dict(groups=3)),
    Entry(
        SpatialGroupEnhance, (image(lambda module: 2 * module.groups),), dict(groups=4, init_bias=0.0), tag="init-bias"
    ),
    Entry(SGEBasicBlock, (image("inplanes"),), dict(inplanes=64, planes=64)),
    Entry(
        SGEBottleneck,
        (image("inplanes"),),
        dict(inplanes=6, planes=16, stride=2, downsample=Make(downsample, 6, 64, stride=2)),
    ),
    # five images: one of its BatchNorms has a value an image and channel, and over two float32 is too coarse
    Entry(SKBottleneck, (image("inplanes", 7, 3, n=5),), dict(inplanes=128, planes=32)),
    Entry(
        SKBottleneck,
        (image("inplanes", 7, 3, n=5),),
        dict(inplanes=6, planes=32, stride=2, downsample=Make(downsample, 6, 128, stride=2), dilation=2),
        tag="dilated",
    ),
    Entry(ChannelGate, (image("gate_channels"),), dict(gate_channels=9, reduction_ratio=2)),
    Entry(SpatialGate, (image(6),)),
    Entry(CBAM, (image("gate_channels"),), dict(gate_channels=19)),
    Entry(CBAM, (image("gate_channels"),), dict(gate_channels=9, no_spatial=True), tag="empty-hidden"),
    Entry(
        CBAM,
        (image("gate_channels"),),
        dict(gate_channels=19, conv=True, bias=False, kernel_size=3, norm=False, mean_first=True),
        tag="conv",
    ),
    Entry(CBAMBasicBlock, (image("inplanes"),), dict(inplanes=32, planes=32)),
    Entry(
        CBAMBottleneck,
        (image("inplanes"),),
        dict(inplanes=6, planes=8, stride=2, downsample=Make(downsample, 6, 32, stride=2)),
    ),
    Entry(BAM, (image("gate_channel"),), dict(gate_channel=35)),
    Entry(BAM, (image("gate_channel"),), dict(gate_channel=9, reduction_ratio=3, dilation_val=2), tag="dilation-val"),
    Entry(ResidualBlock, (image("input_channels"),), dict(input_channels=8, output_channels=8)),
    Entry(ResidualBlock, (image("input_channels"),), dict(input_channels=6, output_channels=12), tag="wider"),
    Entry(ResidualBlock, (image("input_channels"),), dict(input_channels=8, output_channels=8, stride=2), tag="stride"),
    _stage(AttentionModule_stage0, (13, 9), (7, 5), (4, 3), (2, 2), slow=True),
    _stage(AttentionModule_stage1, (13, 9), (7, 5), (4, 3), slow=True),
    _stage(AttentionModule_stage2, (7, 5), (4, 3)),
    _stage(AttentionModule_stage3, (7, 5)),
    _stage(AttentionModule_stage1_cifar, (7, 5), (4, 3)),
    _stage(AttentionModule_stage2_cifar, (7, 5)),
    _stage(AttentionModule_stage3_cifar, (7, 5)),
    Entry(PPM, (image(6),)),
    Entry(PPM, (image(6, 3, 4),), dict(pooling_sizes=(2, 5)), tag="pooling-sizes"),
    Entry(ESA, (image("dim"),), dict(dim=9, heads=2, dim_head=6, dropout=0.3), outputs=(PLAIN,)),
    Entry(ESA, (image("dim"),), dict(dim=6, heads=1, dim_head=6), tag="one-head", outputs=(PLAIN,)),
    Entry(LCA, (image("dim"), image(1)), dict(dim=9, heads=2, dim_head=6, dropout=0.3), outputs=(PLAIN,)),
    Entry(ESABlock, (image("dim"),), dict(dim=6, heads=3, dim_head=4, mlp_dim=10, dropout=0.3)),
    Entry(LCABlock, (image("dim"), image(1)), dict(dim=6, heads=3, dim_head=4, mlp_dim=10, dropout=0.3)),
    Entry(SAM, (plain(2, 35, "dim"),), dict(dim=12, proj_drop=0.3), call=dict(H=7, W=5), outputs=(PLAIN,)),
    Entry(
        SAM,
        (plain(2, 35, "dim"),),
        dict(dim=6, ca_num_heads=2, qkv_bias=True, expand_ratio=3),
        tag="qkv-bias",
        call=dict(H=7, W=5),
        outputs=(PLAIN,),
    ),
    Entry(
        SAMAttention,
        (plain(2, 35, "dim"),),
        dict(dim=12, sa_num_heads=4, attn_drop=0.3, proj_drop=0.3),
        call=dict(H=7, W=5),
        outputs=(PLAIN,),
    ),
    Entry(
        SAMAttention,
        (plain(2, 35, "dim"),),
        dict(dim=12, sa_num_heads=3, qkv_bias=True, qk_scale=0.3),
        tag="qkv-bias",
        call=dict(H=7, W=5),
        outputs=(PLAIN,),
    ),
    Entry(Mlp, (plain(2, 35, "in_features"),), dict(in_features=6), call=dict(H=7, W=5), outputs=(PLAIN,)),
    Entry(
        Mlp,
        (plain(2, 35, "in_features"),),
        dict(in_features=6, hidden_features=9, out_features=4, drop=0.3),
        tag="hidden",
        call=dict(H=7, W=5),
        outputs=(PLAIN,),
    ),
    Entry(STN, (plain(2, 7, 5, 3), plain(2, 4, 6, 2)), outputs=(PLAIN,)),
    Entry(STN, (plain(2, 3, 7, 5), plain(2, 2, 4, 6)), dict(layout="BCHW"), tag="bchw", outputs=(PLAIN,)),
    _grid(AffineGridGen, (2, 3), aux_loss=True),
    _grid(AffineGridGenV2, (2, 3)),
    Entry(CylinderGridGen, (plain(2, 1),), dict(height=7, width=5, lr=0.3, aux_loss=True), outputs=(PLAIN, PLAIN)),
    _grid(CylinderGridGenV2, (1,)),
    _grid(DenseAffineGridGen, ("height", "width", 6)),
    _grid(DenseAffine3DGridGen, ("height", "width", 12)),
    _grid(DenseAffine3DGridGen_rotate, ("height", "width", 12), (1,)),
    _grid(Depth3DGridGen, ("height", "width", 1), (1,), (1,), (1,)),
    _grid(Depth3DGridGen_with_mask, ("height", "width", 1), (1,), (1,), (1,)),
    Entry(
        SpatialTransformer,
        (sized("size"),),
        dict(in_channels=3, size=(13, 11), channels=(4, 5), kernel_sizes=(3, 2), hidden=6),
    ),
    Entry(
        SpatialTransformer,
        (sized("size"),),
        dict(in_channels=2, size=(9, 11), channels=(5,), kernel_sizes=(2,), pools=(3,), hidden=6, align_corners=True),
        tag="align-corners",
    ),
    Entry(ParallelPolarizedSelfAttention, (image("channel"),), dict(channel=9)),
    Entry(SequentialPolarizedSelfAttention, (image("channel"),), dict(channel=9)),
    Entry(PSA_p, (image("inplanes"),), dict(inplanes=9, planes=9)),
    Entry(PSA_s, (image("inplanes"),), dict(inplanes=18, planes=18)),
    _non_local(EmbeddedGaussianNonLocalBlock, 1, True, False),
    _non_local(EmbeddedGaussianNonLocalBlock, 2, False, True),
    _non_local(EmbeddedGaussianNonLocalBlock, 3, True, True),
    _non_local(GaussianNonLocalBlock, 1, False, True),
    _non_local(GaussianNonLocalBlock, 2, True, False),
    _non_local(GaussianNonLocalBlock, 3, True, True),
    _non_local(DotProductNonLocalBlock, 1, True, True),
    _non_local(DotProductNonLocalBlock, 2, False, False),
    _non_local(DotProductNonLocalBlock, 3, True, True),
    _non_local(ConcatenationNonLocalBlock, 1, True, True),
    _non_local(ConcatenationNonLocalBlock, 2, True, False),
    _non_local(ConcatenationNonLocalBlock, 3, False, True),
    Entry(NONLocalBlock1D, (signal("in_channels"),), dict(in_channels=5)),
    Entry(NONLocalBlock2D, (image("in_channels"),), dict(in_channels=5, inter_channels=3)),
    Entry(NONLocalBlock3D, (volume("in_channels"),), dict(in_channels=2)),
    Entry(PAM_Module, (image("in_dim"),), dict(in_dim=17)),
    Entry(CAM_Module, (image("in_dim"),), dict(in_dim=6)),
    Entry(DANetHead, (image("in_channels"),), dict(in_channels=36, out_channels=3), outputs=(IMAGE, IMAGE, IMAGE)),
    Entry(ABN, (image("num_features"),), dict(num_features=6, activation="identity")),
    Entry(InPlaceABN, (image("num_features"),), dict(num_features=6)),
    Entry(
        CrissCrossAttention,
        (image("in_dim"),),
        dict(in_dim=17),
        call=dict(attention_weights=True),
        outputs=(IMAGE, PLAIN, PLAIN),
    ),
    Entry(CrissCrossAttention, (image("in_dim", 1, 5),), dict(in_dim=9), tag="one-row"),
    Entry(CrissCrossAttention, (image("in_dim", 7, 1),), dict(in_dim=9), tag="one-column"),
    Entry(CrissCrossAttention3D, (volume("in_dim"),), dict(in_dim=17)),
    Entry(
        RCCAModule,
        (image("in_channels"),),
        dict(in_channels=36, out_channels=6, num_classes=3),
        call=dict(recurrence=2),
    ),
    Entry(
        RCCAModule,
        (image("in_channels"),),
        dict(in_channels=36, out_channels=6, num_classes=3, inplace_abn=False, activation="relu"),
        tag="abn",
    ),
    Entry(
        MultiheadAttention,
        (plain(5, 2, "embed_dim"), plain(7, 2, "embed_dim"), plain(7, 2, "embed_dim")),
        dict(embed_dim=12, num_heads=3, dropout=0.3),
        outputs=(PLAIN, PLAIN),
    ),
    Entry(
        MultiheadAttention,
        (
            plain(2, 5, "embed_dim"),
            plain(2, 7, "kdim"),
            plain(2, 7, "vdim"),
            plain(2, 7, kind="bool", name="key_padding_mask"),
            plain(5, 7, kind="bool", name="attn_mask"),
        ),
        dict(embed_dim=12, num_heads=2, add_bias_kv=True, add_zero_attn=True, kdim=5, vdim=9, batch_first=True),
        tag="bias-kv",
        call=dict(average_attn_weights=False),
        outputs=(PLAIN, PLAIN),
    ),
    Entry(
        MultiheadAttention,
        (
            *[plain(2, 5, "embed_dim")] * 3,
            plain(2, 5, name="key_padding_mask"),
            plain(6, 5, 5, name="attn_mask"),
        ),
        dict(embed_dim=6, num_heads=3, bias=False, batch_first=True),
        tag="no-bias",
        outputs=(PLAIN, PLAIN),
    ),
    Entry(
        ScaledDotProductAttention,
        (
            plain(2, 5, "d_model"),
            *[plain(2, 7, "d_model")] * 2,
            plain(2, 1, 5, 7, kind="bool", name="attention_mask"),
            plain(2, "h", 5, 7, name="attention_weights"),
        ),
        dict(d_model=9, d_k=4, d_v=5, h=3),
        outputs=(PLAIN,),
    ),
    Entry(
        SimplifiedScaledDotProductAttention,
        (plain(2, 5, "d_model"), *[plain(2, 7, "d_model")] * 2),
        dict(d_model=9, h=3),
        outputs=(PLAIN,),
    ),
    Entry(
        PositionEmbeddingSine,
        (image(3), plain(2, 7, 5, kind="padding")),
        dict(num_pos_feats=6, normalize=True),
        tag="normalize",
    ),
    Entry(PositionEmbeddingSine, (image(3), plain(2, 7, 5, kind="padding")), dict(num_pos_feats=4)),
    Entry(PositionEmbeddingLearned, (image(3),), dict(num_pos_feats=6)),
    Entry(
        TransformerEncoderLayer,
        (
            plain(2, 5, "d_model"),
            plain(2, 5, kind="padding", name="src_key_padding_mask"),
            plain(2, 5, "d_model", name="pos"),
        ),
        dict(d_model=12, nhead=3, dim_feedforward=10, dropout=0.1),
        outputs=(PLAIN,),
    ),
    Entry(
        TransformerEncoderLayer,
        (plain(2, 5, "d_model"), plain(5, 5, name="src_mask")),
        dict(d_model=12, nhead=2, dim_feedforward=10, dropout=0.1, activation="gelu", normalize_before=True),
        tag="pre-norm",
        outputs=(PLAIN,),
    ),
    Entry(
        TransformerDecoderLayer,
        (
            plain(2, 5, "d_model"),
            plain(2, 7, "d_model"),
            plain(2, 7, kind="padding", name="memory_key_padding_mask"),
            plain(2, 7, "d_model", name="pos"),
            plain(2, 5, "d_model", name="query_pos"),
        ),
        dict(d_model=12, nhead=3, dim_feedforward=10, dropout=0.1),
        outputs=(PLAIN,),
    ),
    Entry(
        TransformerDecoderLayer,
        (plain(2, 5, "d_model"), plain(2, 7, "d_model"), plain(5, 5, name="tgt_mask"), plain(5, 7, name="memory_mask")),
        dict(d_model=12, nhead=2, dim_feedforward=10, dropout=0.1, activation="gelu", normalize_before=True),
        tag="pre-norm",
        outputs=(PLAIN,),
    ),
    Entry(
        TransformerEncoder,
        (plain(2, 5, 12),),
        dict(
            encoder_layer=Make(TransformerEncoderLayer, 12, 3, dim_feedforward=10, dropout=0.0),
            num_layers=2,
            norm=Make(LayerNorm, 12),
        ),
        outputs=(PLAIN,),
    ),
    Entry(
        TransformerDecoder,
        (plain(2, 5, 12), plain(2, 7, 12)),
        dict(decoder_layer=Make(TransformerDecoderLayer, 12, 3, dim_feedforward=10, dropout=0.0), num_layers=1),
        outputs=(PLAIN,),
    ),
    Entry(
        Transformer,
        (image("d_model"), plain(2, 7, 5, kind="padding"), plain(3, "d_model"), image("d_model")),
        dict(
            d_model=12,
            nhead=3,
            num_encoder_layers=1,
            num_decoder_layers=2,
            dim_feedforward=10,
            dropout=0.1,
            return_intermediate_dec=True,
        ),
        outputs=(PLAIN, IMAGE),
    ),
    Entry(
        MHAttentionMap,
        (plain(2, 3, "query_dim"), image("query_dim"), plain(2, 7, 5, kind="padding")),
        dict(query_dim=9, hidden_dim=12, num_heads=3),
        outputs=(PLAIN,),
    ),
    Entry(Retina, (image(3, 9, 9), plain(2, 2, kind="uniform")), dict(g=4, k=2, s=2.0), outputs=(PLAIN,)),
    Entry(Retina, (image(3), plain(2, 2, kind="uniform")), dict(g=3, k=2, s=2.4), tag="odd", outputs=(PLAIN,)),
    Entry(
        GlimpseNetwork,
        (image("c", 9, 9), plain(2, 2, kind="uniform")),
        dict(h_g=5, h_l=4, g=4, k=2, s=2.0, c=3),
        outputs=(PLAIN,),
    ),
    Entry(
        CoreNetwork,
        (plain(2, "input_size"), plain(2, "hidden_size")),
        dict(input_size=5, hidden_size=4),
        outputs=(PLAIN,),
    ),
    Entry(ActionNetwork, (plain(2, "input_size"),), dict(input_size=5, output_size=3), outputs=(PLAIN,)),
    *[
        Entry(
            cls,
            (plain(2, "input_size"), plain(2, 2, name="noise")),
            dict(input_size=6, output_size=2, std=0.17),
            outputs=(PLAIN, PLAIN),
        )
        for cls in (LocationNetwork, OldLocationNetwork)
    ],
    Entry(BaselineNetwork, (plain(2, "input_size"),), dict(input_size=5, output_size=1), outputs=(PLAIN,)),
    Entry(OldBaselineNetwork, (plain(2, "input_size"),), dict(input_size=5, output_size=1), outputs=(PLAIN,)),
    Entry(
        HardAttention,
        (image("dim"), plain(2, 35, name="noise")),
        dict(dim=6, hidden_dim=4),
        outputs=(PLAIN, PLAIN, PLAIN),
    ),
    Entry(
        GumbelHardAttention,
        (image("dim"), plain(2, 35, name="noise")),
        dict(dim=6, hidden_dim=4, temperature=0.7),
        outputs=(PLAIN, PLAIN),
    ),
]
