"""Linear, Embedding, dropout, containers, activations, flattening, precision and initialisation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

torch = pytest.importorskip("torch")
functional = torch.nn.functional

from convert import plan
from flax_attn import layers
from tests.helpers.layer import array, channels_first, check_layer, check_refusal, normal, same, tensor, trace
from tests.helpers.tolerances import assert_close


def check_plain(ours, theirs, x):
    """Values and gradient of a function that knows no channels."""
    t = tensor(x)
    out = theirs(t)
    cotangent = normal(*out.shape, dtype=x.dtype, seed=1)
    out.backward(torch.tensor(cotangent))
    y, pull = jax.vjp(ours, jnp.asarray(x))
    assert_close(y, out.detach(), x.dtype.name)
    assert_close(pull(jnp.asarray(cotangent))[0], t.grad, x.dtype.name, "gradient")


@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 7, 5)], ids=len)
@pytest.mark.parametrize("bias", [True, False])
def test_linear(shape, bias):
    check_layer(layers.Linear(5, 4, bias), torch.nn.Linear(5, 4, bias), normal(*shape), first=same, last=same)


def test_linear_without_inputs_or_outputs():
    for sizes in ((5, 0), (0, 5)):
        ours, expected = layers.Linear(*sizes, bias=False), torch.zeros(3, sizes[1])
        assert_close(ours.init_with_output(jax.random.key(0), jnp.ones((3, sizes[0])))[0], expected)


def test_embedding():
    layer, twin = layers.Embedding(7, 3), torch.nn.Embedding(7, 3).double()
    index = np.array([[0, 6, 2], [2, 2, 5]])
    twin(torch.tensor(index)).square().sum().backward()
    variables = {"params": {"embedding": jnp.asarray(twin.weight.detach().numpy())}}
    loss = lambda variables: jnp.square(layer.apply(variables, jnp.asarray(index))).sum()  # noqa: E731
    value, grads = jax.value_and_grad(loss)(variables)
    assert_close(value, twin(torch.tensor(index)).square().sum().detach())
    assert_close(grads["params"]["embedding"], twin.weight.grad)
    outside = layer.apply(variables, jnp.array([-1, 7, 0]))
    assert np.isnan(outside[:2]).all()
    assert not np.isnan(outside[2]).any()


def drop(layer, x, seed=0):
    return np.asarray(layer.apply({}, x, train=True, rngs={"dropout": jax.random.key(seed)}))


@pytest.mark.parametrize(
    ("cls", "draw"),
    [
        (layers.Dropout, (64, 3, 5, 40)),
        (layers.Dropout1d, (64, 1, 1, 40)),
        (layers.Dropout2d, (64, 1, 1, 40)),
        (layers.Dropout3d, (64, 1, 1, 40)),
        (layers.DropPath, (4000, 1, 1, 1)),
    ],
)
def test_dropout(cls, draw):
    p, ones = 0.3, jnp.ones((draw[0], 3, 5, draw[3] if draw[3] > 1 else 2))
    y = drop(cls(p), ones)
    kept = np.unique(y)
    np.testing.assert_allclose(kept, [0, 1 / (1 - p)])
    one_draw = y[tuple(slice(None) if n > 1 else slice(0, 1) for n in draw)]
    assert (y == one_draw).all()
    assert abs((one_draw == 0).mean() - p) < 5 * np.sqrt(p * (1 - p) / one_draw.size)
    assert (drop(cls(p), ones) == y).all()
    assert (drop(cls(p), ones, seed=1) != y).any()
    assert (drop(cls(0.0), ones) == ones).all()
    assert (drop(cls(1.0), ones) == 0).all()
    assert (cls(p).apply({}, ones) == ones).all()
    assert drop(cls(p), ones.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_alpha_dropout():
    """The two values that an element can become are torch's; mean 0 and variance 1 are kept."""
    p, constant, x = 0.3, np.full((100, 200), 0.7), normal(100, 200)
    torch.manual_seed(0)
    ours, theirs = (
        drop(layers.AlphaDropout(p), jnp.asarray(constant)),
        torch.nn.AlphaDropout(p)(torch.tensor(constant)),
    )
    assert_close(np.unique(ours), np.unique(theirs))
    assert abs((ours == ours.min()).mean() - p) < 5 * np.sqrt(p * (1 - p) / ours.size)
    y = drop(layers.AlphaDropout(p), jnp.asarray(x))
    assert abs(y.mean()) < 5 / np.sqrt(y.size)
    assert abs(y.var() - 1) < 10 / np.sqrt(y.size)
    assert (drop(layers.AlphaDropout(1.0), jnp.asarray(x)) == 0).all()
    assert (drop(layers.AlphaDropout(0.0), jnp.asarray(x)) == x).all()
    assert drop(layers.AlphaDropout(p), jnp.ones((3, 4), jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize("p", [-0.1, 1.1])
def test_dropout_probability(p):
    for cls in (layers.Dropout, layers.Dropout2d, layers.AlphaDropout, layers.DropPath):
        check_refusal(lambda cls=cls: cls(p), r"p in \[0, 1\]", lambda: torch.nn.Dropout(p))


def test_children_are_named_by_position():
    ours = layers.Sequential(
        [
            layers.Conv2d(3, 4, 1),
            layers.relu,
            layers.Sequential([layers.BatchNorm2d(4), layers.Dropout(0.0), layers.Conv2d(4, 2, 3)]),
        ]
    )
    nn = torch.nn
    twin = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Sequential(nn.BatchNorm2d(4), nn.Dropout(0.0), nn.Conv2d(4, 2, 3))
    )
    x = normal(2, 5, 7, 3)
    keys = {row.key for row in plan(ours, x).rows}
    assert keys == {key for key in twin.state_dict() if "num_batches" not in key}
    check_layer(ours, twin, x, x, train=True)


def test_module_list_is_a_sequence():
    modules = layers.ModuleList([layers.Linear(2, 3), layers.relu, layers.Linear(3, 4)])
    assert len(modules) == 3
    assert [getattr(m, "name", None) for m in modules] == ["0", None, "2"]
    assert modules[2].out_features == 4


@pytest.mark.parametrize("shift", [0.0, 1e-3, 3.0, -12.0])
def test_gelu_is_exact(shift):
    x = normal(2, 7, 5) + shift
    theirs = functional.gelu(torch.tensor(x)).numpy()
    np.testing.assert_allclose(layers.gelu(jnp.asarray(x)), theirs, rtol=0, atol=1e-12)
    check_plain(layers.gelu, functional.gelu, x)


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "sigmoid"])
def test_activations(name):
    x = 3 * normal(2, 7, 5)
    x[0, :3, 0] = [0.0, -0.0, -800]
    check_plain(getattr(layers, name), getattr(functional, name), x)
    assert np.isnan(getattr(layers, name)(jnp.array([np.nan]))).all()


