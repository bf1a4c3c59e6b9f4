"""Non-local Neural Networks - Wang, Girshick, Gupta, He 2018, https://arxiv.org/abs/1711.07971"""

import torch
from torch import Tensor, nn

POOL = {1: 2, 2: (2, 2), 3: (1, 2, 2)}


def tokens(x: Tensor) -> Tensor:
    return x.flatten(2)


class _NonLocalBlockND(nn.Module):
    def __init__(self, in_channels, inter_channels=None, dimension=3, sub_sample=True, bn_layer=True):
        super().__init__()
        self.in_channels = in_channels
        self.inner = inter_channels or max(in_channels // 2, 1)
        self.dimension = dimension
        self.sub_sample = sub_sample
        self.g = self.pooled(self.conv(in_channels, self.inner))
        self.W = self.projection(bn_layer)
        self.embed()

    def conv(self, inputs, outputs):
        return getattr(nn, f"Conv{self.dimension}d")(inputs, outputs, 1)

    def pool(self):
        return getattr(nn, f"MaxPool{self.dimension}d")(POOL[self.dimension])

    def pooled(self, layer):
        return nn.Sequential(layer, self.pool()) if self.sub_sample else layer

    def projection(self, bn_layer):
        layer = conv = self.conv(self.inner, self.in_channels)
        if bn_layer:
            layer = getattr(nn, f"BatchNorm{self.dimension}d")(self.in_channels)
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
        return nn.Sequential(conv, layer) if bn_layer else conv

    def embed(self):
        self.theta = self.conv(self.in_channels, self.inner)
        self.phi = self.pooled(self.conv(self.in_channels, self.inner))

    def scores(self, x: Tensor) -> Tensor:
        return torch.einsum("ncq,nck->nqk", tokens(self.theta(x)), tokens(self.phi(x)))

    def forward(self, x: Tensor, return_nl_map=False) -> Tensor | tuple[Tensor, Tensor]:
        nl_map = self.pairwise(x)
        y = torch.einsum("nqk,nck->ncq", nl_map, tokens(self.g(x)))
        z = self.W(y.reshape(x.shape[0], self.inner, *x.shape[2:])) + x
        return (z, nl_map) if return_nl_map else z


class EmbeddedGaussianNonLocalBlock(_NonLocalBlockND):
    def pairwise(self, x: Tensor) -> Tensor:
        return torch.softmax(self.scores(x), -1)


class GaussianNonLocalBlock(_NonLocalBlockND):
    def embed(self):
        if self.sub_sample:
            self.phi = self.pool()

    def pairwise(self, x: Tensor) -> Tensor:
        keys = self.phi(x) if self.sub_sample else x
        return torch.softmax(torch.einsum("ncq,nck->nqk", tokens(x), tokens(keys)), -1)


class DotProductNonLocalBlock(_NonLocalBlockND):
    def pairwise(self, x: Tensor) -> Tensor:
        scores = self.scores(x)
        return scores / scores.shape[-1]


class ConcatenationNonLocalBlock(_NonLocalBlockND):
    def embed(self):
        super().embed()
        self.concat_project = nn.Sequential(nn.Conv2d(2 * self.inner, 1, 1, bias=False), nn.ReLU())

    def pairwise(self, x: Tensor) -> Tensor:
        theta, phi = tokens(self.theta(x))[..., None], tokens(self.phi(x))[:, :, None]
        shape = (x.shape[0], self.inner, theta.shape[2], phi.shape[3])
        pairs = torch.cat([theta.expand(shape), phi.expand(shape)], 1)
        return self.concat_project(pairs)[:, 0] / shape[3]


class NONLocalBlock1D(EmbeddedGaussianNonLocalBlock):
    def __init__(self, in_channels, inter_channels=None, sub_sample=True, bn_layer=True):
        super().__init__(in_channels, inter_channels, 1, sub_sample, bn_layer)


class NONLocalBlock2D(EmbeddedGaussianNonLocalBlock):
    def __init__(self, in_channels, inter_channels=None, sub_sample=True, bn_layer=True):
        super().__init__(in_channels, inter_channels, 2, sub_sample, bn_layer)


class NONLocalBlock3D(EmbeddedGaussianNonLocalBlock):
    def __init__(self, in_channels, inter_channels=None, sub_sample=True, bn_layer=True):
        super().__init__(in_channels, inter_channels, 3, sub_sample, bn_layer)
