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
    """Compare ours(*inputs) and theirs(*tensors), and the gradients of their sums with respect to every input.

    Both return an array, or a list of several.
    """
    tensors = [torch.tensor(x, requires_grad=True) for x in inputs]
    expected = theirs(*tensors)
    expected = expected if isinstance(expected, list) else [expected]
    total = sum(each.sum() for each in expected)
    total.backward()
    indices = tuple(range(len(inputs)))
    (_, result), grads = jax.jit(jax.value_and_grad(lambda *xs: totalled(ours(*xs)), indices, has_aux=True))(*inputs)
    for got, each in zip(result, expected, strict=True):
        assert got.dtype == jnp.float64
        agree(got, each.detach().numpy())
    for grad, tensor in zip(grads, tensors, strict=True):
        agree(grad, np.zeros_like(grad) if tensor.grad is None else tensor.grad.numpy())
    return float(total.detach())


def totalled(loss: jax.Array | list[jax.Array]) -> tuple[jax.Array, list[jax.Array]]:
    """The sum of all losses, and their list."""
    losses = loss if isinstance(loss, list) else [loss]
    return sum(each.sum() for each in losses), losses


def in_each_reduction(loss: Callable) -> Callable:
    """The function whose result is the list of the losses with the reductions "mean", "sum" and "none"."""
    return lambda *xs: [loss(*xs, reduction) for reduction in ("mean", "sum", "none")]


def agree(got, expected) -> None:
    scale = max(1.0, float(np.nanmax(np.abs(expected), initial=0)))
    np.testing.assert_allclose(np.asarray(got) / scale, expected / scale, rtol=0, atol=TOLERANCE)
