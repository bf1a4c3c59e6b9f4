"""Every function and layer takes arrays of numpy, outside jit too, and gives what it gives for arrays of JAX."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flax_attn
from flax_attn import layers
from tests.helpers.layer_cases import CASES, arguments, normal, public

X = normal(2, 5, 6, 4)
THETA = normal(2, 2, 3)
GRID = normal(2, 3, 4, 2)

FUNCTIONS = {
    "adaptive_avg_pool": (X, 3),
    "adaptive_max_pool": (X, 3),
    "affine_grid": (THETA, (2, 5, 6, 4)),
    "avg_pool": (X, 2),
    "celu": (X,),
    "contract": (jnp.matmul, X, normal(4, 3)),
    "einsum": ("nhwc,nhwc->nc", X, X),
    "elu": (X,),
    "flatten": (X,),
    "gelu": (X,),
    "grid_sample": (X, GRID),
    "hardsigmoid": (X,),
    "hardswish": (X,),
    "hardtanh": (X,),
    "interpolate": (X, 7),
    "leaky_relu": (X,),
    "log_sigmoid": (X,),
    "log_softmax": (X,),
    "max_pool": (X, 2),
    "mish": (X,),
    "pad": (X, (1, 1)),
    "pixel_shuffle": (X, 2),
    "pixel_unshuffle": (X[:, :4], 2),
    "prelu": (X, np.ones(4)),
    "relu": (X,),
    "relu6": (X,),
    "selu": (X,),
    "sigmoid": (X,),
    "silu": (X,),
    "softmax": (X,),
    "softplus": (X,),
    "softsign": (X,),
    "std": (X, (1, 2)),
    "tanh": (X,),
    "weighted_sum": (lambda q: q @ normal(4, 6), X[0], normal(5, 6, 3), (), 2),
}
VARIANTS = [
    ("grid_sample", (X, GRID, "nearest", "border")),
    ("grid_sample", (X, GRID, "bilinear", "reflection", True)),
    ("interpolate", (X, 7, None, "bilinear")),
    ("interpolate", (X, 3, None, "bicubic", None, True)),
    ("pad", (X, (1, 1, 2, 0), "reflect")),
]
TRAINED = ("AlphaDropout", "BatchNorm", "Drop")
NO_ARRAYS = {
    "accumulator",
    "antialias_weights",
    "check_padding",
    "check_query_block",
    "dots_saveable",
    "frozen",
    "plain_forms",
    "require",
    "require_floats",
}
LAYERS = {
    **{
        name: (arguments(name, kwargs), normal(*shape)) for name, kwargs, shape in reversed(CASES) if name != "Identity"
    },
    "Embedding": ({"num_embeddings": 5, "embedding_dim": 3}, np.array([[0, 4], [2, 2]])),
    "DropPath": ({}, X),
    "FrozenBatchNorm2d": ({"num_features": 4}, X),
    "GRU": ({"input_size": 4, "hidden_size": 3}, X[0]),
    "GRUCell": ({"input_size": 4, "hidden_size": 3}, X[0, 0]),
    "LSTM": ({"input_size": 4, "hidden_size": 3}, X[0]),
    "LSTMCell": ({"input_size": 4, "hidden_size": 3}, X[0, 0]),
    "LogSoftmax": ({}, X),
    "RNNCell": ({"input_size": 4, "hidden_size": 3}, X[0, 0]),
    "Softmax": ({}, X),
    "TransformerDecoderLayer": ({"d_model": 4, "nhead": 2, "dim_feedforward": 3}, X[0], X[1]),
    "TransformerEncoderLayer": ({"d_model": 4, "nhead": 2, "dim_feedforward": 3}, X[0]),
}
BASES = (
    "AdaptiveAvgPool",
    "AdaptiveMaxPool",
    "AvgPool",
    "BatchNorm",
    "Conv",
    "ConvTranspose",
    "InstanceNorm",
    "MaxPool",
)
NOT_LAYERS = {
    "Identity",
    "TransformerDecoder",
    "TransformerEncoder",
    "Module",
    "ModuleDict",
    "ModuleList",
    "Sequential",
    *BASES,
}

pytestmark = pytest.mark.usefixtures("no_annotation_checks")


def check_equal(on_numpy, on_jax):
    for ours, expected in zip(jax.tree.leaves(on_numpy), jax.tree.leaves(on_jax), strict=True):
        assert isinstance(ours, jax.Array)
        assert ours.dtype == expected.dtype
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(expected))


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_functions(name):
    for _, args in [(name, FUNCTIONS[name]), *(case for case in VARIANTS if case[0] == name)]:
        with jax.enable_x64(False):
            arrays = [jnp.asarray(a) if isinstance(a, np.ndarray) else a for a in args]
            check_equal(getattr(layers, name)(*args), getattr(layers, name)(*arrays))


@pytest.mark.parametrize(
    "name", {getattr(layers, name).__call__: name for name in sorted(LAYERS, reverse=True)}.values()
)
def test_layers(name):
    """One layer of each class that has a ``__call__`` of its own: the spaces of a layer share theirs."""
    kwargs, *inputs = LAYERS[name]
    layer = getattr(layers, name)(**kwargs)
    with jax.enable_x64(False):
        shapes = jax.eval_shape(layer.init, jax.random.key(0), *inputs)
        variables = jax.tree.map(lambda leaf: normal(*leaf.shape, dtype="float32") ** 2, shapes)
        arrays = [jnp.asarray(x) for x in inputs]
        check_equal(layer.apply(variables, *inputs), layer.apply(variables, *arrays))
        if name.startswith(TRAINED):
            train = dict(train=True, mutable=["batch_stats"], rngs={"dropout": jax.random.key(1)})
            check_equal(layer.apply(variables, *inputs, **train), layer.apply(variables, *arrays, **train))


def positive(leaf):
    """Numbers for a leaf of the variables, as numpy has them."""
    return (normal(*leaf.shape) ** 2).astype(leaf.dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (flax_attn.SELayer(8, conv=True), (1, 3, 4, 8)),
        (flax_attn.CrissCrossAttention(8), (1, 3, 4, 8)),
        (flax_attn.SpatialTransformer(1, (14, 13), (2, 3), (3, 3)), (2, 14, 13, 1)),
        (flax_attn.CBAM(8, 2), (2, 3, 4, 8)),
        (flax_attn.MultiheadAttention(4, 2), (2, 3, 4)),
    ],
)
def test_blocks(module, shape, dtype):
    """Outside jit, with inputs and variables of numpy: bit for bit what arrays of JAX give."""
    inputs = [normal(*shape, dtype=dtype)] * (3 if isinstance(module, flax_attn.MultiheadAttention) else 1)
    with jax.enable_x64(False):
        variables = jax.tree.map(positive, jax.eval_shape(module.init, jax.random.key(0), *inputs))
        arrays = [jnp.asarray(x) for x in inputs]
        on_jax = module.apply(jax.tree.map(jnp.asarray, variables), *arrays)
        check_equal(module.apply(variables, *inputs), on_jax)


def test_spatial_transformer_net():
    net, x = flax_attn.spatial_transformer_net(), normal(1, 28, 28, 1, dtype="float32")
    variables = jax.tree.map(positive, jax.eval_shape(net.init, jax.random.key(0), x))
    check_equal(net.apply(variables, x), net.apply(jax.tree.map(jnp.asarray, variables), jnp.asarray(x)))


def test_a_list_of_numbers_is_refused_by_every_module():
    for module, x in ((flax_attn.SELayer(1), [[[[1.0]]]]), (layers.ReLU(), [1.0]), (layers.Linear(2, 3), [[1, 2]])):
        who = type(module).__name__
        with pytest.raises(ValueError, match=f"^{who}: expected an array, got a list of numbers"):
            module.init(jax.random.key(0), x)


def test_every_public_function_and_layer_is_here():
    names = {name: value for name, value in vars(layers).items() if not name.startswith("_")}
    functions = {name for name, value in names.items() if inspect.isfunction(value) and "flax_attn" in value.__module__}
    assert functions - NO_ARRAYS == FUNCTIONS.keys()
    assert set(public(layers.Module)) - NOT_LAYERS == LAYERS.keys()


def test_a_module_of_a_user_may_take_numpy_arrays_as_constants():
    class Scaled(layers.Module):
        def __call__(self, x, sizes):
            return x * sum(sizes.tolist())

    x = jnp.ones((2, 3))
    assert jax.jit(lambda x: Scaled().apply({}, x, np.array([1, 2])))(x).sum() == 18
