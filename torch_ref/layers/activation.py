"""Activations that torch.nn.functional lacks."""

import torch
from torch import Tensor


def softmax(x: Tensor, axis: int | tuple[int, ...]) -> Tensor:
    """Softmax over one axis, or over several axes together."""
    return torch.exp(x - torch.logsumexp(x, axis, keepdim=True))
