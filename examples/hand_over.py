"""Hand a training over, mid-way, from PyTorch to JAX and from JAX to PyTorch, and draw what differs.

    python -m examples.hand_over hand_over.png

DigitsNet learns scikit-learn's digits without dropout: 25 steps in PyTorch; 10 in PyTorch and 15 in JAX; 10 in JAX and
15 in PyTorch. A file is handed over. For comparison, PyTorch also trains alone on images that are changed by as much as
the dtype rounds. Prints the largest differences from PyTorch, in losses and parameters. Takes some minutes.
"""

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
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

from convert import from_torch, from_torch_checkpoint, start_run, to_torch_checkpoint, torch_optimizer
from flax_attn import DigitsNet, layers
from flax_attn.training import train_step
from torch_ref.models.digits_net import DigitsNet as TorchNet

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "SGD": dict(lr=0.05, momentum=0.9, weight_decay=5e-4),
    "AdamW": dict(lr=2e-3, amsgrad=True),
    **{name: dict(lr=2e-3) for name in ("Adam", "Adamax", "NAdam", "RAdam")},
    "RMSprop": dict(lr=5e-4, centered=True),
    "Adagrad": dict(lr=5e-3),
    "Adadelta": dict(lr=1.0),
}
BEFORE, AFTER, SIZE = 10, 15, 64
COLORS = {"float64": "C0", "float32": "C1"}
Losses, Arrays = list[float], Mapping[str, np.ndarray]


class TorchTraining:
    """A training in PyTorch that begins with the same numbers each time."""

    def __init__(self, name: str, dtype: str):
        torch.manual_seed(0)
        self.net = TorchNet().to(getattr(torch, dtype)).train()
        self.net.fc[0].p = 0.0
        self.optimizer = getattr(torch.optim, name)(self.net.parameters(), **OPTIMIZERS[name])

    def train(self, batches: Sequence[Arrays]) -> Losses:
        losses = []
        for batch in batches:
            self.optimizer.zero_grad()
            logits = self.net(torch.tensor(batch["x"]).permute(0, 3, 1, 2))
            loss = cross_entropy(logits, torch.tensor(batch["labels"]))
            loss.backward()
            self.optimizer.step()
            losses.append(loss.item())
        return losses

    def parameters(self) -> Arrays:
        return {key: parameter.detach().numpy() for key, parameter in self.net.named_parameters()}


def train_in_jax(run: Any, batches: Sequence[Arrays]) -> tuple[Any, Losses]:
    """The state of ``run`` after the batches, and the losses."""

    def loss(logits: Any, batch: Any) -> Any:
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"]).mean()

    def no_dropout(call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        return args[0] if isinstance(context.module, layers.Dropout) else call(*args, **kwargs)

    step, state, losses = train_step(run.module, loss, run.transformation), run.state, []
    for batch in batches:
        with nn.intercept_methods(no_dropout):
            state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    return state, losses


def alone(name: str, dtype: str, batches: Sequence[Arrays], path: Path) -> tuple[Losses, Arrays]:
    """All steps in PyTorch, on images that are a little changed: the losses and the final parameters."""
    training, rng, least = TorchTraining(name, dtype), np.random.default_rng(1), np.finfo(dtype).eps
    noisy = [{**b, "x": (b["x"] + least * rng.normal(size=b["x"].shape)).astype(dtype)} for b in batches]
    return training.train(noisy), training.parameters()


def to_jax(name: str, dtype: str, batches: Sequence[Arrays], path: Path) -> tuple[Losses, Arrays]:
    """10 steps in PyTorch and 15 in JAX."""
    first = TorchTraining(name, dtype)
    losses = first.train(batches[:BEFORE])
    torch.save({"model": first.net.state_dict(), "optimizer": first.optimizer.state_dict()}, path)
    run = from_torch_checkpoint(path, DigitsNet(), batches[0]["x"], step=BEFORE, dtype=dtype)
    state, more = train_in_jax(run, batches[BEFORE:])
    return losses + more, run.plan.to_torch(state.variables)


def to_pytorch(name: str, dtype: str, batches: Sequence[Arrays], path: Path) -> tuple[Losses, Arrays]:
    """10 steps in JAX and 15 in PyTorch."""
    last, module, x = TorchTraining(name, dtype), DigitsNet(), batches[0]["x"]
    variables = from_torch(module, last.net.state_dict(), x, dtype=dtype)
    run = start_run(module, variables, torch_optimizer(module, name, x, **OPTIMIZERS[name]), x)
    state, losses = train_in_jax(run, batches[:BEFORE])
    to_torch_checkpoint(path, run, state)
    checkpoint = torch.load(path, weights_only=True)
    last.net.load_state_dict(checkpoint["model"])
    last.optimizer.load_state_dict(checkpoint["optimizer"])
    return losses + last.train(batches[BEFORE:]), last.parameters()


def measure(name: str, dtype: str, above: Any, below: Any) -> None:
    """Train in each way, print the largest differences, and draw the losses in ``above``, their differences below."""
    digits = load_digits()
    chosen = np.random.default_rng(0).integers(0, len(digits.target), (BEFORE + AFTER, SIZE))
    batches = [{"x": (digits.images[i, ..., None] / 16).astype(dtype), "labels": digits.target[i]} for i in chosen]
    whole = TorchTraining(name, dtype)
    steps, expected = np.arange(1, len(batches) + 1), np.array(whole.train(batches))
    above.plot(steps, expected, color="0.8", linewidth=5)
    for way, style in ((to_jax, "-"), (to_pytorch, "--"), (alone, ":")):
        with tempfile.TemporaryDirectory() as folder:
            losses, ours = way(name, dtype, batches, Path(folder, "run.pth"))
        off = np.abs(losses - expected) / expected
        share = max(np.abs(ours[key] - x).max() / np.abs(x).max() for key, x in whole.parameters().items())
        print(f"{name:<9} {dtype} {way.__name__:<10} losses {off.max():.1e} parameters {share:.1e}", flush=True)
        above.plot(steps, losses, f"k{style}", linewidth=1)
        below.semilogy(steps, off + 1e-17, style, color=COLORS[dtype], label=f"{dtype}, {way.__name__}")


def main() -> None:
    """Train, print the differences and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path, help="the PNG file to write")
    parser.add_argument("--optimizers", nargs="+", choices=OPTIMIZERS, default=list(OPTIMIZERS))
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_default_matmul_precision", "highest")
    figure = Figure(figsize=(2.2 * len(arguments.optimizers) + 1, 5), layout="constrained")
    axes = figure.subplots(2, len(arguments.optimizers), sharex=True, sharey="row", squeeze=False).T
    for name, (above, below) in zip(arguments.optimizers, axes, strict=True):
        for dtype in COLORS:
            measure(name, dtype, above, below)
        above.set(title=name, ylabel="loss")
        below.set(xlabel="step", ylabel="difference of the loss, relative")
    axes[0, 1].legend(fontsize="xx-small")
    figure.savefig(arguments.picture, dpi=120)


if __name__ == "__main__":
    main()
