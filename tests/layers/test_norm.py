"""The normalisations give torch's values, gradients and running statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from flax import errors

from flax_attn import layers
from tests.helpers.layer import array, channels_first, check_function, check_layer, check_refusal, normal, same, trace
from tests.helpers.tolerances import assert_close

BATCH_NORMS = [
    ("BatchNorm1d", (7, 5)),
    ("BatchNorm1d", (3, 9, 5)),
    ("BatchNorm2d", (3, 5, 7, 5)),
    ("BatchNorm3d", (2, 3, 5, 4, 5)),
]
every_batch_norm = pytest.mark.parametrize(("name", "shape"), BATCH_NORMS, ids=lambda v: str(v))


def batches(shape, dtype="float64"):
    return [3 * normal(*shape, dtype=dtype, seed=seed) + 2 for seed in (3, 4)]


@every_batch_norm
@pytest.mark.parametrize("train", [True, False])
def test_batch_norm_over_two_steps(name, shape, train):
    check_layer(getattr(layers, name)(5), getattr(torch.nn, name)(5), *batches(shape), train=train)


@pytest.mark.parametrize("kwargs", [{"affine": False}, {"eps": 1e-3, "momentum": 0.3}])
@pytest.mark.parametrize("train", [True, False])
def test_batch_norm_arguments(kwargs, train):
    check_layer(layers.BatchNorm2d(5, **kwargs), torch.nn.BatchNorm2d(5, **kwargs), *batches((3, 5, 7, 5)), train=train)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_without_running_statistics_uses_the_batch(train, affine):
    kwargs = dict(affine=affine, track_running_stats=False)
    check_layer(layers.BatchNorm1d(5, **kwargs), torch.nn.BatchNorm1d(5, **kwargs), *batches((7, 5)), train=train)


@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_with_the_mean_over_all_batches(affine):
    """The counter goes on from that of the state dict, and is in the variables under torch's name."""
    layer, twin = layers.BatchNorm1d(5, momentum=None, affine=affine), torch.nn.BatchNorm1d(5, momentum=None)
    twin = twin if affine else torch.nn.BatchNorm1d(5, momentum=None, affine=False)
    twin.num_batches_tracked += 3
    variables = check_layer(layer, twin, *batches((7, 5)), train=True)
    assert int(variables["batch_stats"]["num_batches_tracked"]) == int(twin.num_batches_tracked) == 5
    check_layer(layer, twin, *batches((7, 5)))


def test_a_fresh_batch_norm_with_the_mean_over_all_batches():
    layer, (first, second) = layers.BatchNorm1d(2, momentum=None), (array(6, 2), array(6, 2, seed=1))
    variables = layer.init(jax.random.key(0), first, train=True)
    assert int(variables["batch_stats"]["num_batches_tracked"]) == 0
    for x in (first, second):
        _, changed = layer.apply(variables, x, train=True, mutable=["batch_stats"])
        variables = {**variables, **changed}
    np.testing.assert_allclose(changed["batch_stats"]["mean"], (first.mean(0) + second.mean(0)) / 2, rtol=1e-6)
    fixed = layers.BatchNorm1d(2, momentum=None, track_running_stats=False)
    assert "batch_stats" not in fixed.init(jax.random.key(0), first)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize(("name", "shape"), [("1d", (3, 9, 5)), ("2d", (3, 5, 7, 5)), ("3d", (2, 3, 5, 4, 5))])
def test_instance_norm_with_running_statistics(name, shape, train):
    kwargs = dict(affine=name != "1d", track_running_stats=True, momentum=None if name == "3d" else 0.3)
    layer, twin = getattr(layers, f"InstanceNorm{name}"), getattr(torch.nn, f"InstanceNorm{name}")
    check_layer(layer(5, **kwargs), twin(5, **kwargs), *batches(shape), train=train)


