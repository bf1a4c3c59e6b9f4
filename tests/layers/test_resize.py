"""interpolate gives torch's values and gradients in every mode."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
functional = torch.nn.functional

from flax_attn import layers
from flax_attn.layers import resize
from tests.helpers.layer import array, channels_first, check_function, check_refusal, check_values, normal, trace
from tests.helpers.tolerances import assert_close

MODES = [
    ("nearest", None),
    ("nearest-exact", None),
    ("bilinear", False),
    ("bilinear", True),
    ("bicubic", False),
    ("bicubic", True),
]
FACTORS = [0.1, 0.3, 1 / 3, 0.5, 0.7, 0.9, 1.01, 1.1, 1.3, 1.5, 2, 2.02, 7 / 3, 2.3, 3]
every_mode = pytest.mark.parametrize(("mode", "align_corners"), MODES)
every_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])


def nearest(n, out, ratio, mode):
    """The pixel that each of ``out`` pixels shows, without compiling 4096 functions."""
    return resize._nearest(resize._positions(n, out, ratio, mode, False, None), n)[0][0]


def torch_nearest(n, dtype, mode, **kwargs):
    x = torch.arange(n, dtype=getattr(torch, dtype)).reshape(1, 1, n, 1)
    return functional.interpolate(x, mode=mode, **kwargs).numpy()[0, 0, :, 0].astype(int)


@every_dtype
@pytest.mark.parametrize("mode", ["nearest", "nearest-exact"])
def test_nearest_pixel_for_all_sizes(mode, dtype):
    for n in range(1, 65):
        for out in range(1, 65):
            expected = torch_nearest(n, dtype, mode, size=(out, 1))
            np.testing.assert_array_equal(nearest(n, out, None, mode), expected, f"{n} -> {out}")


@every_dtype
@pytest.mark.parametrize("mode", ["nearest", "nearest-exact"])
def test_nearest_pixel_for_all_scale_factors(mode, dtype):
    """Up to 127 pixels: beyond, torch's CPU kernel rounds float64 and "nearest-exact" unlike its other kernels."""
    for factor in FACTORS:
        for n in range(1, 65):
            out = int(n * factor)
            if 1 <= out < 128:
                expected = torch_nearest(n, dtype, mode, scale_factor=(factor, 1.0))
                np.testing.assert_array_equal(nearest(n, out, factor, mode), expected, f"{n} * {factor}")


def test_nearest_of_one_axis_in_float32_for_all_sizes():
    for n in range(1, 65):
        x = torch.arange(n, dtype=torch.float32).reshape(1, 1, n)
        for out in range(1, 65):
            np.testing.assert_array_equal(
                nearest(n, out, None, "nearest"), functional.interpolate(x, size=out)[0, 0].int()
            )


@every_mode
@pytest.mark.parametrize("size", [(1, 1), (1, 6), (7, 10), (14, 20), (13, 23), (4, 3), 5])
def test_sizes(mode, align_corners, size):
    kwargs = dict(size=size, mode=mode, align_corners=align_corners)
    check_values(
        lambda x: layers.interpolate(x, **kwargs), lambda t: functional.interpolate(t, **kwargs), normal(2, 7, 10, 3)
    )


@every_mode
@pytest.mark.parametrize("scale_factor", [2, 0.5, 1.05, 2.05, 1.3, (2.3, 0.7), (1.12, 1.6)])
def test_scale_factors(mode, align_corners, scale_factor):
    kwargs = dict(scale_factor=scale_factor, mode=mode, align_corners=align_corners)
    check_values(
        lambda x: layers.interpolate(x, **kwargs), lambda t: functional.interpolate(t, **kwargs), normal(2, 7, 10, 3)
    )


@every_mode
@pytest.mark.parametrize("size", [(13, 6), (3, 20)])
def test_gradients(mode, align_corners, size):
    kwargs = dict(size=size, mode=mode, align_corners=align_corners)
    check_function(
        lambda x: layers.interpolate(x, **kwargs), lambda t: functional.interpolate(t, **kwargs), normal(2, 7, 10, 3)
    )


@every_mode
def test_one_pixel_is_spread_over_all(mode, align_corners):
    kwargs = dict(size=(5, 4), mode=mode, align_corners=align_corners)
    check_values(
        lambda x: layers.interpolate(x, **kwargs), lambda t: functional.interpolate(t, **kwargs), normal(2, 1, 1, 3)
    )


@every_mode
def test_float32(mode, align_corners):
    kwargs = dict(size=(40, 97), mode=mode, align_corners=align_corners)
    check_function(
        lambda x: layers.interpolate(x, **kwargs),
        lambda t: functional.interpolate(t, **kwargs),
        normal(1, 31, 60, 2, dtype="float32"),
    )


@pytest.mark.parametrize(
    ("mode", "shape", "size"),
    [
        ("nearest", (2, 9, 3), 13),
        ("linear", (2, 9, 3), 13),
        ("nearest", (2, 3, 5, 4, 3), 7),
        ("trilinear", (2, 3, 5, 4, 3), 7),
    ],
)
def test_one_and_three_axes(mode, shape, size):
    for align_corners in (None,) if mode == "nearest" else (False, True):
        kwargs = dict(size=size, mode=mode, align_corners=align_corners)
        check_function(
            lambda x, kwargs=kwargs: layers.interpolate(x, **kwargs),
            lambda t, kwargs=kwargs: functional.interpolate(t, **kwargs),
            normal(*shape),
        )


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(
    "target", [{"size": (3, 4)}, {"size": (15, 9)}, {"size": 1}, {"scale_factor": (0.45, 1.3)}, {"scale_factor": 0.7}]
)
def test_antialias(mode, align_corners, target):
    kwargs = dict(**target, mode=mode, align_corners=align_corners, antialias=True)
    check_function(
        lambda x: layers.interpolate(x, **kwargs), lambda t: functional.interpolate(t, **kwargs), normal(2, 7, 10, 3)
    )


