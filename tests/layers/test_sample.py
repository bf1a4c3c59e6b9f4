"""affine_grid and grid_sample give torch's values and gradients."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
functional = torch.nn.functional

from flax_attn import layers
from flax_attn.layers import sample
from tests.helpers.layer import array, channels_first, channels_last, check_function, check_refusal, normal
from tests.helpers.tolerances import assert_close

PADDINGS = ["zeros", "border", "reflection"]
every_way = pytest.mark.parametrize(
    ("mode", "padding_mode", "align_corners"), list(itertools.product(["bilinear", "nearest"], PADDINGS, [False, True]))
)


def grid(h, w, dtype="float64"):
    """Places far outside, on the edge, in the corners, on pixel centres and half way between them."""
    p, q = 6, 12
    places = np.random.default_rng(5).uniform(-3, 3, (2, p, q, 2))
    steps = np.arange(q) / 2
    places[0, 0, :, 0], places[0, 0, :, 1] = np.linspace(-3, 3, q), 0
    places[0, 1, :6] = [[-1, -1], [1, 1], [0, 0], [-1, 1], [1, -1], [-2, 2]]
    places[1, 0, :, 0], places[1, 0, :, 1] = (2 * steps + 1 - w) / w, (3 - h) / h
    places[1, 1, :, 0], places[1, 1, :, 1] = 2 * steps / max(1, w - 1) - 1, 0
    return places.astype(dtype)


def check(x, places, mode, padding_mode, align_corners):
    kwargs = dict(mode=mode, padding_mode=padding_mode, align_corners=align_corners)
    check_function(
        lambda x, g: layers.grid_sample(x, g, **kwargs), lambda t, g: functional.grid_sample(t, g, **kwargs), x, places
    )


@every_way
def test_grid_sample(mode, padding_mode, align_corners):
    check(normal(2, 5, 8, 3), grid(5, 8), mode, padding_mode, align_corners)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("padding_mode", PADDINGS)
def test_grid_sample_of_one_row(padding_mode, align_corners):
    check(normal(2, 1, 4, 3), grid(1, 4), "bilinear", padding_mode, align_corners)


@pytest.mark.parametrize("padding_mode", PADDINGS)
def test_grid_sample_in_float32(padding_mode):
    check(normal(2, 5, 7, 3, dtype="float32"), grid(5, 7, dtype="float32"), "bilinear", padding_mode, False)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30, -1e30])
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_places_that_are_not_numbers(value, mode):
    x = normal(2, 5, 7, 3)
    places = grid(5, 7)
    places[0, 3, 2], places[1, 2, 1, 0] = value, value
    for padding_mode in ("zeros", "border"):
        expected = functional.grid_sample(
            torch.tensor(channels_first(x)), torch.tensor(places), mode, padding_mode, align_corners=False
        )
        got = jax.jit(layers.grid_sample, static_argnums=(2, 3))(x, places, mode, padding_mode)
        assert_close(got, channels_last(expected))


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(5, 8), (1, 4), (2, 1)])
@pytest.mark.filterwarnings("ignore:Since version 1.3.0, affine_grid")
def test_affine_grid(size, align_corners):
    theta = normal(2, 2, 3)
    t = torch.tensor(theta, requires_grad=True)
    expected = functional.affine_grid(t, (2, 3, *size), align_corners)
    cotangent = normal(*expected.shape, seed=1)
    expected.backward(torch.tensor(cotangent))
    got, pull = jax.vjp(lambda theta: layers.affine_grid(theta, (2, *size, 3), align_corners), jnp.asarray(theta))
    assert_close(got, expected.detach())
    assert_close(pull(jnp.asarray(cotangent))[0], t.grad)


@pytest.mark.parametrize("align_corners", [False, True])
def test_the_identity_leaves_the_image(align_corners):
    x = array(2, 5, 8, 3)
    theta = jnp.asarray(np.tile(np.eye(2, 3), (2, 1, 1)))
    assert_close(
        layers.grid_sample(x, layers.affine_grid(theta, x.shape, align_corners), align_corners=align_corners), x
    )


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_vmap_and_bfloat16(mode):
    xs, places = array(2, 2, 5, 8, 3), jnp.asarray(grid(5, 8) / 3)
    sample = lambda x: layers.grid_sample(x, places, mode)  # noqa: E731
    for x, y in zip(xs, jax.jit(jax.vmap(sample))(xs), strict=True):
        assert_close(y, jax.jit(sample)(x))
    half = jax.jit(sample)(xs[0].astype(jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    assert_close(half, sample(xs[0]), "bfloat16")


def test_bad_arguments():
    x, t, g, places = jnp.zeros((2, 5, 8, 3)), torch.zeros(2, 3, 5, 8), jnp.zeros((2, 4, 4, 2)), torch.zeros(2, 4, 4, 2)
    ours, theirs = layers.grid_sample, lambda *args: functional.grid_sample(*args, align_corners=False)
    for call, match, twin in (
        (
            lambda: ours(x, g, "bicubik"),
            "a mode of bilinear, nearest, got 'bicubik'",
            lambda: theirs(t, places, "bicubik"),
        ),
        (lambda: ours(x, g, "nearest", "wrap"), "padding_mode of zeros", lambda: theirs(t, places, "nearest", "wrap")),
        (lambda: ours(x, g[..., :1]), r"a grid \(2, p, q, 2\)", lambda: theirs(t, places[..., :1])),
        (lambda: ours(x, g[:1]), r"a grid \(2, p, q, 2\)", lambda: theirs(t, places[:1])),
        (lambda: ours(x, g[0]), r"a grid \(2, p, q, 2\)", lambda: theirs(t, places[0])),
        (lambda: ours(x[0], g), r"\(n, h, w, c\)", lambda: theirs(t[0], places)),
        (lambda: ours(x[:, :0], g), "with pixels", lambda: theirs(t[:, :, :0], places)),
    ):
        check_refusal(call, match, twin)
    theta, t = jnp.zeros((2, 2, 3)), torch.zeros(2, 2, 3)
    ours, theirs = layers.affine_grid, functional.affine_grid
    for call, match, twin in (
        (lambda: ours(theta, (2, 5, 8)), r"a size \(n, h, w, c\)", lambda: theirs(t, (2, 3), False)),
        (lambda: ours(theta, (3, 5, 8, 3)), r"shape \(3, 2, 3\)", lambda: theirs(t, (3, 3, 5, 8), False)),
        (lambda: ours(theta[:, :1], (2, 5, 8, 3)), r"shape \(2, 2, 3\)", lambda: theirs(t[:, :1], (2, 3, 5, 8), False)),
        (lambda: ours(theta, (2, 0, 8, 3)), "positive", lambda: theirs(t, (2, 3, 0, 8), False)),
    ):
        check_refusal(call, match, twin)


def test_derivatives_of_windows_are_those_of_pixels(monkeypatch):
    monkeypatch.setattr(sample, "AT_ONCE", 1)
    x, change, places = jnp.asarray(normal(2, 5, 8, 3)), jnp.asarray(normal(2, 5, 8, 3, seed=1)), grid(5, 8)
    py, px = (jnp.asarray(3 * places[..., i] + 2.0) for i in range(2))
    primals, tangents = (x, py, px), (change, px, py)

    @jax.jit
    def derivatives(primals, tangents):
        def every(f):
            gradient = jax.grad(lambda *a: (f(*a) ** 3).sum(), (0, 1, 2))
            by_row = jax.vmap(lambda *a: gradient(*(b[None] for b in a)))(*primals)
            return jax.jvp(f, primals, tangents), jax.jvp(gradient, primals, tangents), by_row

        return every(sample._sample), every(sample._bilinear)

    for got, expected in zip(*map(jax.tree.leaves, derivatives(primals, tangents)), strict=True):
        assert_close(got, expected, "float64")


def test_gradient_needs_little_memory():
    x, places = jnp.zeros((8, 24, 24, 64), "float32"), jnp.zeros((8, 24, 24, 2), "float32")
    gradient = jax.jit(jax.grad(lambda x, g: layers.grid_sample(x, g).sum(), (0, 1)))
    assert gradient.lower(x, places).compile().memory_analysis().temp_size_in_bytes < 8 * x.nbytes


@pytest.mark.parametrize("n", [0, 2])
def test_gradient_of_nothing(n):
    x, places = jnp.ones((n, 5, 8, 3)), jnp.ones((n, 2 - n, 4, 2))
    gradient = jax.jit(jax.grad(lambda x, g: layers.grid_sample(x, g).sum()))(x, places)
    assert gradient.shape == x.shape
    assert not gradient.any()
