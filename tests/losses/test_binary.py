"""Binary cross-entropy, and the losses made of it: PraNet's structure loss and LDNet's, beside PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flax_attn.losses as losses
from tests.helpers.losses import check_loss, in_each_reduction, rng

torch = pytest.importorskip("torch")
F = torch.nn.functional

LOGITS = rng(1).normal(size=(2, 3, 5)) * 4
TARGETS = rng(2).uniform(size=(2, 3, 5))
WEIGHT = rng(3).uniform(0.2, 3, 5)


@pytest.mark.parametrize("weighted", [False, True])
def test_binary_cross_entropies_are_torchs(weighted):
    ours, theirs = (WEIGHT, torch.tensor(WEIGHT)) if weighted else (None, None)
    from_logits, reference = losses.binary_cross_entropy_with_logits, F.binary_cross_entropy_with_logits
    check_loss(
        in_each_reduction(lambda x, t, way: from_logits(x, t, ours, reduction=way, pos_weight=ours)),
        in_each_reduction(lambda x, t, way: reference(x, t, theirs, reduction=way, pos_weight=theirs)),
        LOGITS,
        TARGETS,
    )
    t = torch.tensor(TARGETS)
    check_loss(
        in_each_reduction(lambda x, way: losses.binary_cross_entropy(x, TARGETS, ours, reduction=way)),
        in_each_reduction(lambda x, way: F.binary_cross_entropy(x, t, theirs, reduction=way)),
        1 / (1 + np.exp(-LOGITS)),
    )


def test_certain_probabilities_have_torchs_finite_loss_and_gradient():
    p = np.array([0.0, 0, 1, 1, 1e-300, 1e-13, 1 - 1e-13])
    t = np.array([0.0, 1, 0, 1, 1, 0.5, 0])
    value = check_loss(
        lambda x: losses.binary_cross_entropy(x, t), lambda x: F.binary_cross_entropy(x, torch.tensor(t)), p
    )
    assert value > 40
    assert np.isfinite(jax.jit(jax.grad(losses.binary_cross_entropy, 1))(p, t)).all()


def test_extreme_logits_are_finite():
    x = np.array([-1e3, 1e3, -800.0, 0.0])
    t = np.array([1.0, 0, 0, 1])
    check_loss(
        lambda x: losses.binary_cross_entropy_with_logits(x, t),
        lambda x: F.binary_cross_entropy_with_logits(x, torch.tensor(t)),
        x,
    )


def structure_loss(pred, mask, reduction="none"):
    weit = 1 + 5 * torch.abs(F.avg_pool2d(mask, kernel_size=31, stride=1, padding=15) - mask)
    bce = F.binary_cross_entropy_with_logits(pred, mask, reduction=reduction)
    wbce = (weit * bce).sum((2, 3)) / weit.sum((2, 3))
    prob = torch.sigmoid(pred)
    inter = (prob * mask * weit).sum((2, 3))
    union = ((prob + mask) * weit).sum((2, 3))
    return (wbce + 1 - (inter + 1) / (union - inter + 1)).mean()


@pytest.mark.parametrize(
    ("shape", "soft", "weighted"),
    [
        ((2, 33, 40, 1), False, True),
        ((3, 5, 7, 2), True, True),
        ((1, 1, 1, 1), False, True),
        ((2, 9, 33, 1), True, False),
    ],
)
def test_structure_loss_is_pranets(shape, soft, weighted):
    x, t = rng(4).normal(size=shape) * 3, rng(5).uniform(size=shape)
    t = t if soft else (t > 0.6).astype(float)
    reference = torch.tensor(t).movedim(-1, 1)
    check_loss(
        lambda x: losses.structure_loss(x, t, weighted),
        lambda x: structure_loss(x.movedim(-1, 1), reference, "none" if weighted else "mean"),
        x,
    )


def bce_dice(pred, target):
    p, t = pred.flatten(1), target.flatten(1)
    score = (2 * (p * t).sum(1) + 1) / (p.sum(1) + t.sum(1) + 1)
    return F.binary_cross_entropy(p, t) + 1 - score.mean()


def supervised(maps, t):
    total = 0
    for i, x in enumerate(maps):
        if i:
            t = F.interpolate(t, scale_factor=0.5, mode="bilinear", align_corners=True)
        total = total + bce_dice(x.movedim(-1, 1), t)
    return total


@pytest.mark.parametrize("size", [(32, 48), (64, 32)])
def test_deep_supervision_is_ldnets(size):
    h, w = size
    t = (rng(6).uniform(size=(2, h, w, 1)) > 0.5).astype(float)
    maps = [rng(i).uniform(0.01, 0.99, (2, h >> i, w >> i, 1)) for i in range(5)]
    reference = torch.tensor(t).movedim(-1, 1)
    check_loss(
        lambda *xs: losses.deep_supervision_loss(xs, t),
        lambda *xs: supervised(xs, reference),
        *maps,
    )


def test_focal_and_dice_are_those_of_detr_and_float32_at_least():
    from flax_attn.models.detr import criterion

    assert losses.dice_loss is criterion.dice_loss
    assert losses.sigmoid_focal_loss is criterion.sigmoid_focal_loss
    x, t = rng().normal(size=(3, 5, 4)), (rng(1).uniform(size=(3, 5, 4)) > 0.5).astype(float)
    y = torch.tensor(t)

    def focal(x):
        p = torch.sigmoid(x)
        p_t, alpha = p * y + (1 - p) * (1 - y), 0.25 * y + 0.75 * (1 - y)
        return (alpha * (1 - p_t) ** 2 * F.binary_cross_entropy(p, y, reduction="none")).mean((-2, -1))

    def dice(x):
        p = torch.sigmoid(x)
        return 1 - (2 * (p * y).sum((-2, -1)) + 1) / (p.sum((-2, -1)) + y.sum((-2, -1)) + 1)

    for ours, theirs in ((losses.sigmoid_focal_loss, focal), (losses.dice_loss, dice)):
        check_loss(lambda x, ours=ours: ours(x, jnp.asarray(t)), theirs, x)
        assert jax.eval_shape(ours, *[jnp.asarray(each, jnp.bfloat16) for each in (x, t)]).dtype == jnp.float32


X = jnp.ones((2, 4, 4, 1))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: losses.binary_cross_entropy(X, X[0]), r"binary_cross_entropy: expected targets of shape \(2, 4, 4, 1"),
        (lambda: losses.binary_cross_entropy(X, X, np.ones(3)), r"a weight that broadcasts to .*, got shape \(3,\)"),
        (lambda: losses.binary_cross_entropy_with_logits(X, X, reduction=""), "a reduction of mean, sum, none, got ''"),
        (lambda: losses.binary_cross_entropy_with_logits(X, X, pos_weight=np.ones(7)), "a pos_weight that broadcasts"),
        (lambda: losses.structure_loss(X[0], X[0]), r"logits of shape \(n, h, w, c\), got \(4, 4, 1\)"),
        (lambda: losses.structure_loss(X, X[..., 0]), "structure_loss: expected targets of shape"),
        (lambda: losses.bce_dice_loss(X, X[:1]), "bce_dice_loss: expected targets of shape"),
        (lambda: losses.deep_supervision_loss([X, X], X), r"a map 1 of shape \(2, 2, 2, 1\), got \(2, 4, 4, 1\)"),
        (lambda: losses.deep_supervision_loss([], X), "expected one map or more, got none"),
    ],
)
def test_bad_input_is_refused(call, words, no_annotation_checks):
    with pytest.raises(ValueError, match=words):
        call()
