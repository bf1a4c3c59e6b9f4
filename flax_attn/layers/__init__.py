"""PyTorch's semantics for channels-last arrays; each file owns one trap."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from flax_attn.layers import init
from flax_attn.layers.activation import (
    celu,
    elu,
    gelu,
    hardsigmoid,
    hardswish,
    hardtanh,
    leaky_relu,
    log_sigmoid,
    log_softmax,
    mish,
    prelu,
    relu,
    relu6,
    selu,
    sigmoid,
    silu,
    softplus,
    softsign,
    tanh,
)
from flax_attn.layers.activation_layers import (
    CELU,
    ELU,
    GELU,
    SELU,
    Hardsigmoid,
    Hardswish,
    Hardtanh,
    LeakyReLU,
    LogSigmoid,
    LogSoftmax,
    Mish,
    PReLU,
    ReLU,
    ReLU6,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Softsign,
    Tanh,
)
from flax_attn.layers.attention import check_query_block, weighted_sum
from flax_attn.layers.calls import frozen
from flax_attn.layers.conv import (
    Conv,
    Conv1d,
    Conv2d,
    Conv3d,
    ConvTranspose,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
)
from flax_attn.layers.convolution import dots_saveable
from flax_attn.layers.dropout import AlphaDropout, Dropout, Dropout1d, Dropout2d, Dropout3d, DropPath
from flax_attn.layers.instance_norm import InstanceNorm, InstanceNorm1d, InstanceNorm2d, InstanceNorm3d
from flax_attn.layers.linear import Embedding, Linear
from flax_attn.layers.module import (
    Initializer,
    InitRule,
    Module,
    accumulator,
    contract,
    einsum,
    require,
    require_floats,
    softmax,
)
from flax_attn.layers.norm import (
    BatchNorm,
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    FrozenBatchNorm2d,
    GroupNorm,
    LayerNorm,
    LocalResponseNorm,
    RMSNorm,
    std,
)
from flax_attn.layers.padding import (
    CircularPad1d,
    CircularPad2d,
    CircularPad3d,
    ConstantPad1d,
    ConstantPad2d,
    ConstantPad3d,
    ReflectionPad1d,
    ReflectionPad2d,
    ReflectionPad3d,
    ReplicationPad1d,
    ReplicationPad2d,
    ReplicationPad3d,
    ZeroPad1d,
    ZeroPad2d,
    ZeroPad3d,
    pad,
)
from flax_attn.layers.plain import plain_forms
from flax_attn.layers.pool import (
    AdaptiveAvgPool1d,
    AdaptiveAvgPool2d,
    AdaptiveAvgPool3d,
    AdaptiveMaxPool1d,
    AdaptiveMaxPool2d,
    AdaptiveMaxPool3d,
    AvgPool1d,
    AvgPool2d,
    AvgPool3d,
    MaxPool1d,
    MaxPool2d,
    MaxPool3d,
    adaptive_avg_pool,
    adaptive_max_pool,
    avg_pool,
    max_pool,
)
from flax_attn.layers.recurrent import GRU, LSTM, GRUCell, LSTMCell, RNNCell
from flax_attn.layers.resize import Upsample, UpsamplingBilinear2d, antialias_weights, interpolate
from flax_attn.layers.sample import affine_grid, grid_sample
from flax_attn.layers.sequential import ModuleDict, ModuleList, Sequential
from flax_attn.layers.shape import (
    Flatten,
    Identity,
    PixelShuffle,
    PixelUnshuffle,
    check_padding,
    flatten,
    pixel_shuffle,
    pixel_unshuffle,
)

if TYPE_CHECKING:
    from flax_attn.layers.transformer import (
        TransformerDecoder,
        TransformerDecoderLayer,
        TransformerEncoder,
        TransformerEncoderLayer,
    )

TRANSFORMERS = ("TransformerDecoder", "TransformerDecoderLayer", "TransformerEncoder", "TransformerEncoderLayer")


def __getattr__(name: str) -> Any:
    """The transformers. They are imported when first used, because they are made of a block, and blocks of layers."""
    if name in TRANSFORMERS:
        return getattr(import_module("flax_attn.layers.transformer"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
