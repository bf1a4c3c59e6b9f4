"""CCNet's losses with and without hard pixels, and DANet's, beside the published arithmetic in numpy and PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flax_attn.losses as losses
from tests.helpers.losses import check_loss, rng

torch = pytest.importorskip("torch")
ndimage = pytest.importorskip("scipy.ndimage")
F = torch.nn.functional


def threshold(prob, target, ignore, thresh, min_kept, factor):
    """The probability (n, c, h, w) up to which pixels are hard, as loss/loss.py of CCNet finds it."""
    small = ndimage.zoom(prob, (1.0, 1.0, 1.0 / factor, 1.0 / factor), order=1)
    label = ndimage.zoom(target, (1.0, 1.0 / factor, 1.0 / factor), order=0).ravel()
    kept, valid = min_kept // factor**2, label != ignore
    if kept >= valid.sum():
        return 1.0
    right = np.moveaxis(small, 1, 0).reshape(prob.shape[1], -1)[:, valid][label[valid], np.arange(valid.sum())]
    return max(thresh, np.sort(right)[min(len(right), kept) - 1]) if kept > 0 else thresh


def ohem(x, y, ignore=255, thresh=0.7, min_kept=100000, factor=8):
    prob = x.softmax(1).detach().numpy()
    limit = threshold(prob, y.numpy(), ignore, thresh, min_kept, factor)
    right = np.take_along_axis(prob, np.minimum(y.numpy(), prob.shape[1] - 1)[:, None], 1)[:, 0]
    hard = (y.numpy() != ignore) & (right <= limit)
    return F.cross_entropy(x, torch.where(torch.tensor(hard), y, ignore), ignore_index=ignore), hard


def example(shape, ignored=0.3, scale=3.0, seed=0):
    n, h, w, k = shape
    x = rng(seed).normal(size=shape) * scale
    y = rng(seed + 1).integers(0, k, (n, h, w))
    return x, np.where(rng(seed + 2).uniform(size=y.shape) < ignored, 255, y)


CASES = {
    "published": ((1, 49, 33, 4), dict(factor=8, min_kept=100000)),
    "few kept": ((2, 65, 97, 5), dict(factor=8, min_kept=64 * 12)),
    "more kept than hard": ((2, 65, 97, 5), dict(factor=8, min_kept=64 * 50, thresh=0.01)),
    "none kept": ((2, 31, 17, 3), dict(factor=4, min_kept=0, thresh=0.3)),
    "less than one kept": ((2, 31, 17, 3), dict(factor=4, min_kept=15, thresh=0.3)),
    "factor 1": ((2, 9, 7, 3), dict(factor=1, min_kept=20, thresh=0.05)),
    "factor 3": ((1, 22, 40, 6), dict(factor=3, min_kept=90, thresh=0.1)),
    "smaller than the factor": ((2, 3, 5, 3), dict(factor=8, min_kept=0, thresh=0.2)),
    "last row out of the map": ((1, 56, 30, 3), dict(factor=2, min_kept=4 * 30, thresh=0.01)),
    "one row left": ((2, 11, 40, 3), dict(factor=8, min_kept=64 * 2, thresh=0.05)),
}


ALL_HARD = ("published", "smaller than the factor")
NONE_IGNORED = ("published", "few kept", "none kept", "last row out of the map")


@pytest.mark.parametrize(
    ("name", "ignored"), [*((name, 0.6) for name in CASES), *((name, 0.0) for name in NONE_IGNORED)]
)
def test_ohem_keeps_the_published_pixels(name, ignored):
    shape, kwargs = CASES[name]
    x, y = example(shape, ignored, seed=len(name))
    reference = torch.tensor(y)
    hard = ohem(torch.tensor(x).movedim(-1, 1), reference, **kwargs)[1]
    if hard.any():
        check_loss(
            lambda x: losses.ohem_cross_entropy(x, y, **kwargs),
            lambda x: ohem(x.movedim(-1, 1), reference, **kwargs)[0],
            x,
        )
        kept = (~hard & (y != 255)).sum()
        assert kept > 0 or name in ALL_HARD
    else:
        assert jnp.isnan(jax.jit(lambda x: losses.ohem_cross_entropy(x, y, **kwargs))(x))


def test_labels_may_be_traced_and_float32_keeps_the_same_pixels():
    x, y = example((2, 65, 97, 5), 0.4, seed=7)
    kwargs = dict(factor=8, min_kept=64 * 12)
    single = x.astype(np.float32)
    loss, hard = ohem(torch.tensor(single).movedim(-1, 1), torch.tensor(y), **kwargs)
    both = jax.value_and_grad(lambda x, y: losses.ohem_cross_entropy(x, y, **kwargs))
    result, grad = jax.jit(both)(single, jnp.asarray(y))
    assert (np.asarray(grad).any(-1) == hard.reshape(y.shape)).all()
    assert abs(float(result) - float(loss)) < 1e-5


def test_ties_are_kept():
    x = np.zeros((1, 4, 6, 2))
    x[0, :2, :, 0] = 5
    y = np.zeros((1, 4, 6), int)
    kwargs = dict(factor=1, min_kept=3, thresh=0.1)
    loss, hard = ohem(torch.tensor(x).movedim(-1, 1), torch.tensor(y), **kwargs)
    assert hard.sum() == 12
    ours = jax.jit(lambda x: losses.ohem_cross_entropy(x, y, **kwargs))(x)
    assert abs(float(ours) - float(loss)) < 1e-12


def test_ohem_of_ignored_pixels_only_is_nan():
    x, y = jnp.ones((1, 9, 9, 3)), np.full((1, 9, 9), 255)
    both = jax.jit(lambda x: [losses.ohem_cross_entropy(x, y, min_kept=kept) for kept in (100000, 0)])(x)
    assert np.isnan(both).all()


SIZES = [1, 2, 3, 4, 5, 12, 20, 28, 30, 32, 48, 56, 57, 97, 321, 512, 713, 769, 1024]


def test_small_maps_are_scipys():
    from flax_attn.losses.ohem import _nearest, _zoomed

    maps = [(rng(n).normal(size=(1, n, 1, 1)), rng(n).integers(0, 9, (1, n, 1))) for n in SIZES]
    cases = [(x, y, factor) for x, y in maps for factor in (1, 2, 8) if round(x.shape[1] / factor) > 0]
    ours = jax.jit(lambda: [(_zoomed(jnp.asarray(x), 1, f), _nearest(jnp.asarray(y), 1, f)) for x, y, f in cases])()
    for (x, y, factor), (small, nearest) in zip(cases, ours, strict=True):
        zoom = 1.0 / factor
        expected = ndimage.zoom(x, (1.0, zoom, 1.0, 1.0), order=1)
        np.testing.assert_allclose(small, expected, rtol=0, atol=1e-13)
        np.testing.assert_array_equal(nearest, ndimage.zoom(y, (1.0, zoom, 1.0), order=0))


def resized(x, y):
    return F.interpolate(x.movedim(-1, 1), size=y.shape[1:], mode="bilinear", align_corners=True)


def test_dsn_losses_resize_and_add_the_auxiliary_scores():
    y = example((2, 17, 25, 4))[1]
    x, aux = rng(1).normal(size=(2, 3, 5, 4)), rng(2).normal(size=(2, 4, 4, 4))
    reference = torch.tensor(y)

    def plain(x):
        return F.cross_entropy(resized(x, reference), reference, ignore_index=255)

    check_loss(lambda x, aux: losses.dsn_loss([x, aux], y), lambda x, aux: plain(x) + 0.4 * plain(aux), x, aux)
    check_loss(lambda x: losses.dsn_loss([x], y), plain, x)
    kwargs = dict(thresh=0.3, min_kept=200, factor=4)
    check_loss(
        lambda x, aux: losses.ohem_dsn_loss([x, aux], y, **kwargs),
        lambda x, aux: ohem(resized(x, reference), reference, **kwargs)[0] + 0.4 * plain(aux),
        x,
        aux,
    )


def test_danets_loss_is_the_sum_of_three():
    y = np.where((labels := example((2, 5, 7, 4))[1]) == 255, -1, labels)
    weight, reference = rng(9).uniform(0.5, 2, 4), torch.tensor(y)
    xs = [rng(i).normal(size=(2, 5, 7, 4)) for i in range(3)]

    def total(*xs):
        return sum(F.cross_entropy(x.movedim(-1, 1), reference, torch.tensor(weight), ignore_index=-1) for x in xs)

    check_loss(lambda *xs: losses.segmentation_multi_losses(xs, y, weight), total, *xs)


@pytest.mark.parametrize("weighted", [False, True])
def test_encodings_losses(weighted):
    y = np.where((labels := example((2, 4, 3, 6))[1]) == 255, -1, labels)
    y[0][y[0] == 5] = 0
    x, aux, se = rng(1).normal(size=(2, 4, 3, 6)), rng(2).normal(size=(2, 4, 3, 6)), rng(3).normal(size=(2, 6))
    weight = rng(4).uniform(0.5, 2, 6) if weighted else None
    w, reference = torch.tensor(weight) if weighted else None, torch.tensor(y)
    occurs = torch.stack([torch.histc(t.double(), bins=6, min=0, max=5) > 0 for t in reference]).double()
    assert 0 < occurs.sum() < occurs.numel()

    def ce(x):
        return F.cross_entropy(x.movedim(-1, 1), reference, w, ignore_index=-1)

    def encoding(se):
        return F.binary_cross_entropy(torch.sigmoid(se), occurs, w)

    kwargs = dict(weight=weight)
    check_loss(
        lambda x, aux, se: losses.segmentation_losses(x, y, aux, se, **kwargs),
        lambda x, aux, se: ce(x) + 0.4 * ce(aux) + 0.2 * encoding(se),
        x,
        aux,
        se,
    )
    check_loss(
        lambda x, se: losses.segmentation_losses(x, y, None, se, **kwargs),
        lambda x, se: ce(x) + 0.2 * encoding(se),
        x,
        se,
    )
    check_loss(lambda x: losses.segmentation_losses(x, y, **kwargs), ce, x)


def test_half_precision_is_float32():
    x, y = example((1, 17, 17, 3))
    for loss in (
        lambda half: losses.ohem_cross_entropy(half, y),
        lambda half: losses.dsn_loss([half], y),
        lambda half: losses.segmentation_multi_losses([half] * 3, y, ignore_index=255),
    ):
        assert jax.eval_shape(loss, jnp.asarray(x, jnp.bfloat16)).dtype == jnp.float32


X, Y = jnp.ones((2, 4, 4, 3)), np.zeros((2, 4, 4), int)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: losses.ohem_cross_entropy(X[0], Y[0]), r"logits of shape \(n, h, w, k\), got \(4, 4, 3\)"),
        (lambda: losses.ohem_cross_entropy(X, Y + 3), "labels from 0 to 2, or ignore_index=255, got 3"),
        (lambda: losses.ohem_cross_entropy(X, Y[:1]), r"labels of shape \(2, 4, 4\), got \(1, 4, 4\)"),
        (lambda: losses.ohem_cross_entropy(X, Y, factor=0), "min_kept >= 0 and factor >= 1, got 100000, 0"),
        (lambda: losses.dsn_loss([], Y), "expected the scores of CCNet, got none"),
        (lambda: losses.dsn_loss([X], Y[0]), r"labels of shape \(n, h, w\), got \(4, 4\)"),
        (lambda: losses.ohem_dsn_loss([X], Y), "scores and auxiliary scores, got 1 output"),
        (lambda: losses.segmentation_multi_losses([X, X], Y), "expected three outputs, got 2"),
        (lambda: losses.segmentation_losses(X, Y, None, X[:, 0, 0, :2]), r"se_logits of shape \(2, 3\), got \(2, 2\)"),
    ],
)
def test_bad_input_is_refused(call, words, no_annotation_checks):
    with pytest.raises(ValueError, match=words):
        call()
