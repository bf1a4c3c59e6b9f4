"""Hand a training over, mid-way, from PyTorch to JAX and from JAX to PyTorch, and draw what is left of the difference.

    python -m examples.hand_over hand_over.png

DigitsNet learns scikit-learn's digits with each optimizer, in float64 and in float32: 25 steps in PyTorch; 10 in
PyTorch and 15 in JAX; 10 in JAX and 15 in PyTorch. A file is handed over. There is no dropout, because PyTorch and JAX
draw other numbers. Prints the largest differences from PyTorch alone, as a share of the loss and of the largest number
of a parameter. The picture has the losses above and their differences below. Takes a few minutes on two cores.
"""

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax
import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy

from convert import from_torch
from convert.optimizer import torch_optimizer
from convert.training.takeover import from_torch_checkpoint, start_run, to_torch_checkpoint
from flax_attn import DigitsNet, layers
from flax_attn.training import TrainState, train_step
from torch_ref.models.digits_net import DigitsNet as TorchNet

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "SGD": dict(lr=0.05, momentum=0.9, weight_decay=5e-4),
    "Adam": dict(lr=2e-3),
    "AdamW": dict(lr=2e-3, amsgrad=True),
    "Adamax": dict(lr=2e-3),
    "NAdam": dict(lr=2e-3),
    "RAdam": dict(lr=2e-3),
    "RMSprop": dict(lr=5e-4, centered=True),
    "Adagrad": dict(lr=5e-3),
    "Adadelta": dict(lr=1.0),
}
BEFORE, AFTER, SIZE = 10, 15, 64
DIRECTIONS = ("to JAX", "to PyTorch")
DTYPES = ("float64", "float32")

Batch = dict[str, np.ndarray]
Curve = list[float]
Arrays = Mapping[str, np.ndarray]


def batches(dtype: str) -> list[Batch]:
    """A batch of images (n, 8, 8, 1) and their labels for each step."""
    digits, rng = load_digits(), np.random.default_rng(0)
    chosen = [rng.integers(0, len(digits.target), SIZE) for _ in range(BEFORE + AFTER)]
    return [{"x": (digits.images[i, ..., None] / 16).astype(dtype), "labels": digits.target[i]} for i in chosen]


class TorchTraining:
    """A training in PyTorch, which begins with the same numbers each time."""

    def __init__(self, name: str, dtype: str):
        torch.manual_seed(0)
        self.net = TorchNet().to(getattr(torch, dtype)).train()
        for layer in self.net.modules():
            if isinstance(layer, torch.nn.Dropout):
                layer.p = 0.0
        self.optimizer = getattr(torch.optim, name)(self.net.parameters(), **OPTIMIZERS[name])

    def train(self, given: Sequence[Batch]) -> Curve:
        losses = []
        for batch in given:
            self.optimizer.zero_grad()
            images = torch.tensor(batch["x"]).permute(0, 3, 1, 2)
            loss = cross_entropy(self.net(images), torch.tensor(batch["labels"]))
            loss.backward()
            self.optimizer.step()
            losses.append(loss.item())
        return losses

    def save(self, path: Path) -> None:
        torch.save({"model": self.net.state_dict(), "optimizer": self.optimizer.state_dict()}, path)

    def load(self, path: Path) -> None:
        checkpoint = torch.load(path, weights_only=True)
        self.net.load_state_dict(checkpoint["model"])
        self.optimizer.load_state_dict(checkpoint["optimizer"])

    def parameters(self) -> Arrays:
        return {key: parameter.detach().numpy() for key, parameter in self.net.named_parameters()}


