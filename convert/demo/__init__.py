"""A real checkpoint that travels with the package: DigitsNet, trained in PyTorch by ``examples/digits/train.py`` on
scikit-learn's digits (UCI, Alpaydin and Kaynak 1998, CC BY 4.0), with the held-out digits and PyTorch's logits."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from convert.checkpoint import load
from convert.comparing.tolerances import TOLERANCE, absolute_difference
from convert.state_dict import from_torch
from convert.writing.targets import replaced
from flax_attn.models.digits_net import DigitsNet

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Result:
    """The Flax network on the held-out digits.

    Args:
        pixels: (n, 8, 8), 0 to 16.
        labels, predictions: (n,).
        nl_map: (n, 64, 64), what each pixel attends to.
        difference: the largest absolute difference of a logit from PyTorch's.
    """

    pixels: UInt8[np.ndarray, "n 8 8"]
    labels: UInt8[np.ndarray, " n"]
    predictions: Array
    nl_map: Float[Array, "n 64 64"]
    difference: float

    @property
    def accuracy(self) -> float:
        return float((self.predictions == self.labels).mean())

    @property
    def within(self) -> bool:
        return self.difference <= TOLERANCE["float32"]


def run() -> Result:
    """Convert the checkpoint and compare the network with PyTorch's own logits."""
    held_out = np.load(FOLDER / "digits.npz")
    images = jnp.asarray(held_out["pixels"], jnp.float32)[..., None] / 16
    net = DigitsNet()
    variables = from_torch(net, load(FOLDER / "digits.pth"), images)
    forward: Callable = jax.jit(net.apply, static_argnames="return_nl_map")
    with jax.default_matmul_precision("highest"):
        logits, nl_map = forward(variables, images, return_nl_map=True)
    difference = absolute_difference(logits, held_out["logits"])
    return Result(held_out["pixels"], held_out["labels"], logits.argmax(-1), nl_map=nl_map, difference=difference)


def picture(result: Result, path: str | Path) -> None:
    """Save a figure: one digit of each kind, and below it what its brightest pixel (marked) attends to."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    chosen = [int(np.argmax(result.labels == label)) for label in range(10)]
    figure, axes = plt.subplots(2, len(chosen), figsize=(12, 2.9), layout="constrained")
    for i, (above, below) in zip(chosen, axes.T, strict=True):
        pixels, query = result.pixels[i], int(result.pixels[i].argmax())
        above.imshow(pixels, cmap="gray_r")
        above.set_title(f"{result.labels[i]} → {int(result.predictions[i])}", fontsize=10)
        below.imshow(np.asarray(result.nl_map[i, query]).reshape(8, 8), cmap="inferno")
        below.contour(pixels, levels=[8], colors="white", linewidths=1)
        below.plot(query % 8, query // 8, "x", color="cyan", markersize=9, markeredgewidth=2.5)
        for axis in (above, below):
            axis.set_axis_off()
    figure.suptitle("held-out digits: label → prediction, and what the marked pixel attends to", fontsize=11)
    try:
        with replaced(path) as file:
            figure.savefig(file, format=Path(path).suffix[1:] or "png", dpi=110)
    finally:
        plt.close(figure)
