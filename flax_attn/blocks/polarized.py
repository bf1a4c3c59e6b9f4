"""Polarized Self-Attention - Liu, Liu, Fan, Zhou 2021, https://arxiv.org/abs/2107.00782

Follows: two published codes that share neither keys nor arithmetic. ``ParallelPolarizedSelfAttention`` and
``SequentialPolarizedSelfAttention`` are External-Attention-pytorch's. ``PSA_p`` and ``PSA_s`` are those of
DeLightCMU/PSA, the authors' code; their spatial gate has its softmax over positions, after the matrix product in
``PSA_p`` and before it in ``PSA_s``, and none on the pooled query. The paper has it on the pooled query.
Differs: ``kernel_size`` of ``PSA_p`` and ``PSA_s`` is ignored, as upstream; a stride, and ``inplanes`` other than
``planes``, fail upstream when the block is called, and are refused here.
"""

from typing import ClassVar

from flax_attn.layers import Conv2d, LayerNorm, Module, Sequential, einsum, init, relu, require, sigmoid, softmax
from flax_attn.shapes import ChannelMap, Image, PixelMap

Gated = Image | tuple[Image, ChannelMap, PixelMap]


class _PolarizedSelfAttention(Module):
    channel: int = 512

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.channel >= 2, f"{type(self).__name__}: expected channel >= 2, got {self.channel}")

    def setup(self) -> None:
        channel, half = self.channel, self.channel // 2
        self.ch_wv = Conv2d(channel, half, 1)
        self.ch_wq = Conv2d(channel, 1, 1)
        self.ch_wz = Conv2d(half, channel, 1)
        self.ln = LayerNorm(channel)
        self.sp_wv = Conv2d(channel, half, 1)
        self.sp_wq = Conv2d(channel, half, 1)

    def channel_gate(self, x: Image) -> ChannelMap:
        value = self.ch_wv(x)
        query = softmax(self.ch_wq(x), (1, 2))
        context = einsum("nhwc,nhwi->nic", value, query)[:, None]
        return sigmoid(self.ln(self.ch_wz(context)))

    def spatial_gate(self, x: Image) -> PixelMap:
        value = self.sp_wv(x)
        query = softmax(self.sp_wq(x).mean((1, 2)))
        return sigmoid(einsum("nhwc,nc->nhw", value, query))[..., None]


class ParallelPolarizedSelfAttention(_PolarizedSelfAttention):
    """The sum of x times its channel gate and x times its spatial gate.

    With ``attention_weights=True`` the call returns also the gates: of the channels (n, 1, 1, c) and of the pixels
    (n, h, w, 1).
    """

    def __call__(self, x: Image, train: bool = False, attention_weights: bool = False) -> Gated:
        x = self.cast(x)
        spatial, channel = self.spatial_gate(x), self.channel_gate(x)
        y = spatial * x + channel * x
        return (y, channel, spatial) if attention_weights else y


class SequentialPolarizedSelfAttention(_PolarizedSelfAttention):
    """x times its channel gate, then the result times the spatial gate of the result.

    With ``attention_weights=True`` the call returns also the gates: of the channels (n, 1, 1, c) and of the pixels
    (n, h, w, 1).
    """

    def __call__(self, x: Image, train: bool = False, attention_weights: bool = False) -> Gated:
        x = self.cast(x)
        channel = self.channel_gate(x)
        x = channel * x
        spatial = self.spatial_gate(x)
        y = spatial * x
        return (y, channel, spatial) if attention_weights else y


class _PSA(Module):
    inplanes: int
    planes: int
    kernel_size: int = 1
    stride: int = 1

    smallest: ClassVar[int]

    def __post_init__(self) -> None:
        super().__post_init__()
        who, smallest = type(self).__name__, self.smallest
        require(self.planes >= smallest, f"{who}: expected planes >= {smallest}, got {self.planes}")
        require(self.inplanes == self.planes, f"{who}: expected inplanes == planes, got {self.inplanes}, {self.planes}")
        require(self.stride == 1, f"{who}: expected stride 1, got {self.stride}")

    def setup(self) -> None:
        inner = self.planes // 2
        self.conv_q_right = self.project(1)
        self.conv_v_right = self.project(inner)
        self.conv_up = self.up(inner)
        self.conv_q_left = self.project(inner)
        self.conv_v_left = self.project(inner)

    def project(self, planes: int) -> Conv2d:
        return Conv2d(self.inplanes, planes, 1, bias=False, kernel_init=init.kaiming_normal())

    def channel_gate(self, x: Image) -> ChannelMap:
        """Upstream's ``spatial_pool``, without the product with x."""
        mask = softmax(self.conv_q_right(x), (1, 2))
        context = einsum("nhwc,nhwi->nic", self.conv_v_right(x), mask)[:, None]
        return sigmoid(self.conv_up(context))


class PSA_p(_PSA):
    """The sum of x times its channel gate and x times its spatial gate; ``kernel_size`` is ignored.

    With ``attention_weights=True`` the call returns also the gates: of the channels (n, 1, 1, c) and of the pixels
    (n, h, w, 1).
    """

    smallest = 2

    def up(self, inner: int) -> Conv2d:
        return Conv2d(inner, self.planes, 1, bias=False)

    def spatial_gate(self, x: Image) -> PixelMap:
        """Upstream's ``channel_pool``, without the product with x."""
        query = self.conv_q_left(x).mean((1, 2))
        context = softmax(einsum("nc,nhwc->nhw", query, self.conv_v_left(x), wide=True), (1, 2))
        return sigmoid(context).astype(x.dtype)[..., None]

    def __call__(self, x: Image, train: bool = False, attention_weights: bool = False) -> Gated:
        x = self.cast(x)
        spatial, channel = self.spatial_gate(x), self.channel_gate(x)
        y = x * spatial + x * channel
        return (y, channel, spatial) if attention_weights else y


class PSA_s(_PSA):
    """x times its channel gate, then the result times its own spatial gate; ``kernel_size`` is ignored.

    With ``attention_weights=True`` the call returns also the gates: of the channels (n, 1, 1, c) and of the pixels
    (n, h, w, 1).
    """

    smallest = 8

    def up(self, inner: int) -> Sequential:
        hidden = inner // 4
        return Sequential([Conv2d(inner, hidden, 1), LayerNorm((hidden, 1, 1)), relu, Conv2d(hidden, self.planes, 1)])

    def spatial_gate(self, x: Image) -> PixelMap:
        """Upstream's ``channel_pool``, without the product with x."""
        query = self.conv_q_left(x).mean((1, 2))
        context = einsum("nc,nhwc->nhw", query, softmax(self.conv_v_left(x), (1, 2)))
        return sigmoid(context)[..., None]

    def __call__(self, x: Image, train: bool = False, attention_weights: bool = False) -> Gated:
        x = self.cast(x)
        channel = self.channel_gate(x)
        x = x * channel
        spatial = self.spatial_gate(x)
        y = x * spatial
        return (y, channel, spatial) if attention_weights else y
