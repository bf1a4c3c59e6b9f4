"""Scale-Aware Modulation Meet Transformer - Lin, Wu, Chen, Huang, Jin 2023, https://arxiv.org/abs/2307.08579

Follows: AFeng-x/SMT, with its key names. Its detection and segmentation copies call the key ``local_conv`` of
``SAMAttention`` ``dw_conv``.
Differs: upstream's one class ``Attention`` is two classes here: ``SAM`` for ``ca_attention=1`` and ``SAMAttention`` for
``ca_attention=0``. Arguments that a class does not use are left out.
"""

import dataclasses
import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from flax_attn.layers import (
    BatchNorm2d,
    Conv2d,
    Dropout,
    Linear,
    Module,
    check_query_block,
    einsum,
    gelu,
    init,
    require,
    softmax,
    weighted_sum,
)
from flax_attn.layers.grouped import HeadMixer
from flax_attn.layers.layout import join_heads, split_heads
from flax_attn.shapes import Image, Tokens


def linear(inputs: int, outputs: int, bias: bool = True) -> Linear:
    """A linear layer that starts with weights from N(0, 0.02) and with bias 0."""
    return Linear(inputs, outputs, bias, kernel_init=init.normal(0.02), bias_init=init.zeros)


def conv(inputs: int, outputs: int, kernel_size: int, groups: int = 1, make: type[Conv2d] = Conv2d) -> Conv2d:
    """A convolution of stride 1 that keeps height and width; bias 0 and weights from N(0, 2 / fan_out) at first."""
    return make(
        inputs,
        outputs,
        kernel_size,
        padding=kernel_size // 2,
        groups=groups,
        kernel_init=init.normal(math.sqrt(2 * groups / (kernel_size**2 * outputs))),
        bias_init=init.zeros,
    )


def image(who: str, x: Tokens, H: int, W: int) -> Image:
    """The tokens as an image of H rows and W columns."""
    require(x.shape[1] == H * W, f"{who}: expected H * W = {H} * {W} tokens, got {x.shape[1]}")
    return x.reshape(x.shape[0], H, W, x.shape[2])


class SAM(Module):
    """Multiply a projection of the tokens x by a modulator.

    The modulator: the channels are split into heads, and each head passes a depthwise convolution of its own kernel
    size (3, 5, 7, ...). A 1x1 convolution then mixes the heads of each channel, and a second one mixes all channels.
    With ``attention_weights=True`` the call returns also the modulator (n, H, W, dim).

    Raises ValueError when ``ca_num_heads`` does not divide ``dim``, and for a number of tokens other than H * W.
    """

    dim: int
    ca_num_heads: int = 4
    qkv_bias: bool = False
    proj_drop: float = 0.0
    expand_ratio: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        dim, heads = self.dim, self.ca_num_heads
        require(heads >= 1 and dim % heads == 0, f"SAM: expected ca_num_heads to divide dim={dim}, got {heads}")

    def setup(self) -> None:
        dim, heads, wide = self.dim, self.ca_num_heads, self.dim * self.expand_ratio
        each = dim // heads
        self.proj = linear(dim, dim)
        self.v = linear(dim, dim, self.qkv_bias)
        self.s = linear(dim, dim, self.qkv_bias)
        for i in range(1, heads + 1):
            setattr(self, f"local_conv_{i}", conv(each, each, 2 * i + 1, groups=each))
        self.proj0 = conv(dim, wide, 1, groups=each, make=HeadMixer)
        self.bn = BatchNorm2d(wide)
        self.proj1 = conv(wide, dim, 1)
        self.dropout = Dropout(self.proj_drop)

    def __call__(
        self, x: Tokens, H: int, W: int, train: bool = False, attention_weights: bool = False
    ) -> Tokens | tuple[Tokens, Image]:
        heads = jnp.split(image("SAM", self.s(x), H, W), self.ca_num_heads, -1)
        seen = [getattr(self, f"local_conv_{i}")(head) for i, head in enumerate(heads, 1)]
        modulator = self.proj1(gelu(self.bn(self.proj0(jnp.concatenate(seen, -1)), train)))
        y = self.dropout(self.proj(modulator.reshape(x.shape) * self.v(x)), train)
        return (y, modulator) if attention_weights else y