def test_antialias_is_for_two_modes():
    check_refusal(
        lambda: layers.interpolate(jnp.zeros((2, 7, 10, 3)), 3, antialias=True),
        "antialias=False or a mode of bilinear, bicubic, got 'nearest'",
        lambda: functional.interpolate(torch.zeros(2, 3, 7, 10), 3, antialias=True),
    )


@every_mode
def test_vmap_and_bfloat16(mode, align_corners):
    resized = lambda x: layers.interpolate(x, (13, 6), None, mode, align_corners)  # noqa: E731
    xs = array(2, 2, 7, 10, 3)
    for x, y in zip(xs, jax.jit(jax.vmap(resized))(xs), strict=True):
        assert_close(y, jax.jit(resized)(x))
    half = jax.jit(resized)(xs[0].astype(jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    assert_close(half, resized(xs[0]), "bfloat16")


def test_masks_keep_their_dtype():
    mask = np.random.default_rng(0).integers(0, 2, (2, 7, 10, 1)).astype(bool)
    got = layers.interpolate(jnp.asarray(mask), (3, 4))
    expected = functional.interpolate(torch.tensor(channels_first(mask)).float(), (3, 4)).bool()
    assert got.dtype == bool
    np.testing.assert_array_equal(got, np.moveaxis(expected.numpy(), 1, -1))


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("Upsample", {"scale_factor": 2}),
        ("Upsample", {"size": (9, 5)}),
        ("Upsample", {"scale_factor": 1.5, "mode": "bilinear", "align_corners": True}),
        ("UpsamplingBilinear2d", {"scale_factor": 2}),
        ("UpsamplingBilinear2d", {"size": (9, 5)}),
    ],
)
def test_modules(name, kwargs):
    layer, twin = getattr(layers, name)(**kwargs), getattr(torch.nn, name)(**kwargs)
    check_values(lambda x: layer.apply({}, x), twin, normal(2, 7, 10, 3))


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({}, "size or scale_factor, got size=None and scale_factor=None"),
        ({"size": 3, "scale_factor": 2}, "size or scale_factor, got size=3"),
        ({"size": (3, 3, 3)}, "one number or 2"),
        ({"scale_factor": (2, 2, 2)}, "one number or 2"),
        ({"size": 0}, "at least one pixel"),
        ({"size": (3, -1)}, "at least one pixel"),
        ({"scale_factor": 0.05}, "at least one pixel"),
        ({"size": 3, "mode": "cubic"}, "a mode of nearest, .*, got 'cubic'"),
        ({"size": 3, "mode": "linear"}, "rank 3 for mode 'linear'"),
        ({"size": 3, "mode": "trilinear"}, "rank 5 for mode 'trilinear'"),
        ({"size": 3, "mode": "nearest", "align_corners": True}, "align_corners=None for mode 'nearest'"),
        ({"size": 3, "mode": "nearest-exact", "align_corners": False}, "align_corners=None for mode"),
    ],
)
def test_bad_arguments(kwargs, match):
    theirs = lambda: functional.interpolate(torch.zeros(2, 3, 7, 10), **kwargs)  # noqa: E731
    check_refusal(lambda: trace(layers.Upsample(**kwargs), 2, 7, 10, 3), match, theirs)


def test_modules_refuse_at_construction():
    check_refusal(lambda: layers.Upsample(size=3, mode="area"), "Upsample: expected a mode of nearest")
    check_refusal(lambda: layers.UpsamplingBilinear2d(), "UpsamplingBilinear2d: expected size or scale_factor")


def test_bad_rank():
    zeros = torch.zeros
    kwargs = dict(size=3, mode="bilinear")
    check_refusal(
        lambda: layers.interpolate(jnp.zeros((7, 10, 3)), **kwargs),
        "rank 4",
        lambda: functional.interpolate(zeros(3, 7, 10), **kwargs),
    )
    check_refusal(
        lambda: layers.interpolate(jnp.zeros((7, 3)), 3),
        "rank 3 or 4 or 5",
        lambda: functional.interpolate(zeros(3, 7), 3),
    )


@pytest.mark.parametrize("size", [3, 11, 70 * resize.TAPS // 48])
@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
def test_derivatives_are_the_linear_map_and_its_transpose_without_a_scatter(mode, size):
    x, ct = jnp.asarray(normal(2, 5, 1, 3)), jnp.asarray(normal(2, size, size, 3, seed=1))
    ours = lambda x: layers.interpolate(x, size, mode=mode)  # noqa: E731
    gradient = jax.jit(lambda x, ct: jax.vjp(ours, x)[1](ct)[0])
    y, tangent = jax.jvp(ours, (x,), (x,))
    assert_close(tangent, y, "float64")
    assert_close((gradient(x, ct) * x).sum(), (y * ct).sum(), "float64")
    assert "scatter" not in gradient.lower(x, ct).as_text()


def test_gradient_keeps_what_is_not_a_number_where_it_is():
    x, ct = jnp.zeros((1, 6, 6, 1)), jnp.zeros((1, 15, 15, 1)).at[0, 0, 0].set(jnp.nan)
    gradient = jax.jit(lambda x, ct: jax.vjp(lambda x: layers.interpolate(x, 15, mode="bilinear"), x)[1](ct)[0])(x, ct)
    assert jnp.isnan(gradient[0, 0, 0, 0])
    assert jnp.isfinite(gradient[0, 2:, 2:]).all()
