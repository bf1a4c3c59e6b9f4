"""Deep Residual Learning for Image Recognition - He, Zhang, Ren, Sun 2016, https://arxiv.org/abs/1512.03385

Follows: moskomule/senet.pytorch for ``CifarBasicBlock`` and ``PreActBasicBlock`` (https://arxiv.org/abs/1603.05027): a
block makes its own shortcut, and projects only where the number of channels changes;
akamaster/pytorch_resnet_cifar10 for ``OptionA`` and ``CifarOptionABlock``.
Differs: a stride without a change of channels fails upstream when the block is called; here construction refuses it.
"""

import jax.numpy as jnp

from flax_attn.blocks.resnet import downsample
from flax_attn.layers import BatchNorm2d, Conv2d, Module, Sequential, relu, require
from flax_attn.shapes import Features, Image


class OptionA(Module):
    """The shortcut without parameters: every second pixel of x, between zeros in ``planes // 4`` channels each side."""

    planes: int

    def __call__(self, x: Image, train: bool = False) -> Features:
        side = self.planes // 4
        self.check_channels(x, self.planes - 2 * side, [4])
        return jnp.pad(self.cast(x)[:, ::2, ::2], ((0, 0), (0, 0), (0, 0), (side, side)))


class CifarBasicBlock(Module):
    """Two 3x3 convolutions on a residual branch; the shortcut is a projection where ``inplanes != planes``."""

    inplanes: int
    planes: int
    stride: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        fits = self.stride == 1 or self.inplanes != self.planes
        got = f"stride {self.stride} and {self.planes} planes"
        require(fits, f"{type(self).__name__}: expected stride 1 where inplanes == planes, got {got}")

    @property
    def first_norm(self) -> int:
        """Channels of ``bn1``, which comes behind ``conv1``."""
        return self.planes

    def setup(self) -> None:
        self.conv1 = Conv2d(self.inplanes, self.planes, 3, stride=self.stride, padding=1, bias=False)
        self.bn1 = BatchNorm2d(self.first_norm)
        self.conv2 = Conv2d(self.planes, self.planes, 3, padding=1, bias=False)
        self.bn2 = BatchNorm2d(self.planes)
        self.setup_gate()
        self.downsample = Sequential([]) if self.inplanes == self.planes else self.shortcut()

    def setup_gate(self) -> None:
        """Create the layers of ``gate``; there are none here."""

    def shortcut(self) -> Module:
        return downsample(self.inplanes, self.planes, self.stride)

    def gate(self, y: Features, train: bool) -> Features:
        """The residual branch ends here, in front of the shortcut: attention of other papers scales y."""
        return y

    def __call__(self, x: Image, train: bool = False) -> Features:
        x = self.cast(x)
        y = relu(self.bn1(self.conv1(x), train))
        y = self.gate(self.bn2(self.conv2(y), train), train)
        return relu(y + self.downsample(x, train))


class PreActBasicBlock(CifarBasicBlock):
    """A ``CifarBasicBlock`` with BatchNorm and ReLU in front of each convolution; its projection has no BatchNorm."""

    @property
    def first_norm(self) -> int:
        return self.inplanes

    def shortcut(self) -> Module:
        return Sequential([Conv2d(self.inplanes, self.planes, 1, stride=self.stride, bias=False)])

    def __call__(self, x: Image, train: bool = False) -> Features:
        x = self.cast(x)
        y = self.conv1(relu(self.bn1(x, train)))
        y = self.conv2(relu(self.bn2(y, train)))
        return y + self.downsample(x, train)


class CifarOptionABlock(CifarBasicBlock):
    """A ``CifarBasicBlock`` whose shortcut is ``OptionA`` where ``inplanes != planes``."""

    def shortcut(self) -> Module:
        return OptionA(self.planes)
