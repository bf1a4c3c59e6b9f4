"""The main job: real PyTorch checkpoints become Flax networks with the same numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convert import demo, from_torch, load, read
from flax_attn import NonLocalNet
from tests.data import SHARED, mnist, needs


@pytest.fixture(scope="module")
def network():
    net = NonLocalNet()
    variables = from_torch(net, load(SHARED / "nonlocal_mnist" / "net.pth"), jnp.zeros((1, 28, 28, 1)))
    return jax.jit(lambda x: net.apply(variables, x, return_nl_map=True))


@needs("nonlocal_mnist", "mnist_t10k")
def test_trained_mnist_network_gets_9934_digits_right(network):
    images, labels = mnist()
    batches = (images / np.float32(255)).reshape(10, 1000, 28, 28, 1)
    predictions = np.concatenate([network(batch)[0].argmax(-1) for batch in batches])
    assert (predictions == labels).sum() == 9934


@needs("nonlocal_mnist", "mnist_t10k")
def test_attention_maps_are_the_authors_own(network):
    images, _ = mnist()
    _, maps = network(images[:1] / np.float32(255))
    for i, got in enumerate(maps, 1):
        np.testing.assert_allclose(got, np.load(SHARED / "nonlocal_mnist" / f"nl_map_{i}.npy"), rtol=0, atol=1e-5)


@needs("nonlocal_mnist")
def test_the_file_is_a_legacy_pickle_of_a_data_parallel_module():
    checkpoint = read(SHARED / "nonlocal_mnist" / "net.pth")
    assert (checkpoint.format, checkpoint.prefix, checkpoint.wrapper) == ("legacy pickle", "module.", None)


def test_carried_checkpoint_gives_pytorchs_logits():
    result = demo.run()
    assert result.difference <= demo.TOLERANCE
    assert (result.predictions == result.labels).sum() == 358


def test_carried_files_are_small():
    assert sum(path.stat().st_size for path in demo.FOLDER.glob("digits.*")) < 300_000
