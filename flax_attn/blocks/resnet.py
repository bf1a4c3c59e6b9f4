"""Deep Residual Learning for Image Recognition - He, Zhang, Ren, Sun 2016, https://arxiv.org/abs/1512.03385

Status: the shortcut that residual blocks are given; torchvision's keys ``0`` and ``1``.
"""

from flax_attn.layers import BatchNorm2d, Conv2d, Sequential


def downsample(inplanes: int, planes: int, stride: int = 1) -> Sequential:
    """The projection shortcut: 1x1 convolution and BatchNorm."""
    return Sequential([Conv2d(inplanes, planes, 1, stride, bias=False), BatchNorm2d(planes)])
