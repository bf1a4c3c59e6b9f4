"""Spatial Transformer Networks - Jaderberg, Simonyan, Zisserman, Kavukcuoglu 2015, https://arxiv.org/abs/1506.02025"""

import torch
from torch import Tensor
from torch.nn import Conv2d, Linear, MaxPool2d, Module, ReLU, Sequential, init
from torch.nn.functional import affine_grid, grid_sample


def identity(bias: Tensor) -> None:
    with torch.no_grad():
        bias.copy_(torch.eye(2, 3).flatten())


def pixels(size, kernel_sizes, pools) -> int:
    h, w = size
    for kernel, pool in zip(kernel_sizes, pools, strict=True):
        h, w = ((side - kernel + 1) // pool for side in (h, w))
    return max(0, h) * max(0, w)


class SpatialTransformer(Module):
    def __init__(
        self,
        in_channels=1,
        size=(28, 28),
        channels=(8, 10),
        kernel_sizes=(7, 5),
        pools=(2, 2),
        hidden=32,
        align_corners=False,
    ):
        super().__init__()
        self.in_channels, self.size, self.channels = in_channels, size, channels
        self.kernel_sizes, self.pools, self.hidden = kernel_sizes, pools, hidden
        self.align_corners = align_corners
        self.setup()

    def setup(self):
        stages: list[Module] = []
        inputs = [self.in_channels, *self.channels[:-1]]
        for c, out, kernel, pool in zip(inputs, self.channels, self.kernel_sizes, self.pools, strict=True):
            stages += [Conv2d(c, out, kernel), MaxPool2d(pool), ReLU()]
        self.localization = Sequential(*stages)
        features = self.channels[-1] * pixels(self.size, self.kernel_sizes, self.pools)
        theta = Linear(self.hidden, 6)
        init.zeros_(theta.weight)
        identity(theta.bias)
        self.fc_loc = Sequential(Linear(features, self.hidden), ReLU(), theta)

    def forward(self, x: Tensor, attention_weights=False) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        features = self.localization(x).flatten(1)
        theta = self.fc_loc(features).unflatten(-1, (2, 3))
        grid = affine_grid(theta, x.shape, self.align_corners)
        y = grid_sample(x, grid, align_corners=self.align_corners)
        return (y, grid, theta) if attention_weights else y
