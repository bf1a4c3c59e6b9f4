"""The tutorial's network for MNIST and what the networks for MNIST do with digits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from flax_attn.models import non_local_net, ram
from flax_attn.models import spatial_transformer_net as stn
from tests.helpers.layer import check_refusal, normal
from torch_ref.models import non_local_net as torch_non_local_net
from torch_ref.models import ram as torch_ram
from torch_ref.models import spatial_transformer_net as torch_stn


@pytest.fixture(scope="module")
def variables():
    return jax.jit(stn.spatial_transformer_net().init)(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))


@pytest.mark.parametrize("align_corners", [False, True])
def test_fresh_it_sees_the_image_and_its_era_says_how_far_a_pixel_is(variables, align_corners):
    net, x = stn.spatial_transformer_net(align_corners=align_corners), jnp.asarray(normal(2, 28, 28, 1))
    np.testing.assert_allclose(net.apply(variables, x, method="stn"), x, atol=1e-5)
    bias = jnp.asarray([1, 0, 2 / (27 if align_corners else 28), 0, 1, 0])
    moved = jax.tree.map(jnp.asarray, variables)
    moved["params"]["fc_loc"]["2"]["bias"] = bias
    seen = net.apply(moved, x, method="stn")
    np.testing.assert_allclose(seen, np.pad(x[:, :, 1:], [(0, 0), (0, 0), (0, 1), (0, 0)]), atol=1e-5)


def test_its_scores_are_log_probabilities(variables):
    x = jnp.asarray(normal(3, 28, 28, 1))
    scores = stn.spatial_transformer_net().apply(variables, x)
    np.testing.assert_allclose(jnp.exp(scores).sum(-1), 1, rtol=1e-6)


def test_dropout_takes_whole_channels_of_the_second_convolution(variables):
    net, x = stn.spatial_transformer_net(), jnp.asarray(normal(2, 28, 28, 1))
    rngs = {"dropout": jax.random.key(1)}
    _, state = net.apply(variables, x, train=True, rngs=rngs, capture_intermediates=True)
    seen = state["intermediates"]
    (kept,), (all_of_it,) = seen["conv2_drop"]["__call__"], seen["conv2"]["__call__"]
    dropped = (kept == 0).all((1, 2))
    assert 0 < dropped.sum() < dropped.size
    np.testing.assert_allclose(kept, jnp.where(dropped[:, None, None], 0, 2 * all_of_it))


@pytest.mark.parametrize("size", [(15, 40), (40, 15)])
def test_images_too_small_for_the_classifier_are_refused(size):
    arguments = dict(size=size, channels=(4,), kernel_sizes=(3,), pools=(2,))
    refuses = r"SpatialTransformerNet: expected a size of 16 or more each way"
    check_refusal(lambda: stn.SpatialTransformerNet(**arguments), refuses)


@pytest.mark.parametrize(
    ("ours", "theirs", "black", "white"),
    [
        (stn, torch_stn, -0.1307 / 0.3081, 0.8693 / 0.3081),
        (ram, torch_ram, -0.1307 / 0.3081, 0.8693 / 0.3081),
        (non_local_net, torch_non_local_net, 0, 1),
    ],
)
def test_digits_are_normalised_as_published(ours, theirs, black, white):
    digits = np.random.default_rng(0).integers(0, 256, (5, 28, 28, 1), dtype=np.uint8)
    digits[0, 0, :2, 0] = 0, 255
    got = ours.preprocess(digits)
    expected = theirs.preprocess(torch.tensor(np.moveaxis(digits, -1, 1)))
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, np.moveaxis(expected.numpy(), 1, -1), rtol=0, atol=1e-6)
    np.testing.assert_allclose(got[0, 0, :2, 0], [black, white], rtol=1e-6)
