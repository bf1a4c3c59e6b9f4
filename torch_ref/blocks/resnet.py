"""Deep Residual Learning for Image Recognition - He, Zhang, Ren, Sun 2016, https://arxiv.org/abs/1512.03385"""

from torch import Tensor
from torch.nn import BatchNorm2d, Conv2d, Module, Sequential
from torch.nn.functional import relu


def downsample(inplanes, planes, stride=1, norm_layer=BatchNorm2d) -> Sequential:
    return Sequential(Conv2d(inplanes, planes, 1, stride=stride, bias=False), norm_layer(planes))


def stage(blocks, inplanes, outplanes, stride=1, shortcut=downsample) -> Sequential:
    made = []
    for block in blocks:
        projects = stride != 1 or inplanes != outplanes
        projection = shortcut(inplanes, outplanes, stride) if projects else None
        made.append(block(inplanes, stride=stride, downsample=projection))
        inplanes, stride = outplanes, 1
    return Sequential(*made)


def add_shortcut(block, y: Tensor, x: Tensor) -> Tensor:
    shortcut = x if block.downsample is None else block.downsample(x)
    return y + shortcut


def require_plain(block) -> None:
    got = (block.groups, block.base_width, block.dilation)
    expected = f"{type(block).__name__}: expected groups, base_width, dilation = 1, 64, 1"
    if got != (1, 64, 1):
        raise ValueError(f"{expected}, got {', '.join(map(str, got))}")


class _Residual(Module):
    def __init__(
        self, inplanes, planes, stride=1, downsample=None, groups=1, base_width=64, dilation=1, norm_layer=None
    ):
        super().__init__()
        self.inplanes, self.planes, self.stride = inplanes, planes, stride
        self.groups, self.base_width, self.dilation = groups, base_width, dilation
        self.norm = norm_layer or BatchNorm2d
        self.setup()
        self.downsample = downsample
        self.setup_last()

    def setup_last(self):
        pass

    def residual(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def gate(self, y: Tensor) -> Tensor:
        return y

    def forward(self, x: Tensor) -> Tensor:
        y = self.gate(self.residual(x))
        return relu(add_shortcut(self, y, x))


class BasicBlock(_Residual):
    expansion = 1

    def setup(self):
        require_plain(self)
        self.conv1 = Conv2d(self.inplanes, self.planes, 3, stride=self.stride, padding=1, bias=False)
        self.bn1 = self.norm(self.planes)
        self.conv2 = Conv2d(self.planes, self.planes, 3, padding=1, bias=False)
        self.bn2 = self.norm(self.planes)

    def residual(self, x: Tensor) -> Tensor:
        y = relu(self.bn1(self.conv1(x)))
        return self.bn2(self.conv2(y))


class Bottleneck(_Residual):
    expansion = 4

    @property
    def widths(self):
        width = int(self.planes * (self.base_width / 64)) * self.groups
        return width, width

    @property
    def strides(self):
        return 1, self.stride

    def setup(self):
        (narrow, wide), (first, second) = self.widths, self.strides
        planes, d = self.planes * self.expansion, self.dilation
        self.conv1 = Conv2d(self.inplanes, narrow, 1, stride=first, bias=False)
        self.bn1 = self.norm(narrow)
        self.conv2 = Conv2d(narrow, wide, 3, stride=second, padding=d, dilation=d, groups=self.groups, bias=False)
        self.bn2 = self.norm(wide)
        self.conv3 = Conv2d(wide, planes, 1, bias=False)
        self.bn3 = self.norm(planes)

    def residual(self, x: Tensor) -> Tensor:
        y = relu(self.bn1(self.conv1(x)))
        y = relu(self.bn2(self.conv2(y)))
        return self.bn3(self.conv3(y))