def test_leaky_relu_slope():
    check_plain(lambda x: layers.leaky_relu(x, 0.2), lambda t: functional.leaky_relu(t, 0.2), normal(3, 5))


@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax(name, axis):
    x = 10 * normal(3, 4, 5)
    x[0, 1, 2] = -np.inf if name == "softmax" else -1e5
    check_plain(lambda x: getattr(layers, name)(x, axis), lambda t: getattr(functional, name)(t, axis), x)
    x[1] = -np.inf
    assert_close(getattr(layers, name)(jnp.asarray(x), axis), getattr(functional, name)(torch.tensor(x), axis))
    assert np.isnan(layers.softmax(jnp.full((2, 3), -jnp.inf))).all()


def test_softmax_over_two_axes():
    x = normal(2, 3, 4, 5)
    expected = torch.tensor(x).flatten(1, 2).softmax(1).reshape(x.shape)
    assert_close(layers.softmax(jnp.asarray(x), (1, 2)), expected)


def test_flatten_orders_as_torch():
    x = normal(2, 3, 5, 4)
    expected = torch.nn.Flatten()(torch.tensor(channels_first(x)))
    np.testing.assert_array_equal(layers.flatten(jnp.asarray(x)), expected)


def test_half_precision_sums_are_kept_in_float32():
    n = 4096
    ones = jnp.ones(n, jnp.bfloat16)
    assert float(layers.einsum("i,i->", ones, ones)) == n
    assert layers.einsum("i,i->", ones, ones).dtype == jnp.bfloat16
    x = jnp.asarray(normal(3, n), jnp.bfloat16)
    for ours, theirs in ((layers.softmax, functional.softmax), (layers.log_softmax, functional.log_softmax)):
        got, expected = ours(x), theirs(torch.tensor(np.asarray(x, np.float32)), -1)
        assert got.dtype == jnp.bfloat16
        np.testing.assert_allclose(np.asarray(got, np.float32), expected, rtol=2**-8)
    for layer, shape in ((layers.Linear(n, 1, bias=False), (1, n)), (layers.Conv2d(n, 1, 1, bias=False), (1, 1, 1, n))):
        layer = layer.clone(kernel_init=layers.init.ones, param_dtype=jnp.bfloat16)
        y, _ = layer.init_with_output(jax.random.key(0), ones.reshape(shape))
        assert y.dtype == jnp.bfloat16
        assert float(y.squeeze()) == n