def test_batch_norm_in_float32_far_from_zero():
    x = normal(3, 5, 7, 5, dtype="float32") + np.float32(1000)
    layer, twin = layers.BatchNorm2d(5), torch.nn.BatchNorm2d(5)
    y, _ = layer.init_with_output(jax.random.key(0), jnp.asarray(x), train=True)
    assert_close(y, np.moveaxis(twin(torch.tensor(channels_first(x))).detach().numpy(), 1, -1), "float32")
    check_layer(layer, twin, *batches((3, 5, 7, 5), "float32"), train=True)


def test_one_training_step_moves_the_statistics_by_the_unbiased_variance():
    layer, x = layers.BatchNorm1d(2), jnp.array([[0.0, 1.0], [2.0, 5.0]])
    variables = layer.init(jax.random.key(0), x)
    np.testing.assert_array_equal(variables["batch_stats"]["mean"], 0)
    np.testing.assert_array_equal(variables["batch_stats"]["var"], 1)
    _, changed = layer.apply(variables, x, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(changed["batch_stats"]["mean"], [0.1, 0.3])
    np.testing.assert_allclose(changed["batch_stats"]["var"], [0.9 + 0.1 * 2, 0.9 + 0.1 * 8])


def test_initialising_in_training_mode_leaves_fresh_statistics():
    variables = layers.BatchNorm1d(2).init(jax.random.key(0), array(4, 2), train=True)
    np.testing.assert_array_equal(variables["batch_stats"]["mean"], 0)


def test_training_without_mutable_raises():
    layer, x = layers.BatchNorm1d(2), array(4, 2)
    with pytest.raises(errors.ModifyScopeVariableError):
        layer.apply(layer.init(jax.random.key(0), x), x, train=True)


@pytest.mark.parametrize(("name", "shape"), [("BatchNorm1d", (1, 5)), ("BatchNorm2d", (1, 1, 1, 5))])
def test_one_value_a_channel_cannot_be_trained_on(name, shape):
    twin = getattr(torch.nn, name)(5)
    x = torch.zeros(*shape[:1], 5, *shape[1:-1])
    check_refusal(lambda: trace(getattr(layers, name)(5), *shape, train=True), "more than 1 value", lambda: twin(x))
    trace(getattr(layers, name)(5), *shape)
    twin.eval()(x)


def test_frozen_batch_norm_is_its_formula():
    layer, x = layers.FrozenBatchNorm2d(5), array(2, 3, 4, 5)
    stats = {name: array(5, seed=seed) for seed, name in enumerate(("scale", "bias", "mean"))}
    stats["var"] = jnp.abs(array(5, seed=9)) + 0.1
    expected = (x - stats["mean"]) / jnp.sqrt(stats["var"] + 1e-5) * stats["scale"] + stats["bias"]
    for train in (False, True):
        assert_close(layer.apply({"batch_stats": stats}, x, train), expected)
    fresh = layer.init(jax.random.key(0), x)
    assert set(fresh) == {"batch_stats"}
    assert {k: float(v[0]) for k, v in fresh["batch_stats"].items()} == {"scale": 1, "bias": 0, "mean": 0, "var": 1}


@pytest.mark.parametrize("kwargs", [{}, {"eps": 1e-3}, {"elementwise_affine": False}, {"bias": False}])
@pytest.mark.parametrize("shape", [(7, 5), (2, 3, 7, 5)])
def test_layer_norm_over_channels(shape, kwargs):
    x = normal(*shape)
    check_layer(layers.LayerNorm(5, **kwargs), torch.nn.LayerNorm(5, **kwargs), x, first=same, last=same)


@pytest.mark.parametrize("shape", [(5, 3, 7), (5, 1, 1), (5, 4)])
def test_layer_norm_over_channels_and_space(shape):
    check_layer(layers.LayerNorm(shape), torch.nn.LayerNorm(shape), normal(2, *shape[1:], shape[0]))


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_layer_norm_in_float32_where_eps_matters(scale):
    x = (scale * normal(2, 3, 7, 6)).astype("float32")
    check_layer(layers.LayerNorm(6), torch.nn.LayerNorm(6), x, first=same, last=same)
    check_layer(layers.GroupNorm(2, 6), torch.nn.GroupNorm(2, 6), x)


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("shape", [(2, 7, 6), (2, 3, 5, 6), (2, 3, 5, 2, 6)], ids=len)
def test_group_norm(groups, shape):
    check_layer(layers.GroupNorm(groups, 6), torch.nn.GroupNorm(groups, 6), normal(*shape))


def test_group_norm_without_space():
    check_layer(layers.GroupNorm(2, 6), torch.nn.GroupNorm(2, 6), normal(3, 6))


PLAIN = [layers.InstanceNorm2d(6), layers.LayerNorm(6, elementwise_affine=False), layers.LocalResponseNorm(3),
         layers.RMSNorm(6, elementwise_affine=False), layers.GroupNorm(2, 6, affine=False),
         layers.BatchNorm2d(6, affine=False, track_running_stats=False)]  # fmt: skip


@pytest.mark.parametrize("layer", PLAIN, ids=lambda layer: type(layer).__name__)
def test_integers_are_not_rounded(layer):
    x = np.arange(120).reshape(2, 2, 5, 6)
    np.testing.assert_array_equal(layer.apply({}, x), layer.apply({}, x.astype(float)))
    assert layer.apply({}, x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_group_norm_of_an_empty_batch():
    assert layers.GroupNorm(2, 6, affine=False).apply({}, np.zeros((0, 5, 6))).shape == (0, 5, 6)


def test_group_norm_arguments():
    kwargs = dict(eps=1e-3, affine=False)
    check_layer(layers.GroupNorm(3, 6, **kwargs), torch.nn.GroupNorm(3, 6, **kwargs), normal(2, 3, 5, 6))


@pytest.mark.parametrize("axes", [(1,), (1, 2)])
def test_std_is_unbiased_with_gradient_zero_at_zero(axes):
    x = normal(2, 3, 5, 4)
    x[0] = 1.5
    dims = tuple(axis + 1 for axis in axes)
    check_function(lambda x: layers.std(x, axes), lambda t: t.std(dims, keepdim=True), x)
    assert np.isnan(layers.std(jnp.asarray(x[:, :1, :1]), axes)).all()


def test_statistics_are_kept_in_float32_under_bfloat16():
    x = jnp.asarray(normal(2, 16, 16, 4) + 8, jnp.bfloat16)
    wide = np.asarray(x, np.float64)
    for layer, axes in (
        (layers.BatchNorm2d(4), (0, 1, 2)),
        (layers.GroupNorm(4, 4), (1, 2)),
        (layers.InstanceNorm2d(4), (1, 2)),
        (layers.LayerNorm(4), 3),
    ):
        y, _ = layer.init_with_output(jax.random.key(0), x, train=True)
        centred = wide - wide.mean(axes, keepdims=True)
        expected = centred / np.sqrt(np.square(centred).mean(axes, keepdims=True) + 1e-5)
        assert_close(jnp.asarray(y, jnp.float32), expected, "bfloat16", type(layer).__name__)


def test_root_of_the_mean_square_and_neighbours_are_kept_in_float32_under_bfloat16():
    x = jnp.asarray(normal(2, 5, 6, 64) + 8, jnp.bfloat16)
    t = torch.tensor(channels_first(np.asarray(x, np.float64)))
    for layer, twin in (
        (layers.LocalResponseNorm(5, 0.1), torch.nn.LocalResponseNorm(5, 0.1)),
        (layers.RMSNorm((64, 5, 6), dtype=jnp.bfloat16), torch.nn.RMSNorm((64, 5, 6), eps=2**-23).double()),
    ):
        y, _ = layer.init_with_output(jax.random.key(0), x)
        assert y.dtype == jnp.bfloat16
        expected = np.moveaxis(twin(t).detach().numpy(), 1, -1)
        np.testing.assert_allclose(np.asarray(y, np.float64), expected, rtol=2**-8)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rms_norm_near_zero_adds_torchs_eps(dtype):
    x = (1e-4 * normal(3, 5)).astype(dtype) * (1e-4 if dtype == "float64" else 1)
    check_layer(layers.RMSNorm(5), torch.nn.RMSNorm(5), x)


def test_std_of_bfloat16_is_computed_in_float32():
    x = jnp.asarray(normal(2, 16, 16, 4) + 8, jnp.bfloat16)
    got = layers.std(x, (1, 2))
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        np.asarray(got, "f8"), np.asarray(x, "f8").std((1, 2), ddof=1, keepdims=True), rtol=2**-8
    )


def test_bad_arguments():
    zeros = torch.zeros
    for ours, match, theirs in (
        (lambda: layers.GroupNorm(4, 6), "divide", lambda: torch.nn.GroupNorm(4, 6)(zeros(2, 6, 3))),
        (lambda: layers.GroupNorm(0, 6), "divide", None),
        (
            lambda: trace(layers.GroupNorm(2, 6), 2, 3, 5),
            "6 channels",
            lambda: torch.nn.GroupNorm(2, 6)(zeros(2, 5, 3)),
        ),
        (lambda: trace(layers.GroupNorm(2, 6), 6), "rank", lambda: torch.nn.GroupNorm(2, 6)(zeros(6))),
        (lambda: layers.BatchNorm2d(0), "num_features >= 1", None),
        (lambda: layers.InstanceNorm2d(0), "InstanceNorm2d: expected num_features >= 1, got 0", None),
        (
            lambda: trace(layers.InstanceNorm2d(5), 2, 1, 1, 5),
            "more than 1 value per channel of a sample",
            lambda: torch.nn.InstanceNorm2d(5)(zeros(2, 5, 1, 1)),
        ),
        (lambda: trace(layers.InstanceNorm1d(5), 2, 5), "rank 3", lambda: torch.nn.InstanceNorm1d(5)(zeros(5))),
        (lambda: layers.LocalResponseNorm(0), "LocalResponseNorm: expected size >= 1, got 0", None),
        (
            lambda: trace(layers.LocalResponseNorm(3), 2, 5),
            "rank 3 or more",
            lambda: torch.nn.LocalResponseNorm(3)(zeros(2, 5)),
        ),
        (lambda: trace(layers.RMSNorm(5), 2, 6), "RMSNorm: expected an input that ends in", None),
        (lambda: trace(layers.LayerNorm(5), 2, 6), "ends in", lambda: torch.nn.LayerNorm(5)(zeros(2, 6))),
        (
            lambda: trace(layers.LayerNorm((5, 3)), 2, 5, 3),
            "ends in",
            lambda: torch.nn.LayerNorm((5, 3))(zeros(2, 3, 5)),
        ),
        (lambda: trace(layers.FrozenBatchNorm2d(5), 2, 3, 5), "rank 4", None),
    ):
        check_refusal(ours, match, theirs)


@pytest.mark.parametrize(
    ("name", "shape"), [("BatchNorm1d", (2, 3, 4, 5)), ("BatchNorm2d", (2, 3, 5)), ("BatchNorm3d", (2, 3, 4, 5))]
)
def test_bad_inputs_of_batch_norm(name, shape):
    layer, twin = getattr(layers, name)(5), getattr(torch.nn, name)(5)
    check_refusal(lambda: trace(layer, *shape), "rank", lambda: twin(torch.zeros(shape[0], 5, *shape[1:-1])))
    right = {"BatchNorm1d": (2, 6), "BatchNorm2d": (2, 3, 4, 6), "BatchNorm3d": (2, 3, 4, 2, 6)}[name]
    check_refusal(lambda: trace(layer, *right), "5 channels", lambda: twin(torch.zeros(2, 6, *right[1:-1])))
