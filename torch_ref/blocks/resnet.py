"""Deep Residual Learning for Image Recognition - He, Zhang, Ren, Sun 2016, https://arxiv.org/abs/1512.03385"""

from torch import Tensor, nn
from torch.nn.functional import pad, relu


def downsample(inplanes: int, planes: int, stride: int = 1, norm_layer=nn.BatchNorm2d) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inplanes, planes, 1, stride, bias=False), norm_layer(planes))


def add_shortcut(block, y: Tensor, x: Tensor) -> Tensor:
    return y + (x if block.downsample is None else block.downsample(x))


class OptionA(nn.Module):
    def __init__(self, planes):
        super().__init__()
        self.planes = planes

    def forward(self, x: Tensor) -> Tensor:
        side = self.planes // 4
        return pad(x[:, :, ::2, ::2], (0, 0, 0, 0, side, side))


class _Residual(nn.Module):
    def __init__(self, downsample, norm_layer):
        super().__init__()
        self.downsample = downsample
        self.norm = norm_layer or nn.BatchNorm2d

    def residual(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return relu(add_shortcut(self, self.residual(x), x))


class BasicBlock(_Residual):
    expansion = 1

    def __init__(
        self, inplanes, planes, stride=1, downsample=None, groups=1, base_width=64, dilation=1, norm_layer=None
    ):
        super().__init__(downsample, norm_layer)
        if (groups, base_width, dilation) != (1, 64, 1):
            got = f"{groups}, {base_width}, {dilation}"
            raise ValueError(f"BasicBlock: expected groups, base_width, dilation = 1, 64, 1, got {got}")
        self.conv1 = nn.Conv2d(inplanes, planes, 3, stride, 1, bias=False)
        self.bn1 = self.norm(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = self.norm(planes)

    def residual(self, x: Tensor) -> Tensor:
        y = relu(self.bn1(self.conv1(x)))
        return self.bn2(self.conv2(y))


class Bottleneck(_Residual):
    expansion = 4

    def __init__(
        self, inplanes, planes, stride=1, downsample=None, groups=1, base_width=64, dilation=1, norm_layer=None
    ):
        super().__init__(downsample, norm_layer)
        width = int(planes * (base_width / 64)) * groups
        planes = planes * self.expansion
        self.conv1 = nn.Conv2d(inplanes, width, 1, bias=False)
        self.bn1 = self.norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, dilation, dilation, groups, bias=False)
        self.bn2 = self.norm(width)
        self.conv3 = nn.Conv2d(width, planes, 1, bias=False)
        self.bn3 = self.norm(planes)

    def residual(self, x: Tensor) -> Tensor:
        y = relu(self.bn1(self.conv1(x)))
        y = relu(self.bn2(self.conv2(y)))
        return self.bn3(self.conv3(y))


class CifarBasicBlock(nn.Module):
    def __init__(self, inplanes, planes, stride=1):
        super().__init__()
        if stride != 1 and inplanes == planes:
            got = f"stride {stride} and {planes} planes"
            raise ValueError(f"{type(self).__name__}: expected stride 1 where inplanes == planes, got {got}")
        self.conv1 = nn.Conv2d(inplanes, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = nn.Sequential() if inplanes == planes else self.shortcut(inplanes, planes, stride)

    def shortcut(self, inplanes, planes, stride):
        return downsample(inplanes, planes, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return relu(y + self.downsample(x))


class PreActBasicBlock(CifarBasicBlock):
    def __init__(self, inplanes, planes, stride=1):
        super().__init__(inplanes, planes, stride)
        self.bn1 = nn.BatchNorm2d(inplanes)
        if inplanes != planes:
            self.downsample = nn.Sequential(nn.Conv2d(inplanes, planes, 1, stride, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(relu(self.bn1(x)))
        y = self.conv2(relu(self.bn2(y)))
        return y + self.downsample(x)


class CifarOptionABlock(CifarBasicBlock):
    def shortcut(self, inplanes, planes, stride):
        return OptionA(planes)
