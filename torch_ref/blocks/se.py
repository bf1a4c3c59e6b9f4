"""Squeeze-and-Excitation Networks - Hu, Shen, Sun 2018, https://arxiv.org/abs/1709.01507"""

from torch import Tensor
from torch.nn import Linear, Module, ReLU, Sequential, Sigmoid
from torch.nn.functional import relu

from torch_ref.blocks.cifar_resnet import CifarBasicBlock
from torch_ref.blocks.resnet import BasicBlock, Bottleneck, require_plain


class SELayer(Module):
    def __init__(self, channel, reduction=16, bias=False):
        super().__init__()
        hidden = channel // reduction
        squeeze = Linear(channel, hidden, bias)
        excite = Linear(hidden, channel, bias)
        self.fc = Sequential(squeeze, ReLU(), excite, Sigmoid())

    def forward(self, x: Tensor, attention_weights=False) -> Tensor | tuple[Tensor, Tensor]:
        gate = self.fc(x.mean((2, 3)))[:, :, None, None]
        y = x * gate
        return (y, gate) if attention_weights else y


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

    def setup(self):
        super().setup()
        self.se = SELayer(self.planes, self.reduction)

    def gate(self, y: Tensor) -> Tensor:
        return self.se(y)
