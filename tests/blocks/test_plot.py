"""The picture of a criss-cross shows the weights where they belong."""

import matplotlib

matplotlib.use("agg")

import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib import pyplot as plt

from flax_attn import criss_cross_attention
from flax_attn.plot import plot_criss_cross


def test_cross_is_drawn_through_the_position():
    rng = np.random.default_rng(0)
    arrays = [jnp.asarray(rng.normal(size=(1, 5, 7, 3))) for _ in range(3)]
    _, row, column = criss_cross_attention(*arrays, attention_weights=True)
    figure, ax = plt.subplots()
    assert plot_criss_cross(np.zeros((50, 70)), row[0, 1, 2], column[0, 1, 2], (1, 2), ax) is ax
    drawn = np.ma.filled(ax.images[1].get_array(), np.nan)
    np.testing.assert_allclose(drawn[1], row[0, 1, 2])
    np.testing.assert_allclose(np.delete(drawn[:, 2], 1), np.delete(column[0, 1, 2], 1))
    assert np.isnan(np.delete(np.delete(drawn, 1, 0), 2, 1)).all()
    assert np.nansum(drawn) == pytest.approx(1)
    plt.close(figure)


def test_position_outside_is_refused():
    with pytest.raises(ValueError, match=r"expected a position within \(5, 7\), got \(5, 0\)"):
        plot_criss_cross(np.zeros((5, 7)), np.zeros(7), np.zeros(5), (5, 0))
