"""Deep Residual Learning for Image Recognition - He, Zhang, Ren, Sun 2016, https://arxiv.org/abs/1512.03385"""

from itertools import pairwise

from torch import Tensor
from torch.nn import BatchNorm2d, Conv2d, Linear, Module, Sequential, init
from torch.nn.functional import relu

from torch_ref.blocks.cifar_resnet import CifarBasicBlock, CifarOptionABlock, PreActBasicBlock
from torch_ref.constructor import constructor
from torch_ref.models.preprocess import cifar10, normalize


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


@constructor(CifarResNet, preprocess, n_size=3)
def cifar_resnet20(): ...


@constructor(CifarResNet, preprocess, n_size=5)
def cifar_resnet32(): ...


@constructor(CifarResNet, preprocess, n_size=7)
def cifar_resnet44(): ...


@constructor(CifarResNet, preprocess, n_size=9)
def cifar_resnet56(): ...


@constructor(CifarResNet, preprocess, n_size=18)
def cifar_resnet110(): ...


@constructor(CifarPreActResNet, preprocess, n_size=3)
def cifar_preact_resnet20(): ...


@constructor(CifarPreActResNet, preprocess, n_size=18)
def cifar_preact_resnet110(): ...


@constructor(CifarOptionAResNet, normalize, n_size=3)
def cifar_resnet20_option_a(): ...


@constructor(CifarOptionAResNet, normalize, n_size=5)
def cifar_resnet32_option_a(): ...


@constructor(CifarOptionAResNet, normalize, n_size=7)
def cifar_resnet44_option_a(): ...


@constructor(CifarOptionAResNet, normalize, n_size=9)
def cifar_resnet56_option_a(): ...


@constructor(CifarOptionAResNet, normalize, n_size=18)
def cifar_resnet110_option_a(): ...
