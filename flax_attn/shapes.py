"""The shapes that signatures name in more than one file: n samples, channels last.

Two names in one signature agree where they share a letter: ``Image`` to ``Widened`` keeps height and width.
"""

import numpy as np
from jaxtyping import Array, Bool, Float, Int, Num

Image = Float[Array, "n h w c"]

Widened = Float[Array, "n h w c2"]
"""An image of another number of channels."""

Features = Float[Array, "n h2 w2 c2"]
"""A feature map: height, width and channels may all be others."""

Volume = Float[Array, "n d h w c"]

PixelMap = Float[Array, "n h w 1"]
"""One number for each pixel."""

ChannelMap = Float[Array, "n 1 1 c"]
"""One number for each channel."""

Padding = Bool[Array, "n h w"]
"""True where an image is padding."""

Tokens = Float[Array, "n l c"]

Weights = Float[Array, "n q k"]
"""Attention: for each of q queries the weight of each of k keys."""

Scores = Float[Array, "n k"]
"""A score for each of k classes."""

ScoreMap = Float[Array, "n h w k"]
"""A score for each pixel and each of k classes."""

Place = Float[Array, "n 2"]
"""Where to look in an image: (x, y) from -1 to 1."""

PatchBoxes = Int[Array, "n k 4"]
"""k boxes in an image: (left, top, right, bottom) in pixels, without the pixels of right and bottom."""

State = Float[Array, "n d"]
"""The state of a recurrent network."""

Photo = Num[np.ndarray, "h w c"]
"""One image before it is part of a batch, of uint8 or in [0, 1]."""

Resized = Num[np.ndarray, "h2 w2 c"]

Pixels = Num[Array | np.ndarray, "*n h w c"]
"""One image, or images of one size."""
