"""A small classifier of 8x8 digits: the network of the trained checkpoint that this package carries.

The network is our own. It shows two blocks at work: the positions that a position attends to, and the gate of each
channel.
"""

import numpy as np
from jaxtyping import Array, Float

from flax_attn.blocks.non_local import NONLocalBlock2D
from flax_attn.blocks.se import SELayer
from flax_attn.layers import BatchNorm2d, Conv2d, Dropout, Linear, MaxPool2d, Module, Sequential, flatten, relu
from flax_attn.models.preprocess import Normalized
from flax_attn.shapes import PixelMap, Pixels, Scores


class DigitsNet(Module):
    """Logits (n, num_classes) of images x (n, 8, 8, 1) in [0, 1]; by default of the ten digits.

    With ``return_nl_map=True`` the result is the logits and the attention map (n, 64, 64) of the non-local block.
    """

    num_classes: int = 10

    def setup(self) -> None:
        self.conv1 = Sequential([Conv2d(1, 24, 3, padding=1), BatchNorm2d(24), relu])
        self.nl = NONLocalBlock2D(24, sub_sample=False)
        self.conv2 = Sequential([Conv2d(24, 48, 3, padding=1), BatchNorm2d(48), relu, MaxPool2d(2)])
        self.se: Module = SELayer(48, 8)
        self.fc = Sequential([Dropout(0.3), Linear(48 * 4 * 4, self.num_classes)])

    def __call__(
        self, x: PixelMap, return_nl_map: bool = False, train: bool = False
    ) -> Scores | tuple[Scores, Float[Array, "n q p"]]:
        x, nl_map = self.nl(self.conv1(x, train), return_nl_map=True, train=train)
        x = self.se(self.conv2(x, train), train=train)
        logits = self.fc(flatten(x), train)
        return (logits, nl_map) if return_nl_map else logits


def preprocess(digits: Pixels) -> Normalized:
    """The digits (*n, 8, 8, 1) of scikit-learn, from 0 to 16, as numbers from 0 to 1."""
    return digits / np.float32(16)
