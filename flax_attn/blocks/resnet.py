"""Deep Residual Learning for Image Recognition - He, Zhang, Ren, Sun 2016, https://arxiv.org/abs/1512.03385

Follows: pytorch/vision. A block is given its shortcut as a module, and a bottleneck strides in its 3x3 convolution.
Differs: a residual branch may end in a gate (see ``gate``), which the blocks of other papers define.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from flax_attn.layers import BatchNorm2d, Conv2d, Module, Sequential, relu, require
from flax_attn.shapes import Features, Image

Norm = Callable[[int], Module]


def downsample(inplanes: int, planes: int, stride: int = 1, norm_layer: Norm = BatchNorm2d) -> Sequential:
    """The projection shortcut: a 1x1 convolution and a normalisation."""
    return Sequential([Conv2d(inplanes, planes, 1, stride=stride, bias=False), norm_layer(planes)])


def stage(
    blocks: Sequence[Callable[..., Module]],
    inplanes: int,
    outplanes: int,
    stride: int = 1,
    shortcut: Callable[[int, int, int], Module] = downsample,
) -> Sequential:
    """The blocks of one stage. The first block strides, and projects its shortcut where size or channels change.

    Args:
        blocks: for each block its class, with all arguments given but ``inplanes``, ``stride`` and ``downsample``.
        inplanes, outplanes: channels before the stage, and behind each of its blocks.
        shortcut: makes the projection from (inplanes, outplanes, stride).
    """
    made = []
    for block in blocks:
        projects = stride != 1 or inplanes != outplanes
        projection = shortcut(inplanes, outplanes, stride) if projects else None
        made.append(block(inplanes, stride=stride, downsample=projection))
        inplanes, stride = outplanes, 1
    return Sequential(made)


def add_shortcut(block: Any, y: Features, x: Image, train: bool) -> Features:
    """The sum of y and the shortcut: ``block.downsample`` of x, or x itself where there is no such module."""
    shortcut = block.cast(x) if block.downsample is None else block.downsample(x, train)
    who = type(block).__name__
    require(shortcut.shape == y.shape, f"{who}: expected a shortcut of shape {y.shape}, got {shortcut.shape}")
    return y + shortcut


def require_plain(block: Any) -> None:
    """Refuse groups, a base_width and a dilation, for a block that has no place for them."""
    got = (block.groups, block.base_width, block.dilation)
    expected = f"{type(block).__name__}: expected groups, base_width, dilation = 1, 64, 1"
    require(got == (1, 64, 1), f"{expected}, got {', '.join(map(str, got))}")


class _Residual(Module):
    inplanes: int
    planes: int
    stride: int = 1
    downsample: Module | None = None
    groups: int = 1
    base_width: int = 64
    dilation: int = 1
    norm_layer: Norm | None = None

    expansion: ClassVar[int]
    registered_last: ClassVar[Sequence[str]] = ("downsample",)

    def norm(self, planes: int) -> Module:
        return (self.norm_layer or BatchNorm2d)(planes)

    def residual(self, x: Image, train: bool) -> Features:
        raise NotImplementedError

    def gate(self, y: Features, train: bool) -> Features:
        """The residual branch ends here, in front of the shortcut: attention of other papers scales y."""
        return y

    def __call__(self, x: Image, train: bool = False) -> Features:
        y = self.gate(self.residual(x, train), train)
        return relu(add_shortcut(self, y, x, train))


class BasicBlock(_Residual):
    """Two 3x3 convolutions on a residual branch; the result has ``planes`` channels.

    Args:
        downsample: the module of the shortcut; x itself when None.
        groups, base_width, dilation: refused other than 1, 64 and 1, as in torchvision.
        norm_layer: the class of the normalisations; BatchNorm2d when None.
    """

    expansion: ClassVar[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        require_plain(self)

    def setup(self) -> None:
        self.conv1 = Conv2d(self.inplanes, self.planes, 3, stride=self.stride, padding=1, bias=False)
        self.bn1 = self.norm(self.planes)
        self.conv2 = Conv2d(self.planes, self.planes, 3, padding=1, bias=False)
        self.bn2 = self.norm(self.planes)

    def residual(self, x: Image, train: bool) -> Features:
        y = relu(self.bn1(self.conv1(x), train))
        return self.bn2(self.conv2(y), train)


class Bottleneck(_Residual):
    """A 1x1, a 3x3 and a 1x1 convolution on a residual branch; the result has 4 * ``planes`` channels.

    Args:
        downsample: the module of the shortcut; x itself when None.
        groups: of the 3x3 convolution.
        base_width: the inner convolutions have ``int(planes * base_width / 64) * groups`` channels.
        dilation: of the 3x3 convolution.
        norm_layer: the class of the normalisations; BatchNorm2d when None.
    """

    expansion: ClassVar[int] = 4

    @property
    def widths(self) -> tuple[int, int]:
        """Channels behind the first and behind the second convolution."""
        width = int(self.planes * (self.base_width / 64)) * self.groups
        return width, width

    @property
    def strides(self) -> tuple[int, int]:
        """Strides of the first and of the second convolution."""
        return 1, self.stride

    def setup(self) -> None:
        (narrow, wide), (first, second) = self.widths, self.strides
        planes, d = self.planes * self.expansion, self.dilation
        self.conv1 = Conv2d(self.inplanes, narrow, 1, stride=first, bias=False)
        self.bn1 = self.norm(narrow)
        self.conv2 = Conv2d(narrow, wide, 3, stride=second, padding=d, dilation=d, groups=self.groups, bias=False)
        self.bn2 = self.norm(wide)
        self.conv3 = Conv2d(wide, planes, 1, bias=False)
        self.bn3 = self.norm(planes)

    def residual(self, x: Image, train: bool) -> Features:
        y = relu(self.bn1(self.conv1(x), train))
        y = relu(self.bn2(self.conv2(y), train))
        return self.bn3(self.conv3(y), train)
