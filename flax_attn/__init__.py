"""Vision attention for JAX, with exact PyTorch weight parity."""

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
from flax_attn.blocks.se import SEBasicBlock, SEBottleneck, SELayer
from flax_attn.blocks.sge import SpatialGroupEnhance
from flax_attn.catalog import CATALOG
from flax_attn.models.digits_net import DigitsNet
from flax_attn.models.non_local_net import NonLocalNet
