"""``plot_attention`` draws the numbers of each kind of map where they belong."""

import matplotlib

matplotlib.use("agg")

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib import pyplot as plt

import flax_attn
from flax_attn import plot_attention
from flax_attn.plot import kind_of

RNG = np.random.default_rng(0)
IMAGE = RNG.random((20, 28))
COLOUR = RNG.random((20, 28, 3))


@pytest.fixture
def drawn(tmp_path):
    """Draws, renders the picture to a file, and returns its axes."""

    def draw(*args, **kwargs):
        figure = plot_attention(*args, **kwargs)
        path = tmp_path / "picture.png"
        figure.savefig(path)
        assert path.stat().st_size > 1000
        return figure.axes

    yield draw
    plt.close("all")


def colours(ax):
    """The array drawn over the image."""
    return np.ma.filled(ax.images[1].get_array(), np.nan)


@pytest.mark.parametrize("image", [IMAGE, IMAGE[..., None], COLOUR, np.stack([COLOUR] * 2), jnp.asarray(COLOUR)])
def test_spatial_gate_lies_over_the_image(drawn, image):
    gate = RNG.random((2, 5, 7, 1))
    (ax,) = drawn(image, jnp.asarray(gate), sample=1)
    np.testing.assert_allclose(colours(ax), gate[1, ..., 0])
    assert ax.images[0].get_extent() == ax.images[1].get_extent() == [-0.5, 6.5, 4.5, -0.5]
    np.testing.assert_allclose(ax.images[0].get_array(), IMAGE if np.shape(image)[-1] != 3 else COLOUR)


def test_spatial_gate_of_many_channels_is_their_mean(drawn):
    gate = RNG.random((1, 5, 7, 4))
    (ax,) = drawn(IMAGE, gate, kind="spatial")
    np.testing.assert_allclose(colours(ax), gate[0].mean(-1))


def mark(ax):
    (line,) = ax.lines
    return line.get_xydata()[0]


def test_attention_of_a_pixel_to_all_pixels(drawn):
    weights = RNG.random((1, 35, 35))
    (ax,) = drawn(IMAGE, weights, (3, 6))
    np.testing.assert_allclose(colours(ax), weights[0, 3 * 7 + 6].reshape(5, 7))
    np.testing.assert_allclose(mark(ax), (6, 3))


def test_attention_of_the_middle_pixel(drawn):
    weights = RNG.random((1, 35, 35))
    (ax,) = drawn(IMAGE, weights)
    np.testing.assert_allclose(colours(ax), weights[0, 2 * 7 + 3].reshape(5, 7))


def test_attention_to_fewer_keys_and_of_several_heads(drawn):
    weights = RNG.random((1, 2, 10 * 14, 5 * 7))
    (ax,) = drawn(IMAGE, weights, (9, 2), kind="attention")
    np.testing.assert_allclose(colours(ax), weights[0, :, 9 * 14 + 2].mean(0).reshape(5, 7))
    np.testing.assert_allclose(mark(ax), (0.75, 4.25))


def test_attention_of_a_query_that_is_no_pixel(drawn):
    weights = RNG.random((1, 4, 15))
    (ax,) = drawn(IMAGE, weights, 2, size=(5, 3))
    np.testing.assert_allclose(colours(ax), weights[0, 2].reshape(5, 3))
    assert not ax.lines


def test_criss_cross(drawn):
    row, column = RNG.random((2, 5, 7, 7)), RNG.random((2, 5, 7, 5))
    (ax,) = drawn(IMAGE, (row, column), (1, 2), sample=1)
    np.testing.assert_allclose(colours(ax)[1], row[1, 1, 2])
    np.testing.assert_allclose(np.delete(colours(ax)[:, 2], 1), np.delete(column[1, 1, 2], 1))
    assert np.isnan(np.delete(np.delete(colours(ax), 1, 0), 2, 1)).all()
    np.testing.assert_allclose(mark(ax), (2, 1))


def test_each_turn_of_a_recurrence_is_a_picture(drawn):
    pair = RNG.random((1, 5, 7, 7)), RNG.random((1, 5, 7, 5))
    assert len(drawn(IMAGE, (pair, pair), (1, 2))) == 2


@pytest.mark.parametrize("shape", [(2, 6), (2, 1, 1, 6)])
def test_channel_gate_is_bars(drawn, shape):
    gate = RNG.random(shape)
    (ax,) = drawn(IMAGE, gate)
    np.testing.assert_allclose([bar.get_height() for bar in ax.patches], gate[0].ravel())
    np.testing.assert_allclose([bar.get_x() + 0.5 for bar in ax.patches], range(6))


