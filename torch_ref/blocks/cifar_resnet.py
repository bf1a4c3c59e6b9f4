"""Deep Residual Learning for Image Recognition - He, Zhang, Ren, Sun 2016, https://arxiv.org/abs/1512.03385"""

from torch import Tensor
from torch.nn import BatchNorm2d, Conv2d, Module, Sequential
from torch.nn.functional import pad, relu

from torch_ref.blocks.resnet import downsample


class OptionA(Module):
    def __init__(self, planes):
        super().__init__()
        self.planes = planes

    def forward(self, x: Tensor) -> Tensor:
        side = self.planes // 4
        return pad(x[:, :, ::2, ::2], (0, 0, 0, 0, side, side))


class CifarBasicBlock(Module):
    def __init__(self, inplanes, planes, stride=1):
        super().__init__()
        if stride != 1 and inplanes == planes:
            got = f"stride {stride} and {planes} planes"
            raise ValueError(f"{type(self).__name__}: expected stride 1 where inplanes == planes, got {got}")
        self.inplanes, self.planes, self.stride = inplanes, planes, stride
        self.setup()

    @property
    def first_norm(self):
        return self.planes

    def setup(self):
        self.conv1 = Conv2d(self.inplanes, self.planes, 3, stride=self.stride, padding=1, bias=False)
        self.bn1 = BatchNorm2d(self.first_norm)
        self.conv2 = Conv2d(self.planes, self.planes, 3, padding=1, bias=False)
        self.bn2 = BatchNorm2d(self.planes)
        self.setup_gate()
        self.downsample = Sequential() if self.inplanes == self.planes else self.shortcut()

    def setup_gate(self):
        pass

    def shortcut(self) -> Module:
        return downsample(self.inplanes, self.planes, self.stride)

    def gate(self, y: Tensor) -> Tensor:
        return y

    def forward(self, x: Tensor) -> Tensor:
        y = relu(self.bn1(self.conv1(x)))
        y = self.gate(self.bn2(self.conv2(y)))
        return relu(y + self.downsample(x))


class PreActBasicBlock(CifarBasicBlock):
    @property
    def first_norm(self):
        return self.inplanes

    def shortcut(self) -> Module:
        return Sequential(Conv2d(self.inplanes, self.planes, 1, stride=self.stride, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(relu(self.bn1(x)))
        y = self.conv2(relu(self.bn2(y)))
        return y + self.downsample(x)


class CifarOptionABlock(CifarBasicBlock):
    def shortcut(self) -> Module:
        return OptionA(self.planes)
