"""Non-local Neural Networks - Wang, Girshick, Gupta, He 2018, https://arxiv.org/abs/1711.07971"""

import torch
from torch import Tensor, einsum, softmax
from torch.nn import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    Conv1d,
    Conv2d,
    Conv3d,
    MaxPool1d,
    MaxPool2d,
    MaxPool3d,
    Module,
    ReLU,
    Sequential,
    init,
)

CONVS = {1: Conv1d, 2: Conv2d, 3: Conv3d}
NORMS = {1: BatchNorm1d, 2: BatchNorm2d, 3: BatchNorm3d}
POOLS = {1: MaxPool1d, 2: MaxPool2d, 3: MaxPool3d}
WINDOWS = {1: 2, 2: (2, 2), 3: (1, 2, 2)}


def tokens(x: Tensor) -> Tensor:
    return x.flatten(2).mT


class _NonLocalBlockND(Module):
    def __init__(self, in_channels, inter_channels=None, dimension=3, sub_sample=True, bn_layer=True):
        super().__init__()
        self.in_channels = in_channels
        self.inner = inter_channels or max(in_channels // 2, 1)
        self.dimension = dimension
        self.sub_sample = sub_sample
        self.bn_layer = bn_layer
        self.g = self.pooled(self.conv(self.in_channels, self.inner))
        self.W = self.projection()
        self.embed()

    def conv(self, inputs, outputs):
        return CONVS[self.dimension](inputs, outputs, 1)

    def pool(self):
        return POOLS[self.dimension](WINDOWS[self.dimension])

    def pooled(self, layer):
        return Sequential(layer, self.pool()) if self.sub_sample else layer

    def projection(self):
        conv = self.conv(self.inner, self.in_channels)
        norm = NORMS[self.dimension](self.in_channels)
        last = norm if self.bn_layer else conv
        init.zeros_(last.weight)
        init.zeros_(last.bias)
        return Sequential(conv, norm) if self.bn_layer else conv

    def embed(self):
        self.theta = self.conv(self.in_channels, self.inner)
        self.phi = self.pooled(self.conv(self.in_channels, self.inner))

    def scores(self, x: Tensor) -> Tensor:
        return einsum("nqc,nkc->nqk", tokens(self.theta(x)), tokens(self.phi(x)))

    def forward(self, x: Tensor, return_nl_map=False, attention_weights=False) -> Tensor | tuple[Tensor, Tensor]:
        nl_map = self.pairwise(x)
        y = einsum("nqk,nkc->nqc", nl_map, tokens(self.g(x)))
        z = self.W(y.mT.reshape(x.shape[0], self.inner, *x.shape[2:])) + x
        return (z, nl_map) if return_nl_map or attention_weights else z


class EmbeddedGaussianNonLocalBlock(_NonLocalBlockND):
    def pairwise(self, x: Tensor) -> Tensor:
        return softmax(self.scores(x), -1)


class GaussianNonLocalBlock(_NonLocalBlockND):
    def embed(self):
        if self.sub_sample:
            self.phi = self.pool()

    def pairwise(self, x: Tensor) -> Tensor:
        keys = self.phi(x) if self.sub_sample else x
        return softmax(einsum("nqc,nkc->nqk", tokens(x), tokens(keys)), -1)


class DotProductNonLocalBlock(_NonLocalBlockND):
    def pairwise(self, x: Tensor) -> Tensor:
        scores = self.scores(x)
        return scores / scores.shape[-1]


class ConcatenationNonLocalBlock(_NonLocalBlockND):
    def embed(self):
        super().embed()
        self.concat_project = Sequential(Conv2d(2 * self.inner, 1, 1, bias=False), ReLU())

    def pairwise(self, x: Tensor) -> Tensor:
        theta, phi = tokens(self.theta(x))[:, :, None], tokens(self.phi(x))[:, None]
        shape = (x.shape[0], theta.shape[1], phi.shape[2], self.inner)
        pairs = torch.cat([torch.broadcast_to(theta, shape), torch.broadcast_to(phi, shape)], -1)
        return self.concat_project(pairs.movedim(-1, 1))[:, 0] / shape[2]


class NONLocalBlock1D(EmbeddedGaussianNonLocalBlock):
    def __init__(self, in_channels, inter_channels=None, sub_sample=True, bn_layer=True):
        super().__init__(in_channels, inter_channels, 1, sub_sample=sub_sample, bn_layer=bn_layer)


class NONLocalBlock2D(EmbeddedGaussianNonLocalBlock):
    def __init__(self, in_channels, inter_channels=None, sub_sample=True, bn_layer=True):
        super().__init__(in_channels, inter_channels, 2, sub_sample=sub_sample, bn_layer=bn_layer)


class NONLocalBlock3D(EmbeddedGaussianNonLocalBlock):
    def __init__(self, in_channels, inter_channels=None, sub_sample=True, bn_layer=True):
        super().__init__(in_channels, inter_channels, 3, sub_sample=sub_sample, bn_layer=bn_layer)