def test_precision_is_inherited_and_can_be_overridden():
    net = layers.Sequential(
        [
            layers.Conv1d(3, 4, 1),
            layers.Sequential([layers.BatchNorm1d(4)]),
            layers.Linear(4, 2, param_dtype=jnp.float32),
        ],
        dtype=jnp.bfloat16,
        param_dtype=jnp.float64,
    )
    y, variables = net.init_with_output(jax.random.key(0), jnp.ones((2, 5, 3)))
    assert y.dtype == jnp.bfloat16
    dtypes = {key: leaf.dtype for key, leaf in plan(net, jnp.ones((2, 5, 3))).to_torch(variables).items()}
    assert dtypes.pop("2.weight") == dtypes.pop("2.bias") == jnp.float32
    assert set(dtypes.values()) == {jnp.dtype("float64")}


ALL = [
    (layers.Conv1d(4, 6, 3, 2, 1, groups=2), (2, 9, 4)),
    (layers.Conv2d(4, 6, 3, 2, 1), (2, 5, 7, 4)),
    (layers.Conv3d(4, 6, 3, 1, 1), (2, 3, 4, 5, 4)),
    (layers.ConvTranspose1d(4, 6, 3, 2, 1, 1, groups=2), (2, 9, 4)),
    (layers.ConvTranspose2d(4, 6, 3, 2, 1), (2, 5, 7, 4)),
    (layers.ConvTranspose3d(4, 6, 3), (2, 2, 3, 4, 4)),
    (layers.Linear(4, 6), (2, 5, 4)),
    (layers.BatchNorm1d(4), (5, 4)),
    (layers.BatchNorm2d(4), (2, 5, 7, 4)),
    (layers.BatchNorm3d(4), (2, 3, 4, 5, 4)),
    (layers.FrozenBatchNorm2d(4), (2, 5, 7, 4)),
    (layers.LayerNorm(4), (2, 5, 4)),
    (layers.LayerNorm((4, 5)), (2, 5, 4)),
    (layers.GroupNorm(2, 4), (2, 5, 7, 4)),
]
every_layer = pytest.mark.parametrize(("layer", "shape"), ALL, ids=lambda v: type(v).__name__)


@every_layer
def test_jit_vmap_and_bfloat16(layer, shape):
    xs = array(3, *shape)
    variables = jax.jit(layer.init)(jax.random.key(0), xs[0])
    apply = lambda x: layer.apply(variables, x)  # noqa: E731
    jitted = jax.jit(apply)
    assert_close(jitted(xs[0]), apply(xs[0]))
    for x, y in zip(xs, jax.jit(jax.vmap(apply))(xs), strict=True):
        assert_close(y, jitted(x))
    half = jax.jit(layer.clone(dtype=jnp.bfloat16).apply)(variables, xs[0])
    assert half.dtype == jnp.bfloat16
    assert_close(half, jitted(xs[0]), "bfloat16")


