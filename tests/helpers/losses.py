"""A loss in JAX beside one in PyTorch: the same value and the same gradient, in float64 and under jit."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

TOLERANCE = 1e-12


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def check_loss(ours: Callable, theirs: Callable, *inputs: np.ndarray) -> float:
    """Compare ours(*inputs) and theirs(*tensors), summed if they are no scalars, and the gradients of every input."""
    tensors = [torch.tensor(x, requires_grad=True) for x in inputs]
    expected = theirs(*tensors)
    expected.sum().backward()
    indices = tuple(range(len(inputs)))
    (_, result), grads = jax.jit(jax.value_and_grad(lambda *xs: totalled(ours(*xs)), indices, has_aux=True))(*inputs)
    assert result.dtype == jnp.float64
    agree(result, expected.detach().numpy())
    for grad, tensor in zip(grads, tensors, strict=True):
        agree(grad, np.zeros_like(grad) if tensor.grad is None else tensor.grad.numpy())
    return float(expected.detach().sum())


def totalled(loss: jax.Array) -> tuple[jax.Array, jax.Array]:
    return loss.sum(), loss


def agree(got, expected) -> None:
    scale = max(1.0, float(np.nanmax(np.abs(expected), initial=0)))
    np.testing.assert_allclose(np.asarray(got) / scale, expected / scale, rtol=0, atol=TOLERANCE)
