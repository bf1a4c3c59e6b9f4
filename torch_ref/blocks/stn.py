"""Spatial Transformer Networks - Jaderberg, Simonyan, Zisserman, Kavukcuoglu 2015, https://arxiv.org/abs/1506.02025"""

from math import pi

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.functional import grid_sample

HALF = pi / 2


def transform(matrix: Tensor, points: Tensor) -> Tensor:
    return (matrix * points[..., None, :]).sum(-1)


def wrap(x: Tensor) -> Tensor:
    return torch.atan(torch.tan(HALF * x)) / HALF


def sphere(grid: Tensor) -> Tensor:
    polar, azimuth = grid[..., 0] * HALF + HALF, grid[..., 1] * pi
    x, y = torch.sin(polar) * torch.cos(azimuth), torch.sin(polar) * torch.sin(azimuth)
    return torch.stack([x, y, torch.cos(polar), grid[..., 2]], -1)


def project(x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    r = torch.sqrt(x * x + y * y + z * z) + 1e-5
    turn = torch.where(x < 0, torch.where(y >= 0, 1, -1), 0)
    return torch.acos(z / r) / HALF - 1, torch.atan(y / (x + 1e-5)) / pi + turn


class STN(Module):
    def __init__(self, layout="BHWD"):
        super().__init__()
        if layout not in ("BHWD", "BCHW"):
            raise ValueError(f"STN: expected a layout of BHWD, BCHW, got {layout!r}")
        self.layout = layout

    def forward(self, image: Tensor, grid: Tensor, attention_weights=False) -> Tensor | tuple[Tensor, Tensor]:
        axis = 3 if self.layout == "BHWD" else 1
        image, grid = (image, grid.movedim(1, -1)) if axis == 1 else (image.movedim(-1, 1), grid)
        grid = grid.flip(-1)
        y = grid_sample(image, grid, align_corners=True)
        y = y.movedim(1, axis)
        return (y, grid) if attention_weights else y


class _GridGen(Module):
    has_loss = False

    def __init__(self, height, width, lr=1.0, aux_loss=False):
        super().__init__()
        if aux_loss and not self.has_loss:
            raise ValueError(f"{type(self).__name__}: expected aux_loss=False, since it has none, got True")
        self.height = height
        self.width = width
        self.lr = lr
        self.aux_loss = aux_loss

    def base(self, like: Tensor) -> Tensor:
        y, x = (2 * torch.arange(n).to(like) / n - 1 for n in (self.height, self.width))
        y, x = torch.meshgrid(y, x, indexing="ij")
        return torch.stack([y, x, torch.ones_like(x)], -1)

    def result(self, grid: Tensor, loss: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor | None]:
        return (grid, loss) if self.aux_loss else grid


class AffineGridGen(_GridGen):
    has_loss = True

    def forward(self, theta: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        grid = transform(theta[:, None, None], self.base(theta))
        loss = ((theta - torch.eye(2, 3).to(theta)) ** 2).sum((1, 2))[:, None]
        return self.result(grid, loss)


class AffineGridGenV2(AffineGridGen):
    pass


class CylinderGridGen(_GridGen):
    has_loss = True

    def forward(self, theta: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        fixed = theta.detach()
        x = (1 + torch.cos(fixed + self.lr * (theta - fixed))) / 2
        low = torch.arange(self.width, device=x.device) < torch.ceil(self.width * x)
        shift = torch.where(low, 2 * (1 - x), -2 * x)[:, None]
        base = self.base(theta)
        y = base[..., 0].expand(len(theta), -1, -1)
        return self.result(torch.stack([y, base[..., 1] + shift], -1), theta**2)


class CylinderGridGenV2(_GridGen):
    def forward(self, u: Tensor) -> Tensor:
        base = self.base(u)
        x = wrap(base[..., 1] + u[..., None])
        return self.result(torch.stack([base[..., 0].expand(x.shape), x], -1))


class DenseAffineGridGen(_GridGen):
    def forward(self, theta: Tensor) -> Tensor:
        return self.result(transform(theta.unflatten(-1, (2, 3)), self.base(theta)))


class _Dense3D(_GridGen):
    def moved(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        points = transform(theta.unflatten(-1, (3, 4)), sphere(self.base(theta)))
        return project(*points.unbind(-1))


class DenseAffine3DGridGen(_Dense3D):
    def forward(self, theta: Tensor) -> Tensor:
        return self.result(torch.stack(self.moved(theta), -1))


class DenseAffine3DGridGen_rotate(_Dense3D):
    def forward(self, theta: Tensor, rotate: Tensor) -> Tensor:
        y, x = self.moved(theta)
        turn = rotate[..., None]
        return self.result(torch.stack([y, wrap(x + turn)], -1))


class _Depth3D(_GridGen):
    def moved(self, depth: Tensor, trans0: Tensor, trans1: Tensor) -> tuple[Tensor, ...]:
        shift = torch.cat([trans0, trans1, torch.zeros_like(trans0)], -1)[:, None, None]
        return (sphere(self.base(depth))[..., :3] * depth + shift).unbind(-1)


class Depth3DGridGen(_Depth3D):
    def forward(self, depth: Tensor, trans0: Tensor, trans1: Tensor, rotate: Tensor) -> Tensor:
        y, x = project(*self.moved(depth, trans0, trans1))
        turn = rotate[..., None]
        return self.result(torch.stack([y, wrap(x + turn)], -1))


class Depth3DGridGen_with_mask(_Depth3D):
    def forward(self, depth: Tensor, trans0: Tensor, trans1: Tensor, rotate: Tensor) -> Tensor:
        x, y, z = self.moved(depth, trans0, trans1)
        turn = rotate[..., None] * pi
        x, y = x * torch.cos(turn) - y * torch.sin(turn), x * torch.sin(turn) + y * torch.cos(turn)
        return self.result(torch.stack(project(x, y, z), -1))
