"""What from_torch and to_torch return is the user's own: it shares memory with nothing, and nothing moves it."""

import itertools

import jax
import numpy as np
import pytest

from convert import from_torch, load, plan, read, to_torch
from convert.checkpoint import Checkpoint
from convert.tensors import Lazy, as_numpy, same_bits
from flax_attn import layers
from tests.convert.test_streaming import peak

X = jax.ShapeDtypeStruct((2, 5, 6, 3), "float32")
WIDTH, LAYERS = 500, 8
TENSOR = 4 * WIDTH**2


class Net(layers.Module):
    """Has leaves that are transposed, leaves that are not, statistics, and a second name."""

    aliases = (("head", "fc"),)

    def setup(self):
        self.conv, self.norm, self.fc = layers.Conv2d(3, 4, 3), layers.BatchNorm2d(4), layers.Linear(4, 4)

    def __call__(self, x, train=False):
        return self.fc(self.norm(self.conv(x), train).mean((1, 2)))


def arrays(module=None, x=X):
    rng = np.random.default_rng(0)
    mapping = plan(module or Net(), x)
    state = {row.key: rng.random(row.torch_shape, np.float32) for row in mapping.rows}
    return state | {key: state[row.key] for key, row in mapping.aliases.items()}


def copied(tree):
    return jax.tree.map(lambda leaf: np.array(leaf), tree)


def assert_owned(tree, *sources):
    leaves = jax.tree.leaves(tree)
    for leaf in leaves:
        assert type(leaf) is np.ndarray
        assert leaf.flags.carray
        assert leaf.flags.owndata
        assert leaf.base is None
    others = [np.asarray(leaf) for source in sources for leaf in jax.tree.leaves(source)]
    pairs = [*itertools.combinations(leaves, 2), *itertools.product(leaves, others)]
    assert not any(np.shares_memory(a, b) for a, b in pairs)


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("dtype", [None, "keep", "float32", "float16"])
def test_variables_share_no_memory_with_the_state_dict(dtype):
    state = arrays()
    variables = from_torch(Net(), state, X, dtype=dtype)
    assert_owned(variables, state)
    before = copied(variables)
    for value in state.values():
        value[...] = 7
    assert_equal(variables, before)


def test_read_only_arrays_of_other_libraries_become_writable_ones():
    state = arrays()
    frozen = {key: np.frombuffer(value.tobytes(), np.float32).reshape(value.shape) for key, value in state.items()}
    jaxs = {key: jax.numpy.asarray(value) for key, value in state.items()}
    for given in (frozen, jaxs):
        variables = from_torch(Net(), given, X)
        assert_owned(variables, given)
        assert_equal(variables, from_torch(Net(), state, X))


def test_training_the_torch_module_does_not_move_the_variables():
    torch = pytest.importorskip("torch")
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Sigmoid())
    ours = layers.Sequential([layers.Conv2d(3, 4, 3), layers.BatchNorm2d(4), layers.sigmoid])
    variables = from_torch(ours, net.state_dict(), X)
    assert_owned(variables, {key: value.numpy() for key, value in net.state_dict().items()})
    before = copied(variables)
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    net(torch.ones(2, 3, 5, 6)).sum().backward()
    optimizer.step()
    assert not np.array_equal(net.state_dict()["1.bias"].numpy(), before["params"]["1"]["bias"])
    assert_equal(variables, before)


def test_the_file_may_be_written_again(tmp_path):
    import safetensors.numpy

    file = tmp_path / "a.safetensors"
    state = arrays(layers.BatchNorm2d(3))
    safetensors.numpy.save_file(state, file)
    variables = from_torch(layers.BatchNorm2d(3), load(file), X)
    before = copied(variables)
    with open(file, "r+b") as open_file:
        open_file.write(b"\xff" * file.stat().st_size)
    assert_equal(variables, before)


@pytest.mark.parametrize("dialect", [None, "hf"])
def test_the_state_dict_shares_no_memory_with_the_variables(dialect):
    module, x = (Net(), X) if dialect is None else (layers.TransformerEncoderLayer(6, 2, 5), np.ones((4, 1, 6)))
    variables = from_torch(module, arrays(module, x), x)
    variables = {"params": jax.tree.map(jax.numpy.asarray, variables.pop("params")), **variables}
    state = to_torch(module, variables, x, dialect=dialect)
    assert_owned(state, variables)
    before = copied(state)
    for leaf in jax.tree.leaves(variables.get("batch_stats", {})):
        leaf[...] = 7
    assert_equal(state, before)


def test_second_names_have_memory_of_their_own():
    state = to_torch(Net(), from_torch(Net(), arrays(), X), X)
    state["fc.weight"][...] = 7
    assert not np.any(state["head.weight"] == 7)


def wide():
    return layers.Sequential([layers.Linear(WIDTH, WIDTH, bias=False) for _ in range(LAYERS)])


def lazies():
    def make():
        return np.ones((WIDTH, WIDTH), np.float32)

    return {f"{i}.weight": Lazy((WIDTH, WIDTH), np.dtype("float32"), make) for i in range(LAYERS)}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_arrays_are_copied_one_at_a_time(dtype):
    mapping = plan(wide(), jax.ShapeDtypeStruct((1, WIDTH), "float32"))
    size = np.dtype(dtype).itemsize // 4
    most = (LAYERS * size + 1.2) * TENSOR
    assert LAYERS * size * TENSOR < peak(lambda: mapping.from_torch(lazies(), dtype=dtype)) < most
    variables = mapping.from_torch(lazies())
    assert LAYERS * TENSOR < peak(lambda: mapping.to_torch(variables)) < (LAYERS + 1.2) * TENSOR


def test_a_checkpoint_is_taken_in_place_of_its_arrays(tmp_path):
    import safetensors.numpy

    given = Checkpoint(lazies(), "safetensors")
    variables = from_torch(wide(), given, jax.ShapeDtypeStruct((1, WIDTH), "float32"))
    assert_owned(variables)
    state = arrays(layers.BatchNorm2d(3))
    safetensors.numpy.save_file(state, tmp_path / "a")
    assert_equal(
        from_torch(layers.BatchNorm2d(3), read(tmp_path / "a"), X), from_torch(layers.BatchNorm2d(3), state, X)
    )


def test_bits_are_compared_without_copies():
    a = np.random.default_rng(0).random((2000, 600))
    b = a.copy()
    assert same_bits(a, b)
    assert same_bits(a.T, b.T)
    assert peak(lambda: same_bits(a, b)) < a.nbytes
    b.view(np.uint8)[-1, -1] ^= 1
    assert not same_bits(a, b)
    assert not same_bits(np.float32(0.0), np.float32(-0.0))
    assert not same_bits(np.zeros(3, np.float32), np.zeros(3, np.int32))
    assert not same_bits(np.zeros((1, 3)), np.zeros((3, 1)))
    nan = np.full(3, np.nan)
    assert same_bits(nan, nan.copy())
    assert same_bits(np.zeros((0, 3)), np.zeros((0, 3)))


def test_big_endian_arrays_become_native():
    state = {key: value.astype(">f4") for key, value in arrays().items()}
    variables = from_torch(Net(), state, X)
    assert all(leaf.dtype.isnative for leaf in jax.tree.leaves(variables))
    assert_equal(variables, from_torch(Net(), arrays(), X))
    assert as_numpy(np.arange(3, dtype=">i2")).dtype == np.dtype("int16")
