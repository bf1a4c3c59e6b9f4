"""Vision attention for JAX, with exact PyTorch weight parity."""

from flax_attn.blocks.attention import (
    MultiheadAttention,
    ScaledDotProductAttention,
    SimplifiedScaledDotProductAttention,
)
from flax_attn.blocks.attention_map import MHAttentionMap
from flax_attn.blocks.bam import BAM
from flax_attn.blocks.cbam import CBAM, CBAMBasicBlock, CBAMBottleneck, ChannelGate, SpatialGate
from flax_attn.blocks.criss_cross import (
    CrissCrossAttention,
    CrissCrossAttention3D,
    RCCAModule,
    criss_cross_attention,
)
from flax_attn.blocks.danet import CAM_Module, DANetHead, PAM_Module
from flax_attn.blocks.esa import ESA, LCA, PPM, ESABlock, LCABlock
from flax_attn.blocks.gumbel_attention import GumbelHardAttention
from flax_attn.blocks.hard_attention import HardAttention
from flax_attn.blocks.inception import InceptionA, InceptionAux, InceptionB, InceptionC, InceptionD, InceptionE
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
    reinforce_loss,
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
from flax_attn.blocks.resnet import (
    BasicBlock,
    Bottleneck,
    CifarBasicBlock,
    CifarOptionABlock,
    OptionA,
    PreActBasicBlock,
)
from flax_attn.blocks.sam import SAM, Mlp, SAMAttention
from flax_attn.blocks.se import (
    CifarSEBasicBlock,
    InsightSEBasicBlock,
    InsightSEBottleneck,
    SEBasicBlock,
    SEBottleneck,
    SELayer,
)
from flax_attn.blocks.senet import SENetBottleneck, SEResNetBlock, SEResNetBottleneck, SEResNeXtBottleneck
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
from flax_attn.catalog import CATALOG, PUBLISHED
from flax_attn.models.ccnet import CCNet
from flax_attn.models.cifar_resnet import CifarOptionAResNet, CifarPreActResNet, CifarResNet
from flax_attn.models.danet import DANet
from flax_attn.models.detr.criterion import HungarianMatcher, SetCriterion
from flax_attn.models.detr.demo import DETRdemo
from flax_attn.models.detr.network import DETR, MLP, Backbone, DETRsegm, Joiner, MaskHeadSmallConv
from flax_attn.models.detr.postprocess import PostProcess, PostProcessPanoptic, PostProcessSegm
from flax_attn.models.digits_net import DigitsNet
from flax_attn.models.ldnet import DecoderBlock, HeadUpdator, LDNet, LDNetResNet34
from flax_attn.models.non_local_net import NonLocalNet
from flax_attn.models.ram import OldRecurrentAttention, RecurrentAttention
from flax_attn.models.res2net import Bottle2neck, Res2Net
from flax_attn.models.residual_attention import (
    CifarResidualAttentionModel,
    OldCifarResidualAttentionModel,
    ResidualAttentionModel,
)
from flax_attn.models.resnet import ResNet
from flax_attn.models.se_inception import SEInception3
from flax_attn.models.se_resnet import CifarSEPreActResNet, CifarSEResNet, SENet, SEResNet
from flax_attn.models.sge_resnet import BAMResNet
from flax_attn.models.smt import SMT, OverlapPatchEmbed, SMTBlock, SMTHead
from flax_attn.models.spatial_transformer_net import SpatialTransformerNet
