"""Non-local Neural Networks - Wang, Girshick, Gupta, He 2018, https://arxiv.org/abs/1711.07971

Follows: AlexHex7/Non-local_pytorch, whose MNIST network is called ``Network``. Its trained ``net.pth`` fits. Its pixels
are divided by 255 and not normalised further.
"""

from jaxtyping import Array, Float

from flax_attn.blocks.non_local import NONLocalBlock2D
from flax_attn.constructor import constructor
from flax_attn.layers import BatchNorm2d, Conv2d, Dropout, Linear, MaxPool2d, Module, Sequential, flatten, relu
from flax_attn.models.preprocess import rescale
from flax_attn.shapes import PixelMap, Scores


def stage(inputs: int, outputs: int) -> Sequential:
    """A 3x3 convolution, BatchNorm, ReLU, and max pooling to half the size."""
    return Sequential([Conv2d(inputs, outputs, 3, padding=1), BatchNorm2d(outputs), relu, MaxPool2d(2)])


class NonLocalNet(Module):
    """Logits of the ten digits for images x (n, 28, 28, 1) in [0, 1].

    With ``return_nl_map=True`` the result is the logits and a list of the attention maps of the two blocks, (n, 196,
    49) and (n, 49, 9).
    """

    def setup(self) -> None:
        self.conv_1 = stage(1, 32)
        self.nl_1 = NONLocalBlock2D(32)
        self.conv_2 = stage(32, 64)
        self.nl_2 = NONLocalBlock2D(64)
        self.conv_3 = stage(64, 128)
        self.fc = Sequential([Linear(128 * 3 * 3, 256), relu, Dropout(0.5), Linear(256, 10)])

    def __call__(
        self, x: PixelMap, return_nl_map: bool = False, train: bool = False
    ) -> Scores | tuple[Scores, list[Float[Array, "n q p"]]]:
        x, nl_map_1 = self.nl_1(self.conv_1(x, train), return_nl_map=True, train=train)
        x, nl_map_2 = self.nl_2(self.conv_2(x, train), return_nl_map=True, train=train)
        logits = self.fc(flatten(self.conv_3(x, train)), train)
        return (logits, [nl_map_1, nl_map_2]) if return_nl_map else logits


preprocess = rescale


@constructor(NonLocalNet, preprocess)
def non_local_net() -> None:
    """The network of upstream's ``weights/net.pth``.

    Input: digits (n, 28, 28, 1), pixels from 0 to 1, not normalised further.
    """
