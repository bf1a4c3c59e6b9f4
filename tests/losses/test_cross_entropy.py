"""cross_entropy, nll_loss and what is made of them, beside PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flax_attn.losses as losses
from tests.helpers.losses import check_loss, in_each_reduction, rng

torch = pytest.importorskip("torch")
F = torch.nn.functional

LOGITS = rng(1).normal(size=(3, 5, 2, 7)) * 3
LABELS = rng(2).integers(0, 7, (3, 5, 2))
WEIGHT = rng(3).uniform(0.2, 3, 7)
IGNORED = np.where(rng(4).uniform(size=LABELS.shape) < 0.4, 255, LABELS)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("labels", [LABELS, IGNORED.astype(np.uint8)], ids=["all", "ignored"])
def test_cross_entropy_is_torchs(labels, weighted, smoothing):
    weight, theirs = (WEIGHT, torch.tensor(WEIGHT)) if weighted else (None, None)
    kwargs, y = dict(ignore_index=255, label_smoothing=smoothing), torch.tensor(labels).long()
    check_loss(
        in_each_reduction(lambda x, way: losses.cross_entropy(x, labels, weight, reduction=way, **kwargs)),
        in_each_reduction(lambda x, way: F.cross_entropy(x.movedim(-1, 1), y, theirs, reduction=way, **kwargs)),
        LOGITS,
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weighted", [False, True])
def test_probabilities_as_labels_are_torchs(weighted, smoothing):
    weight, theirs = (WEIGHT, torch.tensor(WEIGHT)) if weighted else (None, None)
    kwargs = dict(label_smoothing=smoothing)
    check_loss(
        in_each_reduction(lambda x, t, way: losses.cross_entropy(x, t, weight, reduction=way, **kwargs)),
        in_each_reduction(
            lambda x, t, way: F.cross_entropy(x.movedim(-1, 1), t.movedim(-1, 1), theirs, reduction=way, **kwargs)
        ),
        LOGITS,
        rng(5).dirichlet(np.ones(7), (3, 5, 2)),
    )


@pytest.mark.parametrize("weighted", [False, True])
def test_nll_loss_is_torchs(weighted):
    weight, theirs = (WEIGHT, torch.tensor(WEIGHT)) if weighted else (None, None)
    y, kwargs = torch.tensor(IGNORED), dict(ignore_index=255)
    check_loss(
        in_each_reduction(lambda x, way: losses.nll_loss(x, IGNORED, weight, reduction=way, **kwargs)),
        in_each_reduction(lambda x, way: F.nll_loss(x.movedim(-1, 1).contiguous(), y, theirs, reduction=way, **kwargs)),
        LOGITS,
    )


@pytest.mark.parametrize("shape", [(4,), (6, 4), (2, 3, 1, 5, 4)])
def test_any_number_of_axes(shape):
    x, y = rng().normal(size=shape), rng(1).integers(0, 4, shape[:-1])
    theirs = F.cross_entropy(torch.tensor(x).reshape(-1, 4), torch.tensor(y).reshape(-1))
    assert abs(float(jax.jit(losses.cross_entropy)(x, y)) - float(theirs)) < 1e-12


@jax.jit
def nothing_left():
    """The mean and the sum where all labels are ignored, with and without smoothing; each loss of no labels at all."""
    x, none = jnp.ones((2, 3)), np.full(2, -100)
    kinds = [
        in_each_reduction(lambda e, way: losses.cross_entropy(x, none, reduction=way, label_smoothing=e))(e)
        for e in (0.0, 0.1)
    ]
    empty, no_labels = jnp.ones((0, 3)), np.zeros(0, int)
    return kinds, in_each_reduction(lambda way: losses.cross_entropy(empty, no_labels, reduction=way))()


def test_nothing_left_is_nan_and_sums_to_0():
    kinds, of_empty = nothing_left()
    for mean, total, _ in (*kinds, of_empty):
        assert jnp.isnan(mean)
        assert total == 0
    assert of_empty[2].shape == (0,)
    assert torch.isnan(F.cross_entropy(torch.ones(0, 3), torch.zeros(0).long()))


def test_ignored_pixels_have_no_gradient():
    loss = jax.grad(lambda x: losses.cross_entropy(x, IGNORED, ignore_index=255, label_smoothing=0.1))
    grad = np.asarray(jax.jit(loss)(LOGITS))
    assert not grad[IGNORED == 255].any()
    assert grad[IGNORED != 255].all()


def test_labels_out_of_range_are_nan_on_a_device():
    x = jnp.ones((2, 3))
    under_jit = jax.jit(losses.cross_entropy)
    for y in (3, -1, 255):
        assert jnp.isnan(under_jit(x, jnp.array([0, y])))
    assert jnp.isnan(losses.cross_entropy(x, jnp.array([0, 3])))


def test_half_precision_is_summed_in_float32():
    x = jnp.asarray(LOGITS, jnp.bfloat16)
    loss, grad = jax.jit(jax.value_and_grad(losses.cross_entropy))(x, LABELS)
    assert loss.dtype == jnp.float32
    assert grad.dtype == jnp.bfloat16
    exact = jax.jit(losses.cross_entropy)(jnp.asarray(x, jnp.float64), LABELS)
    assert abs(loss - exact) < 1e-5
    assert jax.eval_shape(losses.soft_target_cross_entropy, x, x).dtype == jnp.float32


def test_soft_targets_are_the_sum_over_classes():
    lam, mixed = 0.3, np.eye(7)[LABELS] * 0.3 + np.eye(7)[LABELS[::-1]] * 0.7
    check_loss(
        losses.soft_target_cross_entropy,
        lambda x, t: (-t * torch.log_softmax(x, -1)).sum(-1).mean(),
        LOGITS,
        mixed * 0.9 + 0.1 / 7,
    )
    smooth = jax.jit(lambda x, y: losses.cross_entropy(x, y, label_smoothing=0.1))
    hard = [smooth(LOGITS, y) for y in (LABELS, LABELS[::-1])]
    soft = jax.jit(losses.soft_target_cross_entropy)(LOGITS, mixed * 0.9 + 0.1 / 7)
    assert abs(float(lam * hard[0] + (1 - lam) * hard[1] - soft)) < 1e-12


def test_auxiliary_cross_entropy():
    y = torch.tensor(LABELS)
    check_loss(
        lambda x, aux: losses.auxiliary_cross_entropy(x, aux, LABELS, label_smoothing=0.1),
        lambda x, aux: (
            F.cross_entropy(x.movedim(-1, 1), y, label_smoothing=0.1)
            + 0.4 * F.cross_entropy(aux.movedim(-1, 1), y, label_smoothing=0.1)
        ),
        LOGITS,
        LOGITS[::-1].copy(),
    )


X, Y = jnp.ones((2, 3)), np.array([0, 2])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: losses.cross_entropy(X, np.array([0, 3])), "labels from 0 to 2, or ignore_index=-100, got 3"),
        (lambda: losses.cross_entropy(X, [0, 3]), "labels from 0 to 2, or ignore_index=-100, got 3"),
        (lambda: losses.cross_entropy(X, np.array([0, -1])), "ignore_index=-100, got -1"),
        (lambda: losses.cross_entropy(X, np.zeros(3, int)), r"labels of shape \(2,\), got \(3,\)"),
        (lambda: losses.cross_entropy(X, np.zeros((2, 3), int)), r"labels of shape \(2,\), got \(2, 3\)"),
        (lambda: losses.cross_entropy(X, np.zeros(2, bool)), "expected integers as labels.*got bool"),
        (lambda: losses.cross_entropy(X, np.zeros(2)), r"probabilities of shape \(2, 3\), got \(2,\)"),
        (lambda: losses.cross_entropy(X, X, ignore_index=255), "a negative ignore_index with probabilities.*got 255"),
        (lambda: losses.cross_entropy(X, Y, np.ones(2)), r"a weight for each class of shape \(3,\), got \(2,\)"),
        (lambda: losses.cross_entropy(X, Y, reduction="avg"), "a reduction of mean, sum, none, got 'avg'"),
        (lambda: losses.cross_entropy(X, Y, label_smoothing=1.1), "label_smoothing from 0 to 1, got 1.1"),
        (lambda: losses.cross_entropy(X.astype(int), Y), "expected an array of floating point numbers"),
        (lambda: losses.nll_loss(X, np.array([0, 9])), "nll_loss: expected labels from 0 to 2"),
        (lambda: losses.soft_target_cross_entropy(X, X[:1]), r"targets of shape \(2, 3\), got \(1, 3\)"),
    ],
)
def test_bad_input_is_refused(call, words, no_annotation_checks):
    with pytest.raises(ValueError, match=words):
        call()
