"""Squeeze-and-Excitation Networks - Hu, Shen, Sun 2018, https://arxiv.org/abs/1709.01507"""

from torch import Tensor, nn
from torch.nn.functional import relu

from torch_ref.blocks.resnet import BasicBlock, Bottleneck, CifarBasicBlock, add_shortcut


class SELayer(nn.Module):
    def __init__(self, channel, reduction=16, bias=False):
        super().__init__()
        hidden = channel // reduction
        squeeze = nn.Linear(channel, hidden, bias)
        excite = nn.Linear(hidden, channel, bias)
        self.fc = nn.Sequential(squeeze, nn.ReLU(), excite, nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        gate = self.fc(x.mean((2, 3)))
        return x * gate[:, :, None, None]


class _SEBlock(nn.Module):
    def __init__(self, groups, base_width, dilation):
        super().__init__()
        plain = (groups, base_width, dilation) == (1, 64, 1)
        got = f"{groups}, {base_width}, {dilation}"
        if not plain:
            raise ValueError(f"{type(self).__name__}: expected groups, base_width, dilation = 1, 64, 1, got {got}")


class SEBasicBlock(_SEBlock):
    expansion = 1

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
        super().__init__(groups, base_width, dilation)
        self.conv1 = nn.Conv2d(inplanes, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.se = SELayer(planes, reduction)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        y = relu(self.bn1(self.conv1(x)))
        y = self.se(self.bn2(self.conv2(y)))
        return relu(add_shortcut(self, y, x))


class SEBottleneck(_SEBlock):
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
        super().__init__(groups, base_width, dilation)
        width = planes * self.expansion
        self.conv1 = nn.Conv2d(inplanes, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.se = SELayer(width, reduction)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        y = relu(self.bn1(self.conv1(x)))
        y = relu(self.bn2(self.conv2(y)))
        y = self.se(self.bn3(self.conv3(y)))
        return relu(add_shortcut(self, y, x))


class InsightSEBasicBlock(BasicBlock):
    def __init__(
        self, inplanes, planes, stride=1, downsample=None, groups=1, base_width=64, dilation=1, norm_layer=None
    ):
        super().__init__(inplanes, planes, stride, downsample, groups, base_width, dilation, norm_layer)
        self.se = SELayer(planes * self.expansion, bias=True)

    def residual(self, x: Tensor) -> Tensor:
        return self.se(super().residual(x))


class InsightSEBottleneck(Bottleneck):
    def __init__(
        self, inplanes, planes, stride=1, downsample=None, groups=1, base_width=64, dilation=1, norm_layer=None
    ):
        super().__init__(inplanes, planes, stride, downsample, groups, base_width, dilation, norm_layer)
        self.se = SELayer(planes * self.expansion, bias=True)

    def residual(self, x: Tensor) -> Tensor:
        return self.se(super().residual(x))


class CifarSEBasicBlock(CifarBasicBlock):
    def __init__(self, inplanes, planes, stride=1, reduction=16):
        super().__init__(inplanes, planes, stride)
        self.se = SELayer(planes, reduction)

    def forward(self, x: Tensor) -> Tensor:
        y = relu(self.bn1(self.conv1(x)))
        y = self.se(self.bn2(self.conv2(y)))
        return relu(y + self.downsample(x))
