"""The main job: real PyTorch checkpoints become Flax networks with the same numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convert import demo, from_torch, load, read
from flax_attn.models import non_local_net, ram
from tests.helpers.data import SHARED, mnist, needs


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


RAM = ["ram_6_8x8_2_model_best", "ram_6_8x8_2_model_best_3ac8824"]


@needs("ram_mnist", "mnist_t10k")
@pytest.mark.parametrize(
    ("name", "accuracy"),
    [("ram_6_8x8_2_model_best", 0.985), pytest.param("ram_6_8x8_2_model_best_3ac8824", 0.989, marks=pytest.mark.slow)],
)
def test_recurrent_attention_reads_digits_as_published(name, accuracy):
    images, labels = mnist()
    x, net = ram.preprocess(images), ram.ram_6_8x8_2()
    state_dict = load(SHARED / "ram_mnist" / f"{name}.pth.tar")
    variables = from_torch(net, state_dict, x[:1], jnp.zeros((1, 2)), jnp.zeros((1, 256)))
    walk = jax.jit(lambda x, key: ram.average_over_trials(net, variables, x, num_glimpses=6, trials=10, key=key))
    right = [(walk(x, key).argmax(-1) == labels).mean() for key in jax.random.split(jax.random.key(0), 2)]
    assert np.mean(right) == pytest.approx(accuracy, abs=0.002)


@needs("ram_mnist", "mnist_t10k")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", RAM)
def test_recurrent_attention_walks_with_its_twin(name, dtype):
    """Six glimpses at 300 digits with the same start and noise: every output to 1e-5 in float32.

    In float64 each side goes its own way, to 1e-10. In float32 both set out anew from the same place and state each
    time: a walk of six multiplies their rounding, on either side alike, to as much as 7e-5.
    """
    torch = pytest.importorskip("torch")
    from torch_ref.models import ram as twins

    n, rng = 300, np.random.default_rng(0)
    noise = rng.normal(size=(6, n, 2)).astype(dtype)
    walk = [ram.preprocess(mnist()[0][:n]), rng.uniform(-1, 1, (n, 2)), np.zeros((n, 256))]
    x, place, state = (np.asarray(a, dtype) for a in walk)
    net, twin = ram.ram_6_8x8_2(), twins.ram_6_8x8_2()
    state_dict = load(SHARED / "ram_mnist" / f"{name}.pth.tar")
    twin.load_state_dict({key: torch.as_tensor(value.copy()) for key, value in state_dict.items()})
    twin.to(getattr(torch, dtype))
    variables = jax.tree.map(
        lambda leaf: jnp.asarray(leaf, dtype), from_torch(net, state_dict, *map(jnp.asarray, (x, place, state)))
    )
    step = jax.jit(lambda x, *where, noise: net.apply(variables, x, *where, last=True, noise=noise))
    images, *theirs = (torch.tensor(a) for a in (np.moveaxis(x, -1, 1), place, state))
    for draw in noise:
        ours = step(x, place, state, noise=draw)
        with torch.no_grad():
            expected = twin(images, *theirs, last=True, noise=torch.tensor(draw))
        for got, other in zip(ours, expected, strict=True):
            assert got.dtype == dtype
            np.testing.assert_allclose(got, other.numpy(), rtol=0, atol=1e-5 if dtype == "float32" else 1e-10)
        state, place = map(np.asarray, ours[:2])
        theirs = [torch.tensor(place), torch.tensor(state)] if dtype == "float32" else [expected[1], expected[0]]


def test_carried_checkpoint_gives_pytorchs_logits():
    result = demo.run()
    assert result.within
    assert (result.predictions == result.labels).sum() == 358


def test_carried_files_are_small():
    assert sum(path.stat().st_size for path in demo.FOLDER.glob("digits.*")) < 300_000
