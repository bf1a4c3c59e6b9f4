"""Recurrent Models of Visual Attention - Mnih, Heess, Graves, Kavukcuoglu 2014, https://arxiv.org/abs/1406.6247"""

import torch
from torch import Tensor
from torch.distributions import Normal
from torch.nn import Linear, Module, functional
from torch.nn.functional import avg_pool2d, log_softmax, pad, relu


def pixel(x: Tensor, place: Tensor) -> Tensor:
    extent = torch.tensor([x.shape[3], x.shape[2]], device=place.device)
    return (0.5 * (place.clamp(-1, 1) + 1) * extent).long()


def patch(x: Tensor, place: Tensor, size: int) -> Tensor:
    before = size // 2
    padded = pad(x, (before, size - before) * 2)
    start = pixel(x, place)
    return torch.stack([image[:, v : v + size, u : u + size] for image, (u, v) in zip(padded, start, strict=True)])


def patch_boxes(x: Tensor, place: Tensor, sizes) -> Tensor:
    size = torch.tensor(sizes, device=place.device)[:, None]
    start = pixel(x, place)[:, None] - size // 2
    return torch.cat([start, start + size], -1)


def patch_sizes(g, k, s) -> list[int]:
    sizes = []
    for _ in range(k):
        sizes.append(g)
        g = int(s * g)
    return sizes


class Retina(Module):
    def __init__(self, g, k, s):
        super().__init__()
        self.g = g
        self.k = k
        self.s = s

    def forward(self, x: Tensor, l: Tensor, attention_weights=False) -> Tensor | tuple[Tensor, Tensor]:  # noqa: E741
        sizes = patch_sizes(self.g, self.k, self.s)
        y = torch.cat([avg_pool2d(patch(x, l, size), size // self.g) for size in sizes], 1).flatten(1)
        return (y, patch_boxes(x, l, sizes)) if attention_weights else y


class GlimpseNetwork(Module):
    def __init__(self, h_g, h_l, g, k, s, c):
        super().__init__()
        self.retina = Retina(g, k, s)
        self.fc1 = Linear(k * g * g * c, h_g)
        self.fc2 = Linear(2, h_l)
        self.fc3 = Linear(h_g, h_g + h_l)
        self.fc4 = Linear(h_l, h_g + h_l)

    def forward(self, x: Tensor, l_t_prev: Tensor, attention_weights=False) -> Tensor | tuple[Tensor, Tensor]:
        seen, boxes = self.retina(x, l_t_prev, attention_weights=True)
        what = self.fc3(relu(self.fc1(seen)))
        where = self.fc4(relu(self.fc2(l_t_prev)))
        y = relu(what + where)
        return (y, boxes) if attention_weights else y


class CoreNetwork(Module):
    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.i2h = Linear(input_size, hidden_size)
        self.h2h = Linear(hidden_size, hidden_size)

    def forward(self, g_t: Tensor, h_t_prev: Tensor) -> Tensor:
        return relu(self.i2h(g_t) + self.h2h(h_t_prev))


class ActionNetwork(Module):
    def __init__(self, input_size, output_size):
        super().__init__()
        self.fc = Linear(input_size, output_size)

    def forward(self, h_t: Tensor) -> Tensor:
        return log_softmax(self.fc(h_t), -1)


class _Locator(Module):
    def sample(self, mean: Tensor, noise: Tensor | None) -> Tensor:
        noise = torch.randn_like(mean) if noise is None else noise
        return (mean + self.std * noise).detach()


class LocationNetwork(_Locator):
    def __init__(self, input_size, output_size, std):
        super().__init__()
        self.std = std
        self.fc = Linear(input_size, input_size // 2)
        self.fc_lt = Linear(input_size // 2, output_size)

    def forward(self, h_t: Tensor, noise=None) -> tuple[Tensor, Tensor]:
        mean = torch.tanh(self.fc_lt(relu(self.fc(h_t.detach()))))
        place = self.sample(mean, noise)
        return Normal(mean, self.std).log_prob(place).sum(-1), place.clamp(-1, 1)


class OldLocationNetwork(_Locator):
    def __init__(self, input_size, output_size, std):
        super().__init__()
        self.std = std
        self.fc = Linear(input_size, output_size)

    def forward(self, h_t: Tensor, noise=None) -> tuple[Tensor, Tensor]:
        mean = torch.tanh(self.fc(h_t.detach()))
        place = torch.tanh(self.sample(mean, noise))
        return Normal(mean, self.std).log_prob(place).sum(-1), place


class BaselineNetwork(Module):
    def __init__(self, input_size, output_size):
        super().__init__()
        self.fc = Linear(input_size, output_size)

    def forward(self, h_t: Tensor) -> Tensor:
        return self.fc(h_t.detach())


class OldBaselineNetwork(BaselineNetwork):
    def forward(self, h_t: Tensor) -> Tensor:
        return relu(super().forward(h_t))


def reinforce_loss(log_pi: Tensor, reward: Tensor, baseline: Tensor, weight=0.01) -> Tensor:
    advantage = (reward - baseline).detach()
    return functional.mse_loss(baseline, reward) + weight * (-log_pi * advantage).sum(1).mean()
