"""Normalisations and maxima have derivatives of their own: exact in every mode and order, with few passes over x."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

torch = pytest.importorskip("torch")

from flax_attn import layers
from tests.helpers.layer import channels_first, channels_last, normal
from tests.helpers.tolerances import assert_close

EPS = 1e-5


def formula(x, axes):
    """The normalised x, by the definition that has no derivatives of its own."""
    centred = x - x.mean(axes, keepdims=True)
    return centred / jnp.sqrt((centred**2).mean(axes, keepdims=True) + EPS)


def applied(layer, **kwargs):
    """A function of x: ``layer`` without parameters."""
    return lambda x: layer.apply({}, x, **kwargs)


NORMS = {
    "BatchNorm2d": (applied(layers.BatchNorm2d(3, affine=False, track_running_stats=False), train=True), (0, 1, 2)),
    "InstanceNorm2d": (applied(layers.InstanceNorm2d(3)), (1, 2)),
    "LayerNorm": (applied(layers.LayerNorm(3, elementwise_affine=False)), (3,)),
    "std": (lambda x: x / layers.std(x, (1, 2)), (1, 2)),
}


@pytest.mark.parametrize("name", NORMS)
def test_derivatives_of_first_and_second_order(name):
    ours, axes = NORMS[name]
    definition = (
        (lambda x: x / jnp.std(x, axes, keepdims=True, ddof=1)) if name == "std" else (lambda x: formula(x, axes))
    )
    x, dx, weight = normal(2, 3, 5, 3), normal(2, 3, 5, 3, seed=1), normal(2, 3, 5, 3, seed=2)

    @jax.jit
    def derivatives(x, dx):
        def every(f):
            loss = lambda x: (weight * f(x) ** 3).sum()  # noqa: E731
            return jax.jvp(f, (x,), (dx,)), jax.jvp(jax.grad(loss), (x,), (dx,)), jax.grad(lambda x: every_row(f, x))(x)

        def every_row(f, x):
            return (jax.vmap(lambda row: jax.grad(lambda r: (f(r) ** 3).sum())(row[None]))(x) ** 2).sum()

        return every(ours), every(definition)

    for got, expected in zip(*map(jax.tree.leaves, derivatives(x, dx)), strict=True):
        assert_close(got, expected, "float64")


@pytest.mark.parametrize("size", [1, 1e4])
def test_gradient_of_batch_norm_in_float32_is_as_exact_as_torchs_far_from_zero(size):
    x, cotangent = normal(8, 9, 9, 4) + size, normal(8, 9, 9, 4, seed=1)
    layer = layers.BatchNorm2d(4)
    variables = layer.init(jax.random.key(0), jnp.zeros((2, 1, 1, 4)))

    def ours(dtype):
        def f(params, x):
            return layer.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])[0]

        params = jax.tree.map(lambda leaf: leaf.astype(dtype), variables["params"])
        step = jax.jit(lambda params, x, g: (lambda y, pull: (y, *pull(g)))(*jax.vjp(f, params, x)))
        y, params, dx = step(params, jnp.asarray(x, "float32").astype(dtype), jnp.asarray(cotangent, dtype))
        return [y, dx, params["scale"]]

    twin, t = torch.nn.BatchNorm2d(4), torch.tensor(channels_first(x.astype("float32")), requires_grad=True)
    out = twin(t)
    out.backward(torch.tensor(channels_first(cotangent.astype("float32"))))
    theirs = [channels_last(out.detach()), channels_last(t.grad), twin.weight.grad.numpy()]
    for name, exact, got, other in zip(["output", "x", "scale"], ours("float64"), ours("float32"), theirs, strict=True):
        error, allowed = (np.abs(np.asarray(a, "float64") - exact).max() for a in (got, other))
        assert error <= 2 * allowed + 1e-5 * np.abs(exact).max(), f"{name}: {error} against {allowed}"


def operations(jaxpr):
    """All operations of a function, with those of the functions that it calls."""
    for eqn in jaxpr.eqns:
        inner = list(jaxprs_in_params(eqn.params))
        for part in inner:
            yield from operations(part)
        if not inner:
            yield eqn


def test_a_training_step_of_batch_norm_sums_over_the_image_five_times():
    """The mean, its rounding error, the variance, and two sums in the gradient."""
    layer, x = layers.BatchNorm2d(4), jnp.zeros((2, 3, 5, 4))
    variables = jax.eval_shape(layer.init, jax.random.key(0), x)

    def step(variables, x, cotangent):
        y, pull = jax.vjp(lambda v, x: layer.apply(v, x, train=True, mutable=["batch_stats"])[0], variables, x)
        return y, pull(cotangent)

    sums = [
        eqn
        for eqn in operations(jax.make_jaxpr(step)(variables, x, x).jaxpr)
        if eqn.primitive.name == "reduce_sum" and eqn.invars[0].aval.size == x.size
    ]
    assert len(sums) == 5


def test_pooling_makes_no_padded_copy():
    x = jnp.zeros((2, 8, 8, 3))
    jaxpr = jax.make_jaxpr(lambda x: layers.max_pool(x, 3, 2, 1))(x).jaxpr
    assert max(eqn.outvars[0].aval.size for eqn in operations(jaxpr)) == x.size // 2


def test_gradient_of_adaptive_max_pool_is_torchs_for_ties_and_nan():
    x = np.round(normal(2, 4, 6, 3))
    x[0, 1, 2, 0] = x[0, 1, 2:4, 1] = np.nan
    t = torch.tensor(channels_first(x), requires_grad=True)
    torch.nn.functional.adaptive_max_pool2d(t, (1, 1)).sum().backward()
    pool = lambda x: layers.adaptive_max_pool(x, 1).sum()  # noqa: E731
    np.testing.assert_array_equal(jax.jit(jax.grad(pool))(x), channels_last(t.grad))


def test_adaptive_max_pool_in_forward_mode_and_batched():
    x, dx = jnp.asarray(normal(3, 2, 4, 6, 3)), jnp.asarray(normal(3, 2, 4, 6, 3, seed=1))
    pool = lambda x: layers.adaptive_max_pool(x, 2)  # noqa: E731
    y, dy = jax.jit(jax.vmap(lambda x, dx: jax.jvp(pool, (x,), (dx,))))(x, dx)
    y, dy = np.asarray(y), np.asarray(dy)
    windows = [(i, slice(2 * h, 2 * h + 2), slice(3 * w, 3 * w + 3)) for i in range(3) for h in (0, 1) for w in (0, 1)]
    for i, rows, columns in windows:
        part, change = (np.asarray(a)[i, 0, rows, columns, 0].ravel() for a in (x, dx))
        place = (i, 0, rows.start // 2, columns.start // 3, 0)
        assert (y[place], dy[place]) == (part.max(), change[part.argmax()])


def test_gradient_of_adaptive_max_pool_with_explicit_mesh_axes():
    mesh = jax.make_mesh((1,), ("d",), axis_types=(jax.sharding.AxisType.Explicit,))
    spec = jax.sharding.PartitionSpec("d")
    with jax.set_mesh(mesh):
        x = jax.device_put(normal(2, 4, 6, 3), jax.sharding.NamedSharding(mesh, spec))
        grad = jax.eval_shape(jax.grad(lambda x: layers.adaptive_max_pool(x, 1).sum()), x)
    assert grad.sharding.spec[0] == "d"
