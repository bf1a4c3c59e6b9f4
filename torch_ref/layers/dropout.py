"""Dropouts that torch.nn lacks."""

from torch import Tensor, nn
from torch.nn.functional import dropout


class DropPath(nn.Dropout):
    def __init__(self, p=0.0):
        super().__init__(p)

    def forward(self, x: Tensor) -> Tensor:
        return x * dropout(x.new_ones(x.shape[0], *[1] * (x.ndim - 1)), self.p, self.training)
