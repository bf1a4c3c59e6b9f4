"""RAM's loss with REINFORCE and a baseline, beside PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flax_attn.losses as losses
from tests.helpers.losses import check_loss, in_each_reduction, rng

torch = pytest.importorskip("torch")
F = torch.nn.functional


@pytest.mark.parametrize(("n", "t"), [(5, 6), (1, 1), (8, 3)])
def test_ram_loss_is_upstreams(n, t):
    x, y = rng(n).normal(size=(n, 10)), rng(1).integers(0, 10, n)
    y[0] = x[0].argmax()
    log_pi, baselines = rng(2).normal(size=(n, t)), rng(3).uniform(size=(n, t))
    labels = torch.tensor(y)

    def upstream(log_probas, log_pi, baselines):
        reward = (log_probas.max(1)[1].detach() == labels).double()[:, None].repeat(1, t)
        reinforce = (-log_pi * (reward - baselines.detach())).sum(1).mean(0)
        return F.nll_loss(log_probas, labels) + F.mse_loss(baselines, reward) + reinforce * 0.01

    log_probas = torch.log_softmax(torch.tensor(x), 1).numpy()
    check_loss(lambda x, p, b: losses.ram_loss(x, y, p, b), upstream, log_probas, log_pi, baselines)


def test_mse_loss_is_torchs():
    x, t = rng(1).normal(size=(2, 3)), rng(2).normal(size=(2, 3))
    theirs = in_each_reduction(lambda x, t, way: F.mse_loss(x, t, reduction=way))
    check_loss(in_each_reduction(losses.mse_loss), theirs, x, t)


def test_half_precision_is_float32():
    half = jnp.ones((2, 3), jnp.bfloat16)
    labels = jnp.array([0, 1])
    assert jax.eval_shape(losses.ram_loss, half, labels, half, half).dtype == jnp.float32
    assert jax.eval_shape(losses.reinforce_loss, half, half, half).dtype == jnp.float32
    assert jax.eval_shape(losses.mse_loss, half, half).dtype == jnp.float32


X, Y = jnp.ones((2, 3)), np.array([0, 2])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: losses.ram_loss(X, Y, X, X[:1]), r"log_pi and baselines of one shape \(2, t\), got \(2, 3\) and \(1"),
        (lambda: losses.ram_loss(X, Y[:, None], X, X), r"ram_loss: expected labels of shape \(2,\), got \(2, 1\)"),
        (lambda: losses.ram_loss(X, Y + 1, X, X), "labels from 0 to 2, or ignore_index=-100, got 3"),
        (lambda: losses.mse_loss(X, X[0]), r"targets of shape \(2, 3\), got \(3,\)"),
        (lambda: losses.mse_loss(X, X, "all"), "a reduction of mean, sum, none, got 'all'"),
    ],
)
def test_bad_input_is_refused(call, words, no_annotation_checks):
    with pytest.raises(ValueError, match=words):
        call()
