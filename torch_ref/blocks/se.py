"""Squeeze-and-Excitation Networks - Hu, Shen, Sun 2018, https://arxiv.org/abs/1709.01507"""

from torch import Tensor
from torch.nn import Conv2d, Linear, Module, ReLU, Sequential, Sigmoid
from torch.nn.functional import relu

from torch_ref.blocks.cifar_resnet import CifarBasicBlock
from torch_ref.blocks.resnet import BasicBlock, Bottleneck, require_plain


class _Gate(Module):
    def forward(self, x: Tensor, attention_weights=False) -> Tensor | tuple[Tensor, Tensor]:
        gate = self.gate(x)
        y = x * gate
        return (y, gate) if attention_weights else y


class SELayer(_Gate):
    def __init__(
        self,
        channel,
        reduction=16,
        bias=False,
        *,
        hidden=None,
        conv=False,
        norm_layer=None,
        activation=None,
        gate_layer=None,
    ):
        super().__init__()
        self.channel, self.bias, self.conv = channel, bias, conv
        hidden = channel // reduction if hidden is None else hidden
        norm = [norm_layer(hidden)] if norm_layer else []
        activation, gate = activation or ReLU, gate_layer or Sigmoid
        squeeze, excite = self.layer(channel, hidden), self.layer(hidden, channel)
        self.fc = Sequential(squeeze, *norm, activation(), excite, gate())

    def layer(self, inputs, outputs):
        return Conv2d(inputs, outputs, 1, bias=self.bias) if self.conv else Linear(inputs, outputs, self.bias)

    def gate(self, x: Tensor) -> Tensor:
        mean = x.mean((2, 3), keepdim=self.conv)
        return self.fc(mean).reshape(-1, self.channel, 1, 1)


class SqueezeExcitation(_Gate):
    def __init__(
        self,
        input_channels,
        squeeze_channels,
        activation=None,
        scale_activation=None,
        *,
        bias=True,
        norm_layer=None,
        norm_both=False,
    ):
        super().__init__()
        self.norm_layer, self.norm_both = norm_layer, norm_both
        self.fc1 = Conv2d(input_channels, squeeze_channels, 1, bias=bias)
        if norm_layer:
            setattr(self, "bn1" if norm_both else "bn", norm_layer(squeeze_channels))
        self.fc2 = Conv2d(squeeze_channels, input_channels, 1, bias=bias)
        if norm_layer and norm_both:
            self.bn2 = norm_layer(input_channels)
        self.act = (activation or ReLU)()
        self.scale = (scale_activation or Sigmoid)()

    def gate(self, x: Tensor) -> Tensor:
        y = self.fc1(x.mean((2, 3), keepdim=True))
        if self.norm_layer:
            y = (self.bn1 if self.norm_both else self.bn)(y)
        y = self.fc2(self.act(y))
        return self.scale(self.bn2(y) if self.norm_both else y)


class _SEGate(Module):
    bias = False

    def __init__(
        self,
        inplanes,
        planes,
        stride=1,
        downsample=None,
        groups=1,
        base_width=64,
        dilation=1,
        norm_layer=None,
        *,
        reduction=16,
    ):
        self.reduction = reduction
        super().__init__(
            inplanes,
            planes,
            stride,
            downsample=downsample,
            groups=groups,
            base_width=base_width,
            dilation=dilation,
            norm_layer=norm_layer,
        )

    def setup(self):
        super().setup()
        self.se = SELayer(self.planes * self.expansion, self.reduction, self.bias)

    def gate(self, y: Tensor) -> Tensor:
        return self.se(y)


class SEBasicBlock(_SEGate, BasicBlock):
    pass


class SEBottleneck(_SEGate, Bottleneck):
    def setup(self):
        require_plain(self)
        super().setup()


class InsightSEBasicBlock(_SEGate, BasicBlock):
    bias = True


class InsightSEBottleneck(_SEGate, Bottleneck):
    bias = True


class SEResNetBlock(_SEGate, BasicBlock):
    bias = True

    def gate(self, y: Tensor) -> Tensor:
        return super().gate(relu(y))


class SEResNetBottleneck(_SEGate, Bottleneck):
    bias = True

    def setup(self):
        if self.base_width != 64:
            raise ValueError(f"{type(self).__name__}: expected base_width 64, got {self.base_width}")
        super().setup()

    @property
    def widths(self):
        return self.planes, self.planes

    @property
    def strides(self):
        return self.stride, 1


class SEResNeXtBottleneck(_SEGate, Bottleneck):
    bias = True


class SENetBottleneck(SEResNetBottleneck):
    @property
    def widths(self):
        return 2 * self.planes, 4 * self.planes

    @property
    def strides(self):
        return 1, self.stride


class CifarSEBasicBlock(CifarBasicBlock):
    def __init__(self, inplanes, planes, stride=1, reduction=16):
        self.reduction = reduction
        super().__init__(inplanes, planes, stride)

    def setup_gate(self):
        self.se = SELayer(self.planes, self.reduction)

    def gate(self, y: Tensor) -> Tensor:
        return self.se(y)