def test_branches_of_channels_lie_on_top_of_each_other(drawn):
    share = RNG.random((1, 2, 6))
    (ax,) = drawn(IMAGE, share, kind="channels")
    np.testing.assert_allclose([bar.get_height() for bar in ax.patches], share[0].ravel())
    np.testing.assert_allclose([bar.get_y() for bar in ax.patches[6:]], share[0, 0])


def test_glimpses_are_boxes_on_a_path(drawn):
    boxes = np.array([[[2, 3, 6, 7], [0, 1, 8, 9]], [[10, 4, 14, 8], [8, 2, 16, 10]]])[None]
    (ax,) = drawn(IMAGE, boxes)
    np.testing.assert_allclose([box.get_xy() for box in ax.patches], boxes[0, ..., :2].reshape(-1, 2) - 0.5)
    assert [(box.get_width(), box.get_height()) for box in ax.patches] == [(4, 4), (8, 8)] * 2
    np.testing.assert_allclose(ax.lines[0].get_xydata(), [(3.5, 4.5), (11.5, 5.5)])
    assert len(drawn(IMAGE, boxes[:, 0])[0].patches) == 2


@pytest.mark.parametrize("align_corners", [False, True])
def test_grid_of_the_identity_lies_on_the_pixels(drawn, align_corners):
    theta = jnp.eye(2, 3)[None]
    grid = flax_attn.layers.affine_grid(theta, (1, 20, 28, 1), align_corners)
    (ax,) = drawn(IMAGE, (grid, theta), align_corners=align_corners)
    points = ax.collections[0].get_offsets()
    np.testing.assert_allclose(points, [(x, y) for y in range(20) for x in range(28)], atol=1e-4)
    border = ax.lines[0].get_xydata()
    np.testing.assert_allclose(border[[0, 27, 46, 73, -1]], [(0, 0), (27, 0), (27, 19), (0, 19), (0, 0)], atol=1e-4)


def test_large_grid_has_few_points(drawn):
    (ax,) = drawn(IMAGE, RNG.uniform(-1, 1, (1, 100, 70, 2)))
    assert len(ax.collections[0].get_offsets()) == 25 * 18


def test_maps_of_a_block(drawn):
    block = flax_attn.CBAM(8, 2)
    x = jax.random.normal(jax.random.key(0), (1, 5, 7, 8))
    _, *maps = block.apply(block.init(jax.random.key(1), x), x, attention_weights=True)
    bars, gate = drawn(IMAGE, maps)
    np.testing.assert_allclose([bar.get_height() for bar in bars.patches], maps[0].ravel())
    np.testing.assert_allclose(colours(gate), maps[1][0, ..., 0])


def test_kind_of_a_shape():
    shapes = {(1, 5, 7, 1): "spatial", (1, 9, 9): "attention", (1, 1, 1, 4): "channels", (1, 5, 7, 2): "grid"}
    assert {shape: kind_of(np.zeros(shape)) for shape in shapes} == shapes


@pytest.mark.parametrize(
    ("maps", "keywords", "message"),
    [
        (
            np.zeros((1, 5, 7, 4)),
            {},
            r"a map whose shape tells its kind, or a kind=, got a map of shape \(1, 5, 7, 4\)",
        ),
        (np.zeros((1, 5, 7, 1)), dict(kind="heat"), "a kind of spatial, attention, .*, got 'heat'"),
        (np.zeros((1, 5, 7, 1)), dict(sample=1), "a sample below 1, got 1"),
        (np.zeros((1, 5, 7, 1)), dict(kind="grid"), "2 numbers on the last axis for the kind grid, got 1"),
        (np.zeros((1, 5, 7)), dict(kind="spatial"), "a map of rank 4 for the kind spatial, got rank 3"),
        (np.zeros((1, 5, 7, 1)), dict(kind="criss_cross"), "a pair of maps"),
        (np.zeros((1, 35, 35)), dict(position=(5, 0)), r"a position within \(5, 7\), got \(5, 0\)"),
        (np.zeros((1, 4, 35)), dict(position=4), "a position below the 4 queries, got 4"),
        (np.zeros((1, 35, 37)), {}, r"keys that are pixels .* or a size=\(h, w\), got 37 keys"),
        (np.zeros((1, 35, 35)), dict(size=(5, 8)), r"a size of 35 keys, got \(5, 8\)"),
        ([], {}, "at least one map, got none"),
    ],
)
def test_errors_say_what_was_expected(maps, keywords, message):
    before = plt.get_fignums()
    with pytest.raises(ValueError, match=f"plot_attention: expected .*{message}"):
        plot_attention(IMAGE, maps, **keywords)
    assert plt.get_fignums() == before


def test_image_of_other_channels_is_refused():
    with pytest.raises(ValueError, match=r"expected an image .* got shape \(20, 28, 5\)"):
        plot_attention(np.zeros((20, 28, 5)), np.zeros((1, 5, 7, 1)))
