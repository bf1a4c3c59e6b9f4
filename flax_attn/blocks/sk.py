"""Selective Kernel Networks - Li, Wang, Hu, Yang 2019, https://arxiv.org/abs/1903.06586

Follows: implus/PytorchInsight. Its two branches are a plain and a grouped 3x3 convolution, where the paper has a 3x3
and a 5x5 one. The hidden layer of the selection has ``planes // 16`` units, without the paper's lower limit of 32.
"""

from collections.abc import Sequence
from typing import ClassVar

from jaxtyping import Array, Float

from flax_attn.blocks.resnet import Bottleneck, add_shortcut
from flax_attn.layers import Conv2d, relu, require, softmax
from flax_attn.shapes import Features, Image


class SKBottleneck(Bottleneck):
    """A Bottleneck with two 3x3 convolutions side by side, mixed channel by channel by a softmax over the two.

    The weights of the softmax are computed from the spatial mean of the sum of both. 32 divides ``planes``; ``groups``
    and ``base_width`` are refused other than 1 and 64.

    With ``attention_weights=True`` the call returns also the share of each convolution in each channel (n, 2, planes).
    """

    registered_last: ClassVar[Sequence[str]] = ("downsample", "conv_fc1", "bn_fc1", "conv_fc2")

    def __post_init__(self) -> None:
        super().__post_init__()
        got = (self.groups, self.base_width)
        require(got == (1, 64), f"SKBottleneck: expected groups, base_width = 1, 64, got {got[0]}, {got[1]}")

    def setup(self) -> None:
        planes, hidden, d = self.planes, self.planes // 16, self.dilation
        self.conv1 = Conv2d(self.inplanes, planes, 1, bias=False)
        self.bn1 = self.norm(planes)
        self.conv2 = Conv2d(planes, planes, 3, stride=self.stride, padding=d, dilation=d, bias=False)
        self.bn2 = self.norm(planes)
        self.conv2g = Conv2d(planes, planes, 3, stride=self.stride, padding=d, dilation=d, groups=32, bias=False)
        self.bn2g = self.norm(planes)
        self.conv3 = Conv2d(planes, planes * self.expansion, 1, bias=False)
        self.bn3 = self.norm(planes * self.expansion)
        self.conv_fc1 = Conv2d(planes, hidden, 1, bias=False)
        self.bn_fc1 = self.norm(hidden)
        self.conv_fc2 = Conv2d(hidden, 2 * planes, 1, bias=False)

    def select(self, x: Image, train: bool) -> tuple[Features, Float[Array, "n 2 p"]]:
        """The mix of both 3x3 convolutions, and the share of each in it."""
        y = relu(self.bn1(self.conv1(x), train))
        a = relu(self.bn2(self.conv2(y), train))
        b = relu(self.bn2g(self.conv2g(y), train))
        hidden = relu(self.bn_fc1(self.conv_fc1((a + b).mean((1, 2), keepdims=True)), train))
        share = softmax(self.conv_fc2(hidden).reshape(x.shape[0], 1, 1, 2, a.shape[-1]), 3)
        return a * share[..., 0, :] + b * share[..., 1, :], share[:, 0, 0]

    def __call__(  # type: ignore[override]
        self, x: Image, train: bool = False, attention_weights: bool = False
    ) -> Features | tuple[Features, Float[Array, "n 2 p"]]:
        y, share = self.select(x, train)
        y = relu(add_shortcut(self, self.bn3(self.conv3(y), train), x, train))
        return (y, share) if attention_weights else y
