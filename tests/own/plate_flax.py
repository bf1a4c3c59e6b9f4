"""The reader of licence plates of ``plate_torch``, in Flax."""

import jax.numpy as jnp

from flax_attn import SELayer
from flax_attn.layers import (
    LSTM,
    AdaptiveAvgPool2d,
    BatchNorm2d,
    Conv2d,
    Dropout2d,
    Linear,
    MaxPool2d,
    Module,
    PReLU,
    Sequential,
    adaptive_avg_pool,
    affine_grid,
    flatten,
    grid_sample,
    init,
    max_pool,
)


def conv_block(inputs, outputs, stride=1):
    conv = Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    return Sequential([conv, BatchNorm2d(outputs), PReLU(outputs)])


def identity(key, shape, dtype):
    """The affine map that changes nothing."""
    return jnp.asarray([1.0, 0, 0, 0, 1, 0], dtype)


class Straighten(Module):
    """Finds an affine map of the plate, and samples the image there."""

    channels: int

    def setup(self):
        self.features = Sequential(
            [conv_block(3, self.channels, 2), MaxPool2d(2), conv_block(self.channels, self.channels)]
        )
        self.pool = AdaptiveAvgPool2d((2, 3))
        self.fc1 = Linear(self.channels * 6, 10)
        self.act = PReLU()
        self.fc2 = Linear(10, 6, kernel_init=init.zeros, bias_init=identity)

    def __call__(self, x, train=False):
        y = flatten(self.pool(self.features(x, train)))
        theta = self.fc2(self.act(self.fc1(y))).reshape(-1, 2, 3)
        return grid_sample(x, affine_grid(theta, x.shape)), theta


class PlateReader(Module):
    classes: int = 11
    positions: int = 5
    width: int = 8
    dropout: float = 0.2

    def setup(self):
        width = self.width
        self.straighten = Straighten(4)
        self.stem = conv_block(3, width, 2)
        self.body = conv_block(width, width)
        self.gate = SELayer(width, 4)
        self.tail = conv_block(width, 2 * width)
        self.drop = Dropout2d(self.dropout)
        self.lstm = LSTM(2 * width, 6, batch_first=True, bidirectional=True)
        self.head = Linear(12, self.classes)

    def __call__(self, x, train=False):
        x, theta = self.straighten(x, train)
        x = self.stem(x, train)
        x = x + self.gate(self.body(x, train), train)
        x = self.drop(self.tail(max_pool(x, (2, 1)), train), train)
        x = x.mean(1)
        x, _ = self.lstm(x, train=train)
        x = adaptive_avg_pool(x, self.positions)
        return {"logits": self.head(x), "theta": theta}
