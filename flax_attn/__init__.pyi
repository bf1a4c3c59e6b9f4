"""The public names, and the file of each. `flax_attn/__init__.py` reads this list, and so do type checkers."""

from . import (
    blocks as blocks,
    catalog as catalog,
    layers as layers,
    losses as losses,
    models as models,
    optim as optim,
    plot as plot,
    recipes as recipes,
    training as training,
)
from .blocks.attention import (
    MultiheadAttention as MultiheadAttention,
    ScaledDotProductAttention as ScaledDotProductAttention,
    SimplifiedScaledDotProductAttention as SimplifiedScaledDotProductAttention,
)
from .blocks.attention_map import MHAttentionMap as MHAttentionMap
from .blocks.bam import BAM as BAM
from .blocks.cbam import (
    CBAM as CBAM,
    CBAMBasicBlock as CBAMBasicBlock,
    CBAMBottleneck as CBAMBottleneck,
    ChannelGate as ChannelGate,
    SpatialGate as SpatialGate,
)
from .blocks.cifar_resnet import (
    CifarBasicBlock as CifarBasicBlock,
    CifarOptionABlock as CifarOptionABlock,
    OptionA as OptionA,
    PreActBasicBlock as PreActBasicBlock,
)
from .blocks.criss_cross import (
    CrissCrossAttention as CrissCrossAttention,
    CrissCrossAttention3D as CrissCrossAttention3D,
    RCCAModule as RCCAModule,
    criss_cross_attention as criss_cross_attention,
)
from .blocks.danet import CAM_Module as CAM_Module, DANetHead as DANetHead, PAM_Module as PAM_Module
from .blocks.esa import ESA as ESA, LCA as LCA, PPM as PPM, ESABlock as ESABlock, LCABlock as LCABlock
from .blocks.gumbel_attention import GumbelHardAttention as GumbelHardAttention
from .blocks.hard_attention import HardAttention as HardAttention
from .blocks.inception import (
    BasicConv2d as BasicConv2d,
    InceptionA as InceptionA,
    InceptionAux as InceptionAux,
    InceptionB as InceptionB,
    InceptionC as InceptionC,
    InceptionD as InceptionD,
    InceptionE as InceptionE,
)
from .blocks.inplace_abn import ABN as ABN, InPlaceABN as InPlaceABN
from .blocks.non_local import (
    ConcatenationNonLocalBlock as ConcatenationNonLocalBlock,
    DotProductNonLocalBlock as DotProductNonLocalBlock,
    EmbeddedGaussianNonLocalBlock as EmbeddedGaussianNonLocalBlock,
    GaussianNonLocalBlock as GaussianNonLocalBlock,
    NONLocalBlock1D as NONLocalBlock1D,
    NONLocalBlock2D as NONLocalBlock2D,
    NONLocalBlock3D as NONLocalBlock3D,
)
from .blocks.polarized import (
    ParallelPolarizedSelfAttention as ParallelPolarizedSelfAttention,
    PSA_p as PSA_p,
    PSA_s as PSA_s,
    SequentialPolarizedSelfAttention as SequentialPolarizedSelfAttention,
)
from .blocks.position import (
    PositionEmbeddingLearned as PositionEmbeddingLearned,
    PositionEmbeddingSine as PositionEmbeddingSine,
)
from .blocks.recurrent_attention import (
    ActionNetwork as ActionNetwork,
    BaselineNetwork as BaselineNetwork,
    CoreNetwork as CoreNetwork,
    GlimpseNetwork as GlimpseNetwork,
    LocationNetwork as LocationNetwork,
    OldBaselineNetwork as OldBaselineNetwork,
    OldLocationNetwork as OldLocationNetwork,
    Retina as Retina,
    reinforce_loss as reinforce_loss,
)
from .blocks.residual_attention import (
    AttentionModule_stage0 as AttentionModule_stage0,
    AttentionModule_stage1 as AttentionModule_stage1,
    AttentionModule_stage1_cifar as AttentionModule_stage1_cifar,
    AttentionModule_stage2 as AttentionModule_stage2,
    AttentionModule_stage2_cifar as AttentionModule_stage2_cifar,
    AttentionModule_stage3 as AttentionModule_stage3,
    AttentionModule_stage3_cifar as AttentionModule_stage3_cifar,
    ResidualBlock as ResidualBlock,
)
from .blocks.resnet import BasicBlock as BasicBlock, Bottleneck as Bottleneck
from .blocks.sam import SAM as SAM, Mlp as Mlp, SAMAttention as SAMAttention
from .blocks.se import (
    CifarSEBasicBlock as CifarSEBasicBlock,
    InsightSEBasicBlock as InsightSEBasicBlock,
    InsightSEBottleneck as InsightSEBottleneck,
    SEBasicBlock as SEBasicBlock,
    SEBottleneck as SEBottleneck,
    SELayer as SELayer,
    SENetBottleneck as SENetBottleneck,
    SEResNetBlock as SEResNetBlock,
    SEResNetBottleneck as SEResNetBottleneck,
    SEResNeXtBottleneck as SEResNeXtBottleneck,
    SqueezeExcitation as SqueezeExcitation,
)
from .blocks.sge import (
    SGEBasicBlock as SGEBasicBlock,
    SGEBottleneck as SGEBottleneck,
    SpatialGroupEnhance as SpatialGroupEnhance,
)
from .blocks.sk import SKBottleneck as SKBottleneck
from .blocks.spatial_transformer import SpatialTransformer as SpatialTransformer
from .blocks.stn import (
    STN as STN,
    AffineGridGen as AffineGridGen,
    AffineGridGenV2 as AffineGridGenV2,
    CylinderGridGen as CylinderGridGen,
    CylinderGridGenV2 as CylinderGridGenV2,
    DenseAffine3DGridGen as DenseAffine3DGridGen,
    DenseAffine3DGridGen_rotate as DenseAffine3DGridGen_rotate,
    DenseAffineGridGen as DenseAffineGridGen,
    Depth3DGridGen as Depth3DGridGen,
    Depth3DGridGen_with_mask as Depth3DGridGen_with_mask,
)
from .blocks.transformer import (
    Transformer as Transformer,
    TransformerDecoder as TransformerDecoder,
    TransformerDecoderLayer as TransformerDecoderLayer,
    TransformerEncoder as TransformerEncoder,
    TransformerEncoderLayer as TransformerEncoderLayer,
)
from .catalog import CATALOG as CATALOG, PUBLISHED as PUBLISHED
from .factory import (
    create_attention as create_attention,
    create_model as create_model,
    list_attentions as list_attentions,
    list_models as list_models,
)
from .fusing.fused import Fused as Fused, fuse as fuse
from .maps import attention_maps as attention_maps
from .models.ccnet import (
    CCNet as CCNet,
    ccnet_resnet101 as ccnet_resnet101,
)
from .models.cifar_resnet import (
    CifarOptionAResNet as CifarOptionAResNet,
    CifarPreActResNet as CifarPreActResNet,
    CifarResNet as CifarResNet,
    cifar_resnet20 as cifar_resnet20,
    cifar_resnet32 as cifar_resnet32,
    cifar_resnet44 as cifar_resnet44,
    cifar_resnet56 as cifar_resnet56,
    cifar_resnet110 as cifar_resnet110,
    cifar_preact_resnet20 as cifar_preact_resnet20,
    cifar_preact_resnet110 as cifar_preact_resnet110,
    cifar_resnet20_option_a as cifar_resnet20_option_a,
    cifar_resnet32_option_a as cifar_resnet32_option_a,
    cifar_resnet44_option_a as cifar_resnet44_option_a,
    cifar_resnet56_option_a as cifar_resnet56_option_a,
    cifar_resnet110_option_a as cifar_resnet110_option_a,
)
from .models.danet import (
    DANet as DANet,
    danet_resnet50 as danet_resnet50,
    danet_resnet101 as danet_resnet101,
)
from .models.detr.criterion import HungarianMatcher as HungarianMatcher, SetCriterion as SetCriterion
from .models.detr.demo import (
    DETRdemo as DETRdemo,
    detr_demo as detr_demo,
)
from .models.detr.network import (
    DETR as DETR,
    MLP as MLP,
    Backbone as Backbone,
    Joiner as Joiner,
    detr_resnet50 as detr_resnet50,
    detr_resnet50_dc5 as detr_resnet50_dc5,
    detr_resnet101 as detr_resnet101,
    detr_resnet101_dc5 as detr_resnet101_dc5,
)
from .models.detr.postprocess import (
    PostProcess as PostProcess,
    PostProcessPanoptic as PostProcessPanoptic,
    PostProcessSegm as PostProcessSegm,
)
from .models.detr.segmentation import (
    DETRsegm as DETRsegm,
    MaskHeadSmallConv as MaskHeadSmallConv,
    detr_resnet50_panoptic as detr_resnet50_panoptic,
    detr_resnet50_dc5_panoptic as detr_resnet50_dc5_panoptic,
    detr_resnet101_panoptic as detr_resnet101_panoptic,
)
from .models.digits_net import DigitsNet as DigitsNet
from .models.ldnet import (
    DecoderBlock as DecoderBlock,
    HeadUpdator as HeadUpdator,
    LDNet as LDNet,
    LDNetResNet34 as LDNetResNet34,
    ldnet as ldnet,
    ldnet_resnet34 as ldnet_resnet34,
)
from .models.non_local_net import (
    NonLocalNet as NonLocalNet,
    non_local_net as non_local_net,
)
from .models.ram import (
    OldRecurrentAttention as OldRecurrentAttention,
    RecurrentAttention as RecurrentAttention,
    ram as ram,
    ram_6_8x8_2 as ram_6_8x8_2,
)
from .models.res2net import (
    Bottle2neck as Bottle2neck,
    Res2Net as Res2Net,
    res2net50_v1b_26w_4s as res2net50_v1b_26w_4s,
)
from .models.residual_attention import (
    CifarResidualAttentionModel as CifarResidualAttentionModel,
    OldCifarResidualAttentionModel as OldCifarResidualAttentionModel,
    ResidualAttentionModel as ResidualAttentionModel,
    residual_attention_56 as residual_attention_56,
    residual_attention_92 as residual_attention_92,
    residual_attention_448input as residual_attention_448input,
    residual_attention_92_32input as residual_attention_92_32input,
    residual_attention_92_32input_update as residual_attention_92_32input_update,
)
from .models.resnet import (
    ResNet as ResNet,
    resnet18 as resnet18,
    resnet34 as resnet34,
    resnet50 as resnet50,
    resnet101 as resnet101,
    resnet152 as resnet152,
)
from .models.se_inception import (
    SEInception3 as SEInception3,
    se_inception_v3 as se_inception_v3,
)
from .models.se_resnet import (
    CifarSEPreActResNet as CifarSEPreActResNet,
    CifarSEResNet as CifarSEResNet,
    SENet as SENet,
    SEResNet as SEResNet,
    se_resnet18 as se_resnet18,
    se_resnet34 as se_resnet34,
    se_resnet50 as se_resnet50,
    se_resnet101 as se_resnet101,
    se_resnet152 as se_resnet152,
    cifar_se_resnet20 as cifar_se_resnet20,
    cifar_se_resnet32 as cifar_se_resnet32,
    cifar_se_resnet56 as cifar_se_resnet56,
    cifar_se_preactresnet20 as cifar_se_preactresnet20,
    cifar_se_preactresnet32 as cifar_se_preactresnet32,
    cifar_se_preactresnet56 as cifar_se_preactresnet56,
    timm_seresnet50 as timm_seresnet50,
    legacy_seresnet18 as legacy_seresnet18,
    legacy_seresnet34 as legacy_seresnet34,
    legacy_seresnet50 as legacy_seresnet50,
    legacy_seresnet101 as legacy_seresnet101,
    legacy_seresnet152 as legacy_seresnet152,
    legacy_seresnext50_32x4d as legacy_seresnext50_32x4d,
    legacy_seresnext101_32x4d as legacy_seresnext101_32x4d,
    legacy_senet154 as legacy_senet154,
)
from .models.sge_resnet import (
    BAMResNet as BAMResNet,
    sge_resnet18 as sge_resnet18,
    sge_resnet50 as sge_resnet50,
    sge_resnet101 as sge_resnet101,
    insight_se_resnet18 as insight_se_resnet18,
    insight_se_resnet50 as insight_se_resnet50,
    insight_se_resnet101 as insight_se_resnet101,
    sk_resnet50 as sk_resnet50,
    sk_resnet101 as sk_resnet101,
    cbam_resnet18 as cbam_resnet18,
    cbam_resnet50 as cbam_resnet50,
    cbam_resnet101 as cbam_resnet101,
    bam_resnet18 as bam_resnet18,
    bam_resnet50 as bam_resnet50,
    bam_resnet101 as bam_resnet101,
)
from .models.smt import (
    SMT as SMT,
    OverlapPatchEmbed as OverlapPatchEmbed,
    SMTBlock as SMTBlock,
    SMTHead as SMTHead,
    smt_tiny as smt_tiny,
    smt_small as smt_small,
    smt_base as smt_base,
    smt_large as smt_large,
)
from .models.spatial_transformer_net import (
    SpatialTransformerNet as SpatialTransformerNet,
    spatial_transformer_net as spatial_transformer_net,
)
from .nnx import from_nnx as from_nnx, to_nnx as to_nnx
from .plot import plot_attention as plot_attention
