import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flax_attn import optim
from tests.helpers.schedulers import CASES, LRS, lr_scheduler, lrs_of, optimizer_with, started

STEPS = 301
"""The steps from 0 to 300."""


def assert_equal(actual, expected, rtol=1e-12):
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=1e-3 * rtol * min(LRS))


@pytest.mark.parametrize("name", CASES)
def test_300_steps_equal_pytorch(name):
    expected = lrs_of(started(CASES[name]), STEPS)
    for lr, values in zip(LRS, expected, strict=True):
        assert_equal(CASES[name].flax(lr)(jnp.arange(STEPS)), values)
        assert_equal(jax.jit(CASES[name].flax(lr))(jnp.int32(173)), values[173])


@pytest.mark.parametrize("name", CASES)
def test_float32_is_exact_too(name):
    expected = lrs_of(started(CASES[name]), STEPS)[0]
    with jax.enable_x64(False):
        actual = CASES[name].flax(LRS[0])(np.arange(STEPS))
        assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, expected, rtol=2e-6, atol=1e-8 * max(expected))
