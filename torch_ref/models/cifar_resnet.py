"""Deep Residual Learning for Image Recognition - He, Zhang, Ren, Sun 2016, https://arxiv.org/abs/1512.03385"""

from itertools import pairwise

from torch import Tensor
from torch.nn import BatchNorm2d, Conv2d, Linear, Module, Sequential, init
from torch.nn.functional import relu

from torch_ref.blocks.cifar_resnet import CifarBasicBlock, CifarOptionABlock, PreActBasicBlock
from torch_ref.models.preprocess import cifar10


class CifarResNet(Module):
    block = CifarBasicBlock
    normalised = 16
    initialised = (Conv2d,)

    def __init__(self, n_size, num_classes=10):
        super().__init__()
        self.n_size = n_size
        self.conv1 = Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = BatchNorm2d(self.normalised)
        self.layer1 = self.stage(16, 16, 1)
        self.layer2 = self.stage(16, 32, 2)
        self.layer3 = self.stage(32, 64, 2)
        self.fc = Linear(64, num_classes)
        for m in self.modules():
            if isinstance(m, self.initialised):
                init.kaiming_normal_(m.weight)

    def stage(self, inplanes, planes, stride) -> Sequential:
        widths = pairwise([inplanes] + [planes] * self.n_size)
        return Sequential(*[self.make(a, b, stride if i == 0 else 1) for i, (a, b) in enumerate(widths)])

    def make(self, inplanes, planes, stride) -> Module:
        return self.block(inplanes, planes, stride)

    def forward(self, x: Tensor) -> Tensor:
        x = relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(x.mean((2, 3)))


class CifarPreActResNet(CifarResNet):
    block = PreActBasicBlock
    normalised = 64

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(relu(self.bn1(x)).mean((2, 3)))


class CifarOptionAResNet(CifarResNet):
    block = CifarOptionABlock
    initialised = (Conv2d, Linear)


preprocess = cifar10


def cifar_resnet20(num_classes=10) -> CifarResNet:
    return CifarResNet(3, num_classes)


def cifar_resnet32(num_classes=10) -> CifarResNet:
    return CifarResNet(5, num_classes)


def cifar_resnet44(num_classes=10) -> CifarResNet:
    return CifarResNet(7, num_classes)


def cifar_resnet56(num_classes=10) -> CifarResNet:
    return CifarResNet(9, num_classes)


def cifar_resnet110(num_classes=10) -> CifarResNet:
    return CifarResNet(18, num_classes)


def cifar_preact_resnet20(num_classes=10) -> CifarPreActResNet:
    return CifarPreActResNet(3, num_classes)


def cifar_preact_resnet110(num_classes=10) -> CifarPreActResNet:
    return CifarPreActResNet(18, num_classes)


def cifar_resnet20_option_a(num_classes=10) -> CifarOptionAResNet:
    return CifarOptionAResNet(3, num_classes)


def cifar_resnet32_option_a(num_classes=10) -> CifarOptionAResNet:
    return CifarOptionAResNet(5, num_classes)


def cifar_resnet44_option_a(num_classes=10) -> CifarOptionAResNet:
    return CifarOptionAResNet(7, num_classes)


def cifar_resnet56_option_a(num_classes=10) -> CifarOptionAResNet:
    return CifarOptionAResNet(9, num_classes)


def cifar_resnet110_option_a(num_classes=10) -> CifarOptionAResNet:
    return CifarOptionAResNet(18, num_classes)
