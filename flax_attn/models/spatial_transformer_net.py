"""Spatial Transformer Networks - Jaderberg, Simonyan, Zisserman, Kavukcuoglu 2015, https://arxiv.org/abs/1506.02025

Follows: ``Net`` of the tutorial in pytorch/tutorials, which the defaults give. Both dropouts have torch's default
probability, 0.5. The tutorial leaves ``align_corners`` to PyTorch, so that a network trained with torch before 1.3
needs ``align_corners=True``.

Differs: sizes, channels and numbers of classes are arguments here.
"""

from typing import Any

from flax_attn.blocks.spatial_transformer import SpatialTransformer, pixels
from flax_attn.constructor import constructor
from flax_attn.layers import Conv2d, Dropout, Dropout2d, Linear, flatten, log_softmax, max_pool, relu, require
from flax_attn.models.preprocess import mnist
from flax_attn.shapes import Image, Scores


class SpatialTransformerNet(SpatialTransformer):
    """Log-probabilities (n, num_classes) of images x (n, h, w, in_channels), which a ``SpatialTransformer`` resamples.

    The method ``stn`` gives the resampled images.
    """

    num_classes: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        fit = pixels(self.size, (5, 5), (2, 2)) >= 1
        require(fit, f"{type(self).__name__}: expected a size of 16 or more each way, got {tuple(self.size)}")

    def setup(self) -> None:
        self.conv1 = Conv2d(self.in_channels, 10, 5)
        self.conv2 = Conv2d(10, 20, 5)
        self.conv2_drop = Dropout2d()
        self.fc1 = Linear(20 * pixels(self.size, (5, 5), (2, 2)), 50)
        self.fc1_drop = Dropout()
        self.fc2 = Linear(50, self.num_classes)
        super().setup()

    def stn(self, x: Image, train: bool = False) -> Any:
        """The resampled images, which the classifier reads."""
        return super().__call__(x, train=train)

    def __call__(self, x: Image, train: bool = False) -> Scores:  # type: ignore[override]
        x = self.stn(x, train)
        x = relu(max_pool(self.conv1(x), 2))
        x = relu(max_pool(self.conv2_drop(self.conv2(x), train), 2))
        x = self.fc1_drop(relu(self.fc1(flatten(x))), train)
        return log_softmax(self.fc2(x))


preprocess = mnist


@constructor(SpatialTransformerNet, preprocess)
def spatial_transformer_net() -> None:
    """The tutorial's network for MNIST. A network trained with torch before 1.3 needs ``align_corners=True``.

    Input: digits (n, 28, 28, 1), pixels from 0 to 1, then normalised as for MNIST.
    """
