"""Recurrent Models of Visual Attention - Mnih, Heess, Graves, Kavukcuoglu 2014, https://arxiv.org/abs/1406.6247"""

from torch import Tensor, nn

from torch_ref.blocks.recurrent_attention import (
    ActionNetwork,
    BaselineNetwork,
    CoreNetwork,
    GlimpseNetwork,
    LocationNetwork,
    OldBaselineNetwork,
    OldLocationNetwork,
)


class RecurrentAttention(nn.Module):
    locator_class = LocationNetwork
    baseliner_class = BaselineNetwork

    def __init__(self, g, k, s, c, h_g, h_l, std, hidden_size, num_classes):
        super().__init__()
        self.sensor = GlimpseNetwork(h_g, h_l, g, k, s, c)
        self.rnn = CoreNetwork(h_g + h_l, hidden_size)
        self.locator = self.locator_class(hidden_size, 2, std)
        self.classifier = ActionNetwork(hidden_size, num_classes)
        self.baseliner = self.baseliner_class(hidden_size, 1)

    def forward(self, x: Tensor, l_t_prev: Tensor, h_t_prev: Tensor, last=False, noise=None) -> tuple[Tensor, ...]:
        h_t = self.rnn(self.sensor(x, l_t_prev), h_t_prev)
        log_pi, l_t = self.locator(h_t, noise)
        b_t = self.baseliner(h_t)[:, 0]
        return (h_t, l_t, b_t, self.classifier(h_t), log_pi) if last else (h_t, l_t, b_t, log_pi)


class OldRecurrentAttention(RecurrentAttention):
    locator_class = OldLocationNetwork
    baseliner_class = OldBaselineNetwork


def preprocess(digits: Tensor) -> Tensor:
    return digits.float().div(255).sub(0.1307).div(0.3081)


def ram(num_classes=10) -> RecurrentAttention:
    return RecurrentAttention(8, 1, 1.0, 1, 128, 128, 0.05, 256, num_classes)


def ram_6_8x8_2(num_classes=10) -> OldRecurrentAttention:
    return OldRecurrentAttention(8, 1, 2.0, 1, 128, 128, 0.17, 256, num_classes)
