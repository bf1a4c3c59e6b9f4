"""Random numbers for any torch module, of this project or of another."""

import numpy as np
import torch

from convert.comparing.case import random_array


def randomise(module: torch.nn.Module, rng: np.random.Generator) -> None:
    """Random numbers for every parameter, gamma, affine and running statistic, such that signals keep their scale."""
    for name, tensor in module.state_dict().items():
        value = random_array(name, tensor.shape, rng)
        if tensor.is_floating_point():
            tensor.copy_(torch.as_tensor(value))