FRESH = [
    (layers.Conv1d(6, 8, 5, groups=2), torch.nn.Conv1d(6, 8, 5, groups=2), (2, 9, 6)),
    (layers.Conv2d(6, 8, 3), torch.nn.Conv2d(6, 8, 3), (2, 5, 7, 6)),
    (layers.Conv2d(6, 12, (3, 5), groups=6), torch.nn.Conv2d(6, 12, (3, 5), groups=6), (2, 5, 7, 6)),
    (layers.Conv3d(6, 8, 2), torch.nn.Conv3d(6, 8, 2), (2, 3, 4, 5, 6)),
    (layers.ConvTranspose1d(6, 8, 5, groups=2), torch.nn.ConvTranspose1d(6, 8, 5, groups=2), (2, 9, 6)),
    (layers.ConvTranspose2d(6, 12, 3, groups=3), torch.nn.ConvTranspose2d(6, 12, 3, groups=3), (2, 5, 7, 6)),
    (layers.ConvTranspose3d(6, 8, 2), torch.nn.ConvTranspose3d(6, 8, 2), (2, 2, 3, 4, 6)),
    (layers.Linear(6, 40), torch.nn.Linear(6, 40), (2, 6)),
]
DRAWS, P = 20, 1e-4


def draws(layer, x, n=DRAWS):
    init = jax.jit(jax.vmap(lambda key: layer.init(key, x)))
    return init(jax.random.split(jax.random.key(0), n))


def check_distribution(ours, theirs):
    ours, theirs = np.ravel(ours), np.ravel(theirs)
    assert stats.ks_2samp(ours, theirs).pvalue > P
    np.testing.assert_allclose(ours.std(), theirs.std(), rtol=5 / np.sqrt(theirs.size))


@pytest.mark.parametrize(("layer", "twin", "shape"), FRESH, ids=lambda v: type(v).__name__ if callable(v) else "")
def test_fresh_parameters_are_distributed_as_torchs(layer, twin, shape):
    x = jnp.zeros(shape)
    torch.manual_seed(0)
    theirs = {key: [] for key in twin.state_dict()}
    for _ in range(DRAWS):
        twin.reset_parameters()
        for key, value in twin.state_dict().items():
            theirs[key].append(value.clone().numpy())
    leaves = plan(layer, x)
    drawn = jax.tree.map(np.asarray, draws(layer, x))
    for i, row in enumerate(leaves.rows):
        ours = drawn["params"][row.path[-1]]
        check_distribution(ours, np.stack(theirs[row.key]))
        bound = np.abs(np.stack(theirs[row.key])).max()
        assert 0.97 < np.abs(ours).max() / bound < 1.03, f"bound of leaf {i}"


def test_fresh_embedding_is_standard_normal():
    ours = draws(layers.Embedding(50, 8), jnp.zeros(2, int), 5)["params"]["embedding"]
    torch.manual_seed(0)
    check_distribution(ours, torch.nn.Embedding(250, 8).weight.detach())


@pytest.mark.parametrize("mode", ["fan_in", "fan_out"])
@pytest.mark.parametrize("groups", [1, 2])
def test_kaiming_normal(mode, groups):
    weight = torch.empty(40, 30 // groups, 3, 3)
    torch.manual_seed(0)
    torch.nn.init.kaiming_normal_(weight, mode=mode, nonlinearity="relu")
    ours = layers.init.kaiming_normal(mode)(jax.random.key(0), (3, 3, 30 // groups, 40))
    check_distribution(ours, weight)


def test_fresh_norms_are_one_and_zero():
    for layer, shape in (
        (layers.BatchNorm2d(4), (2, 5, 7, 4)),
        (layers.LayerNorm(4), (2, 4)),
        (layers.GroupNorm(2, 4), (2, 4)),
    ):
        params = layer.init(jax.random.key(0), jnp.ones(shape))["params"]
        assert (params["scale"] == 1).all()
        assert (params["bias"] == 0).all()


def test_bad_arguments():
    check_refusal(lambda: layers.Linear(-1, 3), "in_features >= 0", lambda: torch.nn.Linear(-1, 3))
    check_refusal(lambda: layers.Linear(3, -1), "out_features >= 0", lambda: torch.nn.Linear(3, -1))
    check_refusal(
        lambda: trace(layers.Linear(5, 3), 2, 4),
        "expected 5 channels",
        lambda: torch.nn.Linear(5, 3)(torch.zeros(2, 4)),
    )
    nested = layers.Sequential([layers.Sequential([layers.Linear(5, 3)])])
    check_refusal(lambda: trace(nested, 2, 4), "Linear at '0.0': expected 5 channels")
