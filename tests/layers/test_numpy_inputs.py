"""Every function and layer takes arrays of numpy, outside jit too, and gives what it gives for arrays of JAX."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_attn import layers
from tests.helpers.layer_cases import CASES, arguments, normal, public
from tests.helpers.tolerances import assert_close

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
}
VARIANTS = [
    ("grid_sample", (X, GRID, "nearest", "border")),
    ("grid_sample", (X, GRID, "bilinear", "reflection", True)),
    ("interpolate", (X, 7, None, "bilinear")),
    ("interpolate", (X, 3, None, "bicubic", None, True)),
    ("pad", (X, (1, 1, 2, 0), "reflect")),
]
TRAINED = ("AlphaDropout", "BatchNorm", "Drop")
NO_ARRAYS = {"accumulator", "antialias_weights", "check_padding", "frozen", "require"}
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
        assert_close(ours, np.asarray(expected), expected.dtype.name)


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


def test_every_public_function_and_layer_is_here():
    names = {name: value for name, value in vars(layers).items() if not name.startswith("_")}
    functions = {name for name, value in names.items() if inspect.isfunction(value) and "flax_attn" in value.__module__}
    assert functions - NO_ARRAYS == FUNCTIONS.keys()
    assert set(public(layers.Module)) - NOT_LAYERS == LAYERS.keys()
