"""The main job: real PyTorch checkpoints become Flax networks with the same numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convert import demo, from_torch, load, read
from flax_attn import NonLocalNet, OldRecurrentAttention
from flax_attn.models.ram import average_over_trials
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


RAM = {"ram_6_8x8_2_model_best": 0.985, "ram_6_8x8_2_model_best_3ac8824": 0.989}


@needs("ram_mnist", "mnist_t10k")
@pytest.mark.parametrize(("name", "accuracy"), RAM.items())
def test_recurrent_attention_reads_digits_as_published(name, accuracy):
    images, labels = mnist()
    x = jnp.asarray((images / np.float32(255) - np.float32(0.1307)) / np.float32(0.3081))
    net = OldRecurrentAttention(8, 1, 2.0, 1, 128, 128, 0.17, 256, 10)
    state_dict = load(SHARED / "ram_mnist" / f"{name}.pth.tar")
    variables = from_torch(net, state_dict, x[:1], jnp.zeros((1, 2)), jnp.zeros((1, 256)))
    walk = jax.jit(lambda x, key: average_over_trials(net, variables, x, num_glimpses=6, trials=10, key=key))
    right = [(walk(x, key).argmax(-1) == labels).mean() for key in jax.random.split(jax.random.key(0), 2)]
    assert np.mean(right) == pytest.approx(accuracy, abs=0.002)


def test_carried_checkpoint_gives_pytorchs_logits():
    result = demo.run()
    assert result.difference <= demo.TOLERANCE
    assert (result.predictions == result.labels).sum() == 358


def test_carried_files_are_small():
    assert sum(path.stat().st_size for path in demo.FOLDER.glob("digits.*")) < 300_000
