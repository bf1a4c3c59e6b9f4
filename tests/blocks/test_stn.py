"""Grids and sampler of stn.pytorch by their definitions, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import flax_attn as fa
from tests.helpers.layer import check_refusal, normal
from tests.helpers.tolerances import assert_close
from torch_ref.blocks import stn as twins

GENERATORS = {
    "AffineGridGen": [(2, 3)],
    "AffineGridGenV2": [(2, 3)],
    "CylinderGridGen": [(1,)],
    "CylinderGridGenV2": [(1,)],
    "DenseAffineGridGen": [(7, 5, 6)],
    "DenseAffine3DGridGen": [(7, 5, 12)],
    "DenseAffine3DGridGen_rotate": [(7, 5, 12), (1,)],
    "Depth3DGridGen": [(7, 5, 1), (1,), (1,), (1,)],
    "Depth3DGridGen_with_mask": [(7, 5, 1), (1,), (1,), (1,)],
}


def run(module, *arrays):
    return module.apply({}, *map(jnp.asarray, arrays))


def base(h, w):
    """Row i lies at -1 + 2i/h."""
    return np.stack(np.meshgrid(-1 + 2 * np.arange(h) / h, -1 + 2 * np.arange(w) / w, indexing="ij"), -1)


def sample(image, grid):
    """Each of the four neighbours of a place adds its share, unless it lies outside the image."""
    h, w, c = image.shape
    out = np.zeros((*grid.shape[:2], c))
    for i, j in np.ndindex(*grid.shape[:2]):
        y, x = (grid[i, j] + 1) * (np.array([h, w]) - 1) / 2
        for row in (int(np.floor(y)), int(np.floor(y)) + 1):
            for column in (int(np.floor(x)), int(np.floor(x)) + 1):
                if 0 <= row < h and 0 <= column < w:
                    out[i, j] += (1 - abs(y - row)) * (1 - abs(x - column)) * image[row, column]
    return out


def test_the_sampler_by_its_definition():
    image, grid = normal(2, 7, 5, 3), 1.5 * normal(2, 9, 4, 2, seed=1)
    expected = np.stack([sample(*pair) for pair in zip(image, grid, strict=True)])
    assert_close(run(fa.STN(), image, grid), expected)
    first = [np.moveaxis(a, -1, 1) for a in (image, grid)]
    assert_close(run(fa.STN("BCHW"), *first), np.moveaxis(expected, -1, 1))


def test_places_outside_fade_out_and_nan_is_an_outside_place_on_both_sides():
    image = np.ones((1, 3, 3, 1))
    grid = np.array([[[[1, 1], [1.5, 0], [0, 2], [-2.5, 0], [np.nan, 0]]]])
    got = run(fa.STN(), image, grid)
    theirs = twins.STN()(torch.tensor(image), torch.tensor(grid)).numpy()
    np.testing.assert_array_equal(np.ravel(got)[:4], [1, 0.5, 0, 0])
    np.testing.assert_array_equal(np.isnan(got), np.isnan(theirs))


@pytest.mark.parametrize("size", [1, 2, 49, 98, 103, 107])
@pytest.mark.parametrize("module", [fa.AffineGridGen, fa.AffineGridGenV2, fa.DenseAffineGridGen])
def test_the_identity_gives_the_base_grid_of_any_size(module, size):
    theta = np.eye(2, 3)[None]
    if module is fa.DenseAffineGridGen:
        theta = np.broadcast_to(theta.reshape(1, 1, 1, 6), (1, size, 5, 6))
    got = run(module(size, 5), theta)
    assert_close(got, base(size, 5)[None])
    theirs = getattr(twins, module.__name__)(size, 5)(torch.tensor(theta))
    assert_close(got, theirs)


def test_the_affine_grid_is_torchs_with_axes_swapped_and_half_a_pixel_off():
    theta, h, w = normal(2, 2, 3), 7, 5
    swapped = theta[:, ::-1][..., [1, 0, 2]].copy()
    swapped[..., 2] -= swapped[..., 0] / w + swapped[..., 1] / h
    expected = torch.nn.functional.affine_grid(torch.tensor(swapped), (2, 1, h, w), align_corners=False)
    assert_close(run(fa.AffineGridGen(h, w), theta), expected.flip(-1))


def test_the_cylinder_wraps_and_lr_scales_its_gradient():
    theta = np.array([[1.1], [0.0], [np.pi]])
    y, x = np.moveaxis(np.asarray(run(fa.CylinderGridGen(4, 9), theta)), -1, 0)
    assert_close(y, np.broadcast_to(base(4, 9)[..., 0], y.shape))
    assert_close(x[1:], np.broadcast_to(base(4, 9)[..., 1], x[1:].shape))
    middle = (1 + np.cos(1.1)) / 2
    low = np.arange(9) < np.ceil(9 * middle)
    assert_close(x[0], base(4, 9)[..., 1] + np.where(low, 2 * (1 - middle), -2 * middle))
    total = lambda lr: lambda t: run(fa.CylinderGridGen(4, 9, lr), t)[..., 1].sum()  # noqa: E731
    gradients = [jax.grad(total(lr))(jnp.asarray(theta)) for lr in (1.0, 0.25)]
    assert_close(gradients[0], 36 * np.sin(theta))
    assert_close(gradients[1], gradients[0] / 4)


def test_the_second_cylinder_adds_modulo_two():
    u = np.array([[0.0], [0.3], [-1.7]])
    got = run(fa.CylinderGridGenV2(4, 9), u)
    assert_close(got[..., 1], (base(4, 9)[None, ..., 1] + u[..., None] + 1) % 2 - 1)


def test_on_the_sphere_the_identity_moves_nothing_but_by_its_epsilon():
    theta = np.broadcast_to(np.eye(3, 4).reshape(12), (1, 8, 6, 12))
    expected = base(8, 6)[None]
    got = np.asarray(run(fa.DenseAffine3DGridGen(8, 6), theta))
    depth, zero = np.ones((1, 8, 6, 1)), np.zeros((1, 1))
    also = np.asarray(run(fa.Depth3DGridGen_with_mask(8, 6), depth, zero, zero, zero))
    np.testing.assert_array_equal(got, also)
    np.testing.assert_allclose(got[..., 0], expected[..., 0], atol=4e-3)  # acos near a pole turns 1e-5 into 3e-3
    np.testing.assert_allclose(got[:, 1:, 1:, 1], expected[:, 1:, 1:, 1], atol=1e-4)


def test_turning_the_points_is_turning_the_places():
    inputs = [1 + 0.1 * normal(2, 8, 6, 1), 0.3 * normal(2, 1, seed=1), 0.3 * normal(2, 1, seed=2)]
    turn = np.array([[0.23], [-0.61]])
    places = run(fa.Depth3DGridGen(8, 6), *inputs, turn)
    points = run(fa.Depth3DGridGen_with_mask(8, 6), *inputs, turn)
    off = np.abs(places - points)[:, 1:]
    assert np.minimum(off, 2 - off).max() < 1e-3


def test_coordinates_stay_wide_in_half_precision():
    theta = np.array([[[1, 0, 1 / 3], [0, 1, 0]]], np.float32)
    image, grid = np.arange(256, dtype=np.float32).reshape(1, 256, 1, 1) / 256, np.zeros((1, 256, 1, 2), np.float32)
    grid[..., 0] = np.linspace(-1, 1, 256, dtype=np.float32)[:, None]
    got = run(fa.STN(dtype=jnp.bfloat16), image, grid)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(got.astype(np.float32), image, atol=2**-9)
    assert run(fa.AffineGridGen(4, 4, dtype=jnp.bfloat16), theta).dtype == jnp.bfloat16
    assert run(fa.AffineGridGen(4, 4), theta.astype(jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize(("name", "i"), [(name, i) for name, shapes in GENERATORS.items() for i in range(len(shapes))])
def test_arguments_of_the_wrong_shape_are_refused_on_both_sides(name, i):
    """torch broadcasts an argument that is a number too wide where ours is one wide; it refuses the matrices."""
    good = [normal(2, *shape) for shape in GENERATORS[name]]
    bad = [np.concatenate([array] * 2, -1) if i == j else array for j, array in enumerate(good)]
    ours, theirs = getattr(fa, name)(7, 5), getattr(twins, name)(7, 5)
    assert run(ours, *good).shape == (2, 7, 5, 2)
    refused = (lambda: theirs(*map(torch.tensor, bad))) if good[i].shape[-1] > 1 else None
    check_refusal(lambda: run(ours, *bad), rf"{name}: expected \w+ \(n, ", refused)


@pytest.mark.parametrize(
    ("layout", "image", "grid", "sentence"),
    [
        (
            "BHWD",
            (2, 7, 5, 3),
            (2, 4, 6, 3),
            r"STN: expected a grid with 2 entries on axis 3, got shape \(2, 4, 6, 3\)",
        ),
        ("BHWD", (2, 7, 5, 3), (2, 2, 4, 6), "STN: expected a grid with 2 entries on axis 3"),
        ("BCHW", (2, 3, 7, 5), (2, 4, 6, 2), "STN: expected a grid with 2 entries on axis 1"),
        ("BHWD", (2, 7, 5, 3), (4, 6, 2), "STN: expected a grid with 2 entries on axis 3"),
        ("BHWD", (2, 7, 5, 3), (3, 4, 6, 2), r"grid_sample: expected a grid \(2, p, q, 2\)"),
        ("BHWD", (7, 5, 3), (2, 4, 6, 2), r"grid_sample: expected an input \(n, h, w, c\)"),
    ],
)
def test_grids_that_do_not_fit_are_refused_on_both_sides(layout, image, grid, sentence):
    arrays = normal(*image), normal(*grid)
    check_refusal(lambda: run(fa.STN(layout), *arrays), sentence, lambda: twins.STN(layout)(*map(torch.tensor, arrays)))


@pytest.mark.parametrize(
    ("name", "kwargs", "sentence", "both"),
    [
        ("STN", dict(layout="HWC"), "STN: expected a layout of BHWD, BCHW, got 'HWC'", True),
        (
            "AffineGridGen",
            dict(height=0, width=3),
            r"AffineGridGen: expected height and width >= 1, got \(0, 3\)",
            False,
        ),
        ("DenseAffineGridGen", dict(height=3, width=3, aux_loss=True), "expected aux_loss=False", True),
    ],
)
def test_construction_is_checked(name, kwargs, sentence, both):
    theirs = (lambda: getattr(twins, name)(**kwargs)) if both else None
    check_refusal(lambda: getattr(fa, name)(**kwargs), sentence, theirs)
