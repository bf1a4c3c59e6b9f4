"""The main job: real PyTorch checkpoints become Flax networks with the same numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convert import demo, from_torch, load, read
from flax_attn.models import non_local_net, ram
from tests.data import SHARED, mnist, needs


@pytest.fixture(scope="module")
def network():
    net = non_local_net.non_local_net()
    variables = from_torch(net, load(SHARED / "nonlocal_mnist" / "net.pth"), jnp.zeros((1, 28, 28, 1)))
    return jax.jit(lambda x: net.apply(variables, x, return_nl_map=True))


@needs("nonlocal_mnist", "mnist_t10k")
def test_trained_mnist_network_gets_9934_digits_right(network):
    images, labels = mnist()
    batches = non_local_net.preprocess(images).reshape(10, 1000, 28, 28, 1)
    predictions = np.concatenate([network(batch)[0].argmax(-1) for batch in batches])
    assert (predictions == labels).sum() == 9934


@needs("nonlocal_mnist", "mnist_t10k")
def test_attention_maps_are_the_authors_own(network):
    images, _ = mnist()
    _, maps = network(non_local_net.preprocess(images[:1]))
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
    x, net = ram.preprocess(images), ram.ram_6_8x8_2()
    state_dict = load(SHARED / "ram_mnist" / f"{name}.pth.tar")
    variables = from_torch(net, state_dict, x[:1], jnp.zeros((1, 2)), jnp.zeros((1, 256)))
    walk = jax.jit(lambda x, key: ram.average_over_trials(net, variables, x, num_glimpses=6, trials=10, key=key))
    right = [(walk(x, key).argmax(-1) == labels).mean() for key in jax.random.split(jax.random.key(0), 2)]
    assert np.mean(right) == pytest.approx(accuracy, abs=0.002)


@needs("ram_mnist", "mnist_t10k")
@pytest.mark.parametrize("name", RAM)
def test_recurrent_attention_walks_with_its_twin(name):
    """Same start, same noise, float32: every output of each of six glimpses, each side on its own places."""
    torch = pytest.importorskip("torch")
    from torch_ref.models import ram as twins

    images, _ = mnist()
    n, rng = 300, np.random.default_rng(0)
    noise = rng.normal(size=(6, n, 2)).astype("float32")
    x, place, state = (
        ram.preprocess(images[:n]),
        jnp.asarray(rng.uniform(-1, 1, (n, 2)), "float32"),
        jnp.zeros((n, 256), "float32"),
    )
    state_dict = load(SHARED / "ram_mnist" / f"{name}.pth.tar")
    net, twin = ram.ram_6_8x8_2(), twins.ram_6_8x8_2()
    twin.load_state_dict({key: torch.as_tensor(np.array(value)) for key, value in state_dict.items()})
    variables = from_torch(net, state_dict, x[:1], place[:1], state[:1])
    step = jax.jit(lambda *args: net.apply(variables, *args[:3], last=True, noise=args[3]))
    tensors = [torch.tensor(np.asarray(a)) for a in (x, place, state)]
    tensors[0] = tensors[0].movedim(-1, 1)
    for i in range(6):
        state, place, *rest = step(x, place, state, noise[i])
        with torch.no_grad():
            theirs = twin(*tensors, last=True, noise=torch.tensor(noise[i]))
        tensors[1:] = theirs[1], theirs[0]
        for ours, expected in zip((state, place, *rest), theirs, strict=True):
            assert ours.dtype == "float32"
            np.testing.assert_allclose(ours, expected.numpy(), rtol=0, atol=1e-5)


def test_carried_checkpoint_gives_pytorchs_logits():
    result = demo.run()
    assert result.difference <= demo.TOLERANCE
    assert (result.predictions == result.labels).sum() == 358


def test_carried_files_are_small():
    assert sum(path.stat().st_size for path in demo.FOLDER.glob("digits.*")) < 300_000