def without_dropout(call: Any, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
    """Linen interceptor: Dropout returns its input."""
    return args[0] if isinstance(context.module, layers.Dropout) else call(*args, **kwargs)


def train_in_jax(run: Any, given: Sequence[Batch]) -> tuple[TrainState, Curve]:
    """Go on with ``run``: its state after the batches, and the losses."""

    def loss(logits: Any, batch: Any) -> Any:
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"]).mean()

    step, state, losses = train_step(run.module, loss, run.transformation), run.state, []
    for batch in given:
        with nn.intercept_methods(without_dropout):
            state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    return state, losses


def to_jax(name: str, dtype: str, given: Sequence[Batch], path: Path) -> tuple[Curve, Arrays]:
    """10 steps in PyTorch and 15 in JAX: the losses and the final parameters."""
    first = TorchTraining(name, dtype)
    losses = first.train(given[:BEFORE])
    first.save(path)
    run = from_torch_checkpoint(path, DigitsNet(), given[0]["x"], step=BEFORE if name == "SGD" else None, dtype=dtype)
    state, more = train_in_jax(run, given[BEFORE:])
    return losses + more, run.plan.to_torch(state.variables)


def to_pytorch(name: str, dtype: str, given: Sequence[Batch], path: Path) -> tuple[Curve, Arrays]:
    """10 steps in JAX and 15 in PyTorch: the losses and the final parameters."""
    last, module, x = TorchTraining(name, dtype), DigitsNet(), given[0]["x"]
    variables = from_torch(module, last.net.state_dict(), x, dtype=dtype)
    run = start_run(module, variables, torch_optimizer(module, name, x, **OPTIMIZERS[name]), x)
    state, losses = train_in_jax(run, given[:BEFORE])
    to_torch_checkpoint(path, run, state)
    last.load(path)
    return losses + last.train(given[BEFORE:]), last.parameters()


def measured(name: str, dtype: str, path: Path) -> dict[str, Any]:
    """The losses of PyTorch alone, and for each direction the losses and the largest difference of a parameter."""
    given, alone = batches(dtype), TorchTraining(name, dtype)
    found: dict[str, Any] = {"PyTorch": alone.train(given)}
    for direction, hand_over in zip(DIRECTIONS, (to_jax, to_pytorch), strict=True):
        losses, ours = hand_over(name, dtype, given, path)
        off = {key: np.abs(ours[key] - x).max() / np.abs(x).max() for key, x in alone.parameters().items()}
        found[direction] = losses, max(off.values())
    return found


def apart(ours: Curve, theirs: Curve) -> np.ndarray:
    """The differences of the losses, each as a share of the loss."""
    return np.abs(np.subtract(ours, theirs)) / np.abs(theirs)


def draw(found: Mapping[tuple[str, str], dict[str, Any]], names: Sequence[str], path: Path) -> None:
    """A column for each optimizer: the losses above, their differences below."""
    figure = Figure(figsize=(2.2 * len(names) + 1, 5), layout="constrained")
    axes = figure.subplots(2, len(names), sharex=True, sharey="row", squeeze=False)
    steps = np.arange(1, BEFORE + AFTER + 1)
    for name, (above, below) in zip(names, axes.T, strict=True):
        above.set_title(name)
        above.plot(steps, found[name, "float32"]["PyTorch"], color="0.7", linewidth=4, label="PyTorch alone")
        for direction, style in zip(DIRECTIONS, ("-", "--"), strict=True):
            above.plot(steps, found[name, "float32"][direction][0], f"k{style}", linewidth=1, label=direction)
            for dtype, color in zip(DTYPES, ("C0", "C1"), strict=True):
                off = apart(found[name, dtype][direction][0], found[name, dtype]["PyTorch"])
                below.semilogy(steps, off + 1e-17, style, color=color, label=f"{dtype}, {direction}")
        for axis in (above, below):
            axis.axvline(BEFORE + 0.5, color="0.5", linestyle=":")
        below.set_xlabel("step")
    axes[0, 0].set_ylabel("loss in float32")
    axes[1, 0].set_ylabel("difference / loss")
    for row in axes:
        row[0].legend(fontsize="x-small")
    figure.savefig(path, dpi=120)


def main() -> None:
    """Train, print the table and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path, help="the PNG file to write")
    parser.add_argument("--optimizers", nargs="+", choices=OPTIMIZERS, default=list(OPTIMIZERS))
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_default_matmul_precision", "highest")
    found: dict[tuple[str, str], dict[str, Any]] = {}
    print(f"{'optimizer':<10} {'dtype':<8} {'direction':<11} {'losses':>8} {'parameters':>11}")
    for name in arguments.optimizers:
        for dtype in DTYPES:
            with tempfile.TemporaryDirectory() as folder:
                found[name, dtype] = part = measured(name, dtype, Path(folder, "run.pth"))
            for direction in DIRECTIONS:
                losses, parameters = part[direction]
                row = f"{apart(losses, part['PyTorch']).max():>8.1e} {parameters:>11.1e}"
                print(f"{name:<10} {dtype:<8} {direction:<11} {row}", flush=True)
    draw(found, arguments.optimizers, arguments.picture)


if __name__ == "__main__":
    main()
