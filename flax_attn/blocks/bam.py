"""BAM: Bottleneck Attention Module - Park, Woo, Lee, Kweon 2018, https://arxiv.org/abs/1807.06514

Follows: implus/PytorchInsight, the authors' code. The sigmoid is applied to the product of the two gates; the paper has
their sum.
Differs: the channel gate of that code averages a square of side h, the height of x, so it takes square images only;
here it is the mean over all pixels, which is the same number on a square image.
"""

from jaxtyping import Array, Float

from flax_attn.layers import BatchNorm1d, BatchNorm2d, Conv2d, Linear, Module, relu, require, sigmoid
from flax_attn.shapes import ChannelMap, Image, PixelMap


class _GateC(Module):
    gate_channel: int
    hidden: int

    def setup(self) -> None:
        self.gate_c_fc_0 = Linear(self.gate_channel, self.hidden)
        self.gate_c_bn_1 = BatchNorm1d(self.hidden)
        self.gate_c_fc_final = Linear(self.hidden, self.gate_channel)

    def __call__(self, x: Float[Array, "n c"], train: bool = False) -> Float[Array, "n c"]:
        return self.gate_c_fc_final(relu(self.gate_c_bn_1(self.gate_c_fc_0(x), train)))


class _ChannelGate(Module):
    gate_channel: int
    hidden: int

    def setup(self) -> None:
        self.gate_c = _GateC(self.gate_channel, self.hidden)

    def __call__(self, x: Image, train: bool = False) -> ChannelMap:
        return self.gate_c(x.mean((1, 2)), train)[:, None, None, :]


class _GateS(Module):
    gate_channel: int
    hidden: int
    dilation_val: int

    def setup(self) -> None:
        hidden, d = self.hidden, self.dilation_val
        self.gate_s_conv_reduce0 = Conv2d(self.gate_channel, hidden, 1)
        self.gate_s_bn_reduce0 = BatchNorm2d(hidden)
        self.gate_s_conv_di_0 = Conv2d(hidden, hidden, 3, padding=d, dilation=d)
        self.gate_s_bn_di_0 = BatchNorm2d(hidden)
        self.gate_s_conv_di_1 = Conv2d(hidden, hidden, 3, padding=d, dilation=d)
        self.gate_s_bn_di_1 = BatchNorm2d(hidden)
        self.gate_s_conv_final = Conv2d(hidden, 1, 1)

    def __call__(self, x: Image, train: bool = False) -> PixelMap:
        y = relu(self.gate_s_bn_reduce0(self.gate_s_conv_reduce0(x), train))
        y = relu(self.gate_s_bn_di_0(self.gate_s_conv_di_0(y), train))
        y = relu(self.gate_s_bn_di_1(self.gate_s_conv_di_1(y), train))
        return self.gate_s_conv_final(y)


class _SpatialGate(Module):
    gate_channel: int
    hidden: int
    dilation_val: int

    def setup(self) -> None:
        self.gate_s = _GateS(self.gate_channel, self.hidden, self.dilation_val)

    def __call__(self, x: Image, train: bool = False) -> PixelMap:
        return self.gate_s(x, train)


class BAM(Module):
    """Scale x by 1 + sigmoid(c * s): c is one number for each channel, s one number for each pixel.

    Args:
        reduction_ratio: the networks that compute c and s have ``gate_channel // reduction_ratio`` hidden channels.
        dilation_val: the dilation of the two 3x3 convolutions that compute s.

    With ``attention_weights=True`` the call returns also the gate sigmoid(c * s), (n, h, w, c).
    """

    gate_channel: int
    reduction_ratio: int = 16
    dilation_val: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        fits = 1 <= self.reduction_ratio <= self.gate_channel
        got = f"{self.reduction_ratio}, {self.gate_channel}"
        require(fits, f"BAM: expected 1 <= reduction_ratio <= gate_channel, got {got}")

    def setup(self) -> None:
        hidden = self.gate_channel // self.reduction_ratio
        self.channel_att = _ChannelGate(self.gate_channel, hidden)
        self.spatial_att = _SpatialGate(self.gate_channel, hidden, self.dilation_val)

    def __call__(self, x: Image, attention_weights: bool = False, train: bool = False) -> Image | tuple[Image, Image]:
        x = self.cast(x)
        gate = sigmoid(self.channel_att(x, train) * self.spatial_att(x, train))
        y = (1 + gate) * x
        return (y, gate) if attention_weights else y
