"""Recurrent Models of Visual Attention - Mnih, Heess, Graves, Kavukcuoglu 2014, https://arxiv.org/abs/1406.6247"""

from torch import Tensor
from torch.nn import Module

from torch_ref.blocks.recurrent_attention import (
    ActionNetwork,
    BaselineNetwork,
    CoreNetwork,
    GlimpseNetwork,
    LocationNetwork,
    OldBaselineNetwork,
    OldLocationNetwork,
)
from torch_ref.constructor import constructor
from torch_ref.models.preprocess import mnist


class RecurrentAttention(Module):
    locator_class = LocationNetwork
    baseliner_class = BaselineNetwork

    def __init__(self, g, k, s, c, h_g, h_l, std, hidden_size, num_classes):
        super().__init__()
        self.sensor = GlimpseNetwork(h_g, h_l, g, k=k, s=s, c=c)
        self.rnn = CoreNetwork(h_g + h_l, hidden_size)
        self.locator = self.locator_class(hidden_size, 2, std)
        self.classifier = ActionNetwork(hidden_size, num_classes)
        self.baseliner = self.baseliner_class(hidden_size, 1)

    def forward(
        self, x: Tensor, l_t_prev: Tensor, h_t_prev: Tensor, last=False, noise=None, attention_weights=False
    ) -> tuple:
        seen, boxes = self.sensor(x, l_t_prev, attention_weights=True)
        h_t = self.rnn(seen, h_t_prev)
        log_pi, l_t = self.locator(h_t, noise)
        b_t = self.baseliner(h_t)[:, 0]
        if last:
            log_probas = self.classifier(h_t)
        y = (h_t, l_t, b_t, log_probas, log_pi) if last else (h_t, l_t, b_t, log_pi)
        return (y, boxes) if attention_weights else y


class OldRecurrentAttention(RecurrentAttention):
    locator_class = OldLocationNetwork
    baseliner_class = OldBaselineNetwork


preprocess = mnist


@constructor(
    RecurrentAttention, preprocess, g=8, k=1, s=1.0, c=1, h_g=128, h_l=128, std=0.05, hidden_size=256, num_classes=10
)
def ram(): ...


@constructor(
    OldRecurrentAttention, preprocess, g=8, k=1, s=2.0, c=1, h_g=128, h_l=128, std=0.17, hidden_size=256, num_classes=10
)
def ram_6_8x8_2(): ...
