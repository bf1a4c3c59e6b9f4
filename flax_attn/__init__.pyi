"""The public names, and the file of each. `flax_attn/__init__.py` reads this list, and so do type checkers."""

from . import blocks as blocks, catalog as catalog, layers as layers, models as models
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
from .maps import attention_maps as attention_maps
from .models.ccnet import CCNet as CCNet
from .models.cifar_resnet import (
    CifarOptionAResNet as CifarOptionAResNet,
    CifarPreActResNet as CifarPreActResNet,
    CifarResNet as CifarResNet,
)
from .models.danet import DANet as DANet
from .models.detr.criterion import HungarianMatcher as HungarianMatcher, SetCriterion as SetCriterion
from .models.detr.demo import DETRdemo as DETRdemo
from .models.detr.network import (
    DETR as DETR,
    MLP as MLP,
    Backbone as Backbone,
    Joiner as Joiner,
)
from .models.detr.postprocess import (
    PostProcess as PostProcess,
    PostProcessPanoptic as PostProcessPanoptic,
    PostProcessSegm as PostProcessSegm,
)
from .models.detr.segmentation import DETRsegm as DETRsegm, MaskHeadSmallConv as MaskHeadSmallConv
from .models.digits_net import DigitsNet as DigitsNet
from .models.ldnet import (
    DecoderBlock as DecoderBlock,
    HeadUpdator as HeadUpdator,
    LDNet as LDNet,
    LDNetResNet34 as LDNetResNet34,
)
from .models.non_local_net import NonLocalNet as NonLocalNet
from .models.ram import OldRecurrentAttention as OldRecurrentAttention, RecurrentAttention as RecurrentAttention
from .models.res2net import Bottle2neck as Bottle2neck, Res2Net as Res2Net
from .models.residual_attention import (
    CifarResidualAttentionModel as CifarResidualAttentionModel,
    OldCifarResidualAttentionModel as OldCifarResidualAttentionModel,
    ResidualAttentionModel as ResidualAttentionModel,
)
from .models.resnet import ResNet as ResNet
from .models.se_inception import SEInception3 as SEInception3
from .models.se_resnet import (
    CifarSEPreActResNet as CifarSEPreActResNet,
    CifarSEResNet as CifarSEResNet,
    SENet as SENet,
    SEResNet as SEResNet,
)
from .models.sge_resnet import BAMResNet as BAMResNet
from .models.smt import SMT as SMT, OverlapPatchEmbed as OverlapPatchEmbed, SMTBlock as SMTBlock, SMTHead as SMTHead
from .models.spatial_transformer_net import SpatialTransformerNet as SpatialTransformerNet
from .plot import plot_attention as plot_attention