class SAMAttention(Module):
    """Multi-head self-attention of the tokens x, plus a depthwise 3x3 convolution of their values.

    Args:
        query_block: of how many queries the weights are in memory at a time: that of ``layers.weighted_sum``. The
            weights of all queries are in memory where they are returned, or where ``attn_drop`` drops some of them.

    With ``attention_weights=True`` the call returns also the weights (n, heads, queries, keys).

    Raises ValueError when ``sa_num_heads`` does not divide ``dim``, and for a number of tokens other than H * W.
    """

    dim: int
    sa_num_heads: int = 8
    qkv_bias: bool = False
    qk_scale: float | None = None
    attn_drop: float = 0.0
    proj_drop: float = 0.0
    query_block: int | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        dim, heads = self.dim, self.sa_num_heads
        divides = heads >= 1 and dim % heads == 0
        require(divides, f"SAMAttention: expected sa_num_heads to divide dim={dim}, got {heads}")
        check_query_block("SAMAttention", self.query_block)

    def setup(self) -> None:
        self.proj = linear(self.dim, self.dim)
        self.q = linear(self.dim, self.dim, self.qkv_bias)
        self.attn_dropout = Dropout(self.attn_drop)
        self.kv = linear(self.dim, 2 * self.dim, self.qkv_bias)
        self.local_conv = conv(self.dim, self.dim, 3, groups=self.dim)
        self.proj_dropout = Dropout(self.proj_drop)

    def __call__(
        self, x: Tokens, H: int, W: int, train: bool = False, attention_weights: bool = False
    ) -> Tokens | tuple[Tokens, Float[Array, "n heads l l"]]:
        key, value = jnp.split(self.kv(x), 2, -1)
        q, k, v = (split_heads(t, self.sa_num_heads) for t in (self.q(x), key, value))
        q = q * (self.qk_scale or q.shape[-1] ** -0.5)

        def weigh(q: Array) -> Array:
            return softmax(einsum("nhqd,nhkd->nhqk", q, k, wide=True)).astype(v.dtype)

        def dropped(q: Array) -> Array:
            return self.attn_dropout(weigh(q), train)

        block = 0 if attention_weights or (train and self.attn_drop) else self.query_block
        y, _ = weighted_sum(dropped, q, v, query_block=block)
        y = join_heads(y)
        local = self.local_conv(image("SAMAttention", value, H, W)).reshape(x.shape)
        y = self.proj_dropout(self.proj(y + local), train)
        return (y, weigh(q)) if attention_weights else y


class _DWConv(Module):
    dim: int

    def setup(self) -> None:
        self.dwconv = conv(self.dim, self.dim, 3, groups=self.dim)

    def __call__(self, x: Tokens, H: int, W: int) -> Tokens:
        return self.dwconv(image("Mlp", x, H, W)).reshape(x.shape)


class Mlp(Module):
    """SMT's two linear layers; between them h becomes gelu(h + depthwise 3x3 convolution of h). ``MLP`` is DETR's.

    Args:
        hidden_features, out_features: ``in_features`` when None.
    """

    in_features: int
    hidden_features: int | None = None
    out_features: int | None = None
    drop: float = 0.0

    def setup(self) -> None:
        hidden = self.hidden_features or self.in_features
        self.fc1 = linear(self.in_features, hidden)
        self.dwconv = _DWConv(hidden)
        self.fc2 = linear(hidden, self.out_features or self.in_features)
        self.dropout1 = Dropout(self.drop)
        self.dropout2 = Dropout(self.drop)

    def __call__(self, x: Tokens, H: int, W: int, train: bool = False) -> Float[Array, "n l c2"]:
        x = self.fc1(x)
        x = self.dropout1(gelu(x + self.dwconv(x, H, W)), train)
        return self.dropout2(self.fc2(x), train)
