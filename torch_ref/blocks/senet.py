"""Squeeze-and-Excitation Networks - Hu, Shen, Sun 2018, https://arxiv.org/abs/1709.01507"""

from torch import Tensor, nn
from torch.nn.functional import relu

from torch_ref.blocks.resnet import BasicBlock, _Residual, add_shortcut
from torch_ref.blocks.se import SELayer


class SEResNetBlock(BasicBlock):
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
        super().__init__(inplanes, planes, stride, downsample, groups, base_width, dilation, norm_layer)
        self.se = SELayer(planes, reduction, True)

    def forward(self, x: Tensor) -> Tensor:
        y = relu(self.bn1(self.conv1(x)))
        y = relu(self.bn2(self.conv2(y)))
        return relu(add_shortcut(self, self.se(y), x))


class _SEBottleneck(_Residual):
    expansion = 4

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
        super().__init__(downsample, norm_layer)
        self.inplanes, self.planes, self.stride, self.reduction = inplanes, planes, stride, reduction
        self.groups, self.base_width, self.dilation = groups, base_width, dilation
        self.setup()

    def check_width(self):
        if self.base_width != 64:
            raise ValueError(f"{type(self).__name__}: expected base_width 64, got {self.base_width}")

    def build(self, narrow, wide, first, second):
        planes, dilation = self.planes * self.expansion, self.dilation
        self.conv1 = nn.Conv2d(self.inplanes, narrow, 1, first, bias=False)
        self.bn1 = self.norm(narrow)
        self.conv2 = nn.Conv2d(narrow, wide, 3, second, dilation, dilation, self.groups, bias=False)
        self.bn2 = self.norm(wide)
        self.conv3 = nn.Conv2d(wide, planes, 1, bias=False)
        self.bn3 = self.norm(planes)
        self.se = SELayer(planes, self.reduction, True)

    def forward(self, x: Tensor) -> Tensor:
        y = relu(self.bn1(self.conv1(x)))
        y = relu(self.bn2(self.conv2(y)))
        y = self.se(self.bn3(self.conv3(y)))
        return relu(add_shortcut(self, y, x))


class SEResNetBottleneck(_SEBottleneck):
    def setup(self):
        self.check_width()
        self.build(self.planes, self.planes, self.stride, 1)


class SEResNeXtBottleneck(_SEBottleneck):
    def setup(self):
        width = int(self.planes * (self.base_width / 64)) * self.groups
        self.build(width, width, 1, self.stride)


class SENetBottleneck(_SEBottleneck):
    def setup(self):
        self.check_width()
        self.build(2 * self.planes, 4 * self.planes, 1, self.stride)
