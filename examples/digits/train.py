"""Train the checkpoint that ``flax-attn-convert demo`` converts: DigitsNet, in PyTorch, on scikit-learn's digits.

    python -m examples.digits.train

Writes digits.pth (the state dict, as torch.save writes it) and digits.npz (every fifth digit, held out, with PyTorch's
logits) to convert/demo. Takes under a minute on two cores.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy

from torch_ref.models.digits_net import DigitsNet

FOLDER = Path(__file__).parents[2] / "convert" / "demo"


def split() -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """Training and held-out (images (n, 1, 8, 8) in [0, 1], labels (n,))."""
    digits = load_digits()
    images = torch.tensor(digits.images / 16, dtype=torch.float32)[:, None]
    labels = torch.tensor(digits.target)
    held_out = torch.arange(len(labels)) % 5 == 0
    return (images[~held_out], labels[~held_out]), (images[held_out], labels[held_out])


def train(net: DigitsNet, images: torch.Tensor, labels: torch.Tensor, epochs: int) -> None:
    """AdamW with a one-cycle schedule; each batch is shifted by up to one pixel."""
    steps = epochs * (len(labels) // 64)
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, steps)
    net.train()
    for _ in range(steps):
        batch = torch.randint(len(labels), (64,))
        dy, dx = torch.randint(-1, 2, (2,)).tolist()
        loss = cross_entropy(net(images[batch].roll((dy, dx), (2, 3))), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def main() -> None:
    """Train, report the held-out accuracy and write both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--out", type=Path, default=FOLDER)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    net = DigitsNet()
    training, (images, labels) = split()
    train(net, *training, arguments.epochs)
    with torch.no_grad():
        logits = net.eval()(images)
    right = int((logits.argmax(1) == labels).sum())
    print(f"held-out digits: {right} of {len(labels)} right, {right / len(labels):.2%}")
    torch.save(net.state_dict(), arguments.out / "digits.pth")
    pixels = (images[:, 0] * 16).round().to(torch.uint8).numpy()
    np.savez_compressed(
        arguments.out / "digits.npz", pixels=pixels, labels=labels.numpy().astype(np.uint8), logits=logits.numpy()
    )


if __name__ == "__main__":
    main()
