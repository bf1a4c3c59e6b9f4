"""``pad_targets`` refuses on the host what the losses would silently take, and an image of padding costs nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_attn.models.detr.criterion import HungarianMatcher, SetCriterion, weighted_loss
from flax_attn.models.detr.targets import pad_targets

BOX = [0.5, 0.5, 0.2, 0.3]
GOOD = {"labels": [1, 2], "boxes": [BOX, BOX], "masks": np.ones((2, 4, 5), bool)}
EMPTY = {"labels": [], "boxes": []}
pytestmark = pytest.mark.usefixtures("no_annotation_checks")
ALL = ("labels", "boxes", "cardinality", "masks")
NAN = float("nan")


def refused(targets, **kwargs):
    with pytest.raises(ValueError, match=r"^(pad_targets|SetCriterion)") as error:
        pad_targets(targets, **kwargs)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": [1, 2, 0]}, "expected as many labels as boxes, got 3 labels and 2 boxes"),
        ({"boxes": [BOX]}, "got 2 labels and 1 boxes"),
        ({"boxes": []}, "got 2 labels and 0 boxes"),
        ({"masks": np.ones((3, 4, 5), bool)}, r"expected masks of shape (2, h, w), one for each label, got (3, 4, 5)"),
        ({"masks": np.ones((4, 5), bool)}, "expected masks of shape (2, h, w)"),
        ({"masks": np.full((2, 4, 5), 0.5)}, "expected masks of 0 and 1, got other values of float64"),
        ({"masks": np.full((2, 4, 5), NAN)}, "expected masks of 0 and 1"),
        ({"labels": [1, -1]}, "expected labels from 0 to 4, got [-1]"),
        ({"labels": [1, 5]}, "expected labels from 0 to 4, got [5]"),
        ({"labels": np.array([2**40, 1])}, "expected labels from 0 to 4, got [1099511627776]"),
        ({"labels": np.array([2**64 - 1, 1], np.uint64)}, "expected labels from 0 to 4, got [18446744073709551615]"),
        ({"labels": [1.0, 2.0]}, "expected integers as labels, got float64"),
        ({"labels": [True, False]}, "expected integers as labels, got bool"),
        ({"labels": ["cat", "dog"]}, "expected numbers in labels, got <U3"),
        ({"labels": [None, 1]}, "expected numbers in labels, got object"),
        ({"labels": [[1], [2]]}, "expected labels of shape (k,), got (2, 1)"),
        ({"labels": 3}, "expected labels of shape (k,), got ()"),
        ({"labels": [[1], [2, 3]]}, "got something that is no array (list)"),
        ({"boxes": [BOX, [0.5, 1.5, 0.1, 0.1]]}, "within [0, 1], as shares of the image, got [0.5, 1.5, 0.1, 0.1]"),
        ({"boxes": [[300, 200, 50, 40], BOX]}, "within [0, 1]"),
        ({"boxes": [BOX, [-0.1, 0.5, 0.1, 0.1]]}, "within [0, 1]"),
        ({"boxes": [BOX, [0.5, 0.5, -0.1, 0.1]]}, "height) of a size of 0 or more, got [0.5, "),
        ({"boxes": [BOX, [0.5, 0.5, NAN, 0.1]]}, "within [0, 1]"),
        ({"boxes": [BOX, [0.5, 0.5, float("inf"), 0.1]]}, "within [0, 1]"),
        ({"boxes": np.ones((2, 5))}, "expected boxes of shape (k, 4), got (2, 5)"),
        ({"boxes": np.ones(8)}, "expected boxes of shape (k, 4), got (8,)"),
        ({"boxes": np.ones((2, 4), complex)}, "expected numbers in boxes, got complex128"),
    ],
)
def test_a_bad_target_is_refused_with_the_index_of_its_image(changes, words):
    text = refused([GOOD, {**GOOD, **changes}], num_classes=5)
    assert text.startswith("pad_targets: image 1: ")
    assert words in text


def test_what_is_no_batch_is_refused():
    assert refused([]) == "pad_targets: expected the targets of one image or more, got none"
    assert refused(GOOD) == "pad_targets: expected a list of dicts, got a dict"
    assert "image 1: expected a dict with labels and boxes, got one with labels" in refused([GOOD, {"labels": []}])
    assert "image 0: expected a dict with labels and boxes, got a list" in refused([[1, 2]])
    assert "image 1: expected masks, as other images" in refused([GOOD, {**EMPTY, "labels": [1], "boxes": [BOX]}])
    assert refused([EMPTY, GOOD], length=1).endswith("at most length=1 objects in an image, got 2 (image 1)")
    assert "expected a length of 0 or more, got -1" in refused([EMPTY], length=-1)
    assert "expected a length of 0 or more, got 2.0" in refused([EMPTY], length=2.0)
    assert "expected a size (height, width), got 4" in refused([GOOD], size=4)


def test_without_num_classes_only_negative_labels_are_refused():
    assert refused([{"labels": [-1], "boxes": [BOX]}]).endswith("expected labels of 0 or more, got [-1]")
    assert pad_targets([{"labels": [90], "boxes": [BOX]}])["labels"].tolist() == [[90]]


def test_the_whole_image_is_a_box_and_rounding_passes():
    boxes = np.array([[0.5, 0.5, 1, 1], [np.nextafter(np.float32(1), 2), 0, 0, 0]], np.float32)
    assert pad_targets([{"labels": [0, 0], "boxes": boxes}])["boxes"].shape == (1, 2, 4)


def test_an_image_without_objects_is_a_row_of_padding():
    result = pad_targets([EMPTY, GOOD, {**EMPTY, "boxes": np.zeros((0, 4))}], length=3)
    assert result["valid"].tolist() == [[False] * 3, [True, True, False], [False] * 3]
    assert result["masks"].shape == (3, 3, 4, 5)
    assert not result["masks"][[0, 2]].any()
    assert result["labels"].dtype == np.int32
    assert pad_targets([EMPTY], length=2, size=(4, 5))["masks"].shape == (1, 2, 4, 5)


def drawn(n=2, q=5, classes=5):
    rng = np.random.default_rng(0)
    boxes = rng.uniform(0.2, 0.4, (n, q, 4))
    return {
        "pred_logits": rng.normal(size=(n, q, classes + 1)),
        "pred_boxes": boxes,
        "pred_masks": rng.normal(size=(n, q, 4, 4)),
    }


def losses_and_gradients(criterion, outputs, targets):
    def loss(outputs):
        losses = criterion(outputs, targets)
        return weighted_loss(losses, criterion.weight_dict), losses

    (_, losses), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(outputs)
    return losses, gradients


@pytest.mark.parametrize("length", [None, 3])
@pytest.mark.parametrize("eos_coef", [0.1, 0.0])
def test_a_batch_of_padding_has_finite_losses_and_gradients(length, eos_coef):
    criterion = SetCriterion(5, losses=ALL, eos_coef=eos_coef)
    losses, gradients = losses_and_gradients(criterion, drawn(), pad_targets([EMPTY] * 2, length, (6, 6)))
    for name, value in [*losses.items(), *gradients.items()]:
        assert jnp.isfinite(value).all(), name
    assert {key: float(losses[key]) for key in ("loss_bbox", "loss_giou", "loss_mask", "loss_dice")} == {
        "loss_bbox": 0, "loss_giou": 0, "loss_mask": 0, "loss_dice": 0,
    }  # fmt: skip
    assert (gradients["pred_boxes"] == 0).all()
    assert bool(jnp.any(gradients["pred_logits"] != 0)) == (eos_coef > 0)


def test_an_image_of_padding_leaves_the_boxes_of_the_others_as_they_are():
    criterion, outputs = SetCriterion(5, losses=ALL), drawn()
    alone, _ = losses_and_gradients(criterion, jax.tree.map(lambda x: x[1:], outputs), pad_targets([GOOD], 3))
    filled, gradients = losses_and_gradients(criterion, outputs, pad_targets([EMPTY, GOOD], 3))
    for key in ("loss_bbox", "loss_giou", "loss_mask", "loss_dice"):
        np.testing.assert_allclose(filled[key], alone[key], rtol=1e-12)
    assert (gradients["pred_boxes"][0] == 0).all()
    assert all(jnp.isfinite(g).all() for g in jax.tree.leaves(gradients))


def test_the_criterion_refuses_labels_and_targets_that_it_cannot_use():
    targets = pad_targets([GOOD, EMPTY])
    with pytest.raises(ValueError, match=r"^SetCriterion: expected labels from 0 to 1, got \[2\]$"):
        SetCriterion(2)(drawn(classes=2), targets)
    with pytest.raises(ValueError, match=r"^SetCriterion: expected targets with masks, got labels, boxes, valid$"):
        SetCriterion(5, losses=ALL)(drawn(), {key: targets[key] for key in ("labels", "boxes", "valid")})
    assert HungarianMatcher()(drawn(), targets).shape == (2, 2)
