"""Selective Kernel Networks - Li, Wang, Hu, Yang 2019, https://arxiv.org/abs/1903.06586

Status: implus/PytorchInsight. Its two branches are a plain and a grouped 3x3 convolution, unlike the paper's 3x3 and
5x5; the hidden layer of the selection is ``planes // 16`` wide, without the paper's lower limit of 32.
"""

from typing import ClassVar

from jaxtyping import Array, Float

from flax_attn.blocks.resnet import add_shortcut
from flax_attn.layers import BatchNorm2d, Conv2d, Module, relu, softmax


class SKBottleneck(Module):
    """A bottleneck whose middle is two convolutions, mixed channel by channel in shares computed from their mean.

    It is four times ``planes`` wide outside; 32 divides ``planes``, and ``downsample`` is the shortcut's module.
    """

    inplanes: int
    planes: int
    stride: int = 1
    downsample: Module | None = None

    expansion: ClassVar[int] = 4

    def setup(self) -> None:
        planes, width, hidden = self.planes, self.planes * self.expansion, self.planes // 16
        self.conv1 = Conv2d(self.inplanes, planes, 1, bias=False)
        self.bn1 = BatchNorm2d(planes)
        self.conv2 = Conv2d(planes, planes, 3, self.stride, 1, bias=False)
        self.bn2 = BatchNorm2d(planes)
        self.conv2g = Conv2d(planes, planes, 3, self.stride, 1, groups=32, bias=False)
        self.bn2g = BatchNorm2d(planes)
        self.conv3 = Conv2d(planes, width, 1, bias=False)
        self.bn3 = BatchNorm2d(width)
        self.conv_fc1 = Conv2d(planes, hidden, 1, bias=False)
        self.bn_fc1 = BatchNorm2d(hidden)
        self.conv_fc2 = Conv2d(hidden, 2 * planes, 1, bias=False)

    def __call__(self, x: Float[Array, "n h w c"], train: bool = False) -> Float[Array, "n h2 w2 c2"]:
        y = relu(self.bn1(self.conv1(x), train))
        a = relu(self.bn2(self.conv2(y), train))
        b = relu(self.bn2g(self.conv2g(y), train))
        hidden = relu(self.bn_fc1(self.conv_fc1((a + b).mean((1, 2), keepdims=True)), train))
        share = softmax(self.conv_fc2(hidden).reshape(x.shape[0], 1, 1, 2, -1), 3)
        y = self.bn3(self.conv3(a * share[..., 0, :] + b * share[..., 1, :]), train)
        return relu(add_shortcut(self, y, x, train))
