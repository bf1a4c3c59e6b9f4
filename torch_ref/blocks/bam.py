"""BAM: Bottleneck Attention Module - Park, Woo, Lee, Kweon 2018, https://arxiv.org/abs/1807.06514"""

from torch import Tensor, sigmoid
from torch.nn import BatchNorm1d, BatchNorm2d, Conv2d, Linear, Module
from torch.nn.functional import relu


class _GateC(Module):
    def __init__(self, gate_channel, hidden):
        super().__init__()
        self.gate_c_fc_0 = Linear(gate_channel, hidden)
        self.gate_c_bn_1 = BatchNorm1d(hidden)
        self.gate_c_fc_final = Linear(hidden, gate_channel)

    def forward(self, x: Tensor) -> Tensor:
        return self.gate_c_fc_final(relu(self.gate_c_bn_1(self.gate_c_fc_0(x))))


class _ChannelGate(Module):
    def __init__(self, gate_channel, hidden):
        super().__init__()
        self.gate_c = _GateC(gate_channel, hidden)

    def forward(self, x: Tensor) -> Tensor:
        return self.gate_c(x.mean((2, 3)))[..., None, None]


class _GateS(Module):
    def __init__(self, gate_channel, hidden, dilation_val):
        super().__init__()
        d = dilation_val
        self.gate_s_conv_reduce0 = Conv2d(gate_channel, hidden, 1)
        self.gate_s_bn_reduce0 = BatchNorm2d(hidden)
        self.gate_s_conv_di_0 = Conv2d(hidden, hidden, 3, padding=d, dilation=d)
        self.gate_s_bn_di_0 = BatchNorm2d(hidden)
        self.gate_s_conv_di_1 = Conv2d(hidden, hidden, 3, padding=d, dilation=d)
        self.gate_s_bn_di_1 = BatchNorm2d(hidden)
        self.gate_s_conv_final = Conv2d(hidden, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = relu(self.gate_s_bn_reduce0(self.gate_s_conv_reduce0(x)))
        y = relu(self.gate_s_bn_di_0(self.gate_s_conv_di_0(y)))
        y = relu(self.gate_s_bn_di_1(self.gate_s_conv_di_1(y)))
        return self.gate_s_conv_final(y)


class _SpatialGate(Module):
    def __init__(self, gate_channel, hidden, dilation_val):
        super().__init__()
        self.gate_s = _GateS(gate_channel, hidden, dilation_val)

    def forward(self, x: Tensor) -> Tensor:
        return self.gate_s(x)


class BAM(Module):
    def __init__(self, gate_channel, reduction_ratio=16, dilation_val=4):
        super().__init__()
        if not 1 <= reduction_ratio <= gate_channel:
            got = f"{reduction_ratio}, {gate_channel}"
            raise ValueError(f"BAM: expected 1 <= reduction_ratio <= gate_channel, got {got}")
        hidden = gate_channel // reduction_ratio
        self.channel_att = _ChannelGate(gate_channel, hidden)
        self.spatial_att = _SpatialGate(gate_channel, hidden, dilation_val)

    def forward(self, x: Tensor, attention_weights=False) -> Tensor | tuple[Tensor, Tensor]:
        gate = sigmoid(self.channel_att(x) * self.spatial_att(x))
        y = (1 + gate) * x
        return (y, gate) if attention_weights else y
