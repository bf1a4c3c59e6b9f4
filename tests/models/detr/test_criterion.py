"""DETR's matching and losses: the twin's numbers and gradients under jit, whatever the padding of the targets."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import linear_sum_assignment

torch = pytest.importorskip("torch")

from flax_attn.models.detr import boxes as detr_boxes
from flax_attn.models.detr import criterion as detr_criterion
from flax_attn.models.detr.criterion import HungarianMatcher, SetCriterion, pad_targets
from tests.helpers.layer import check_refusal
from tests.helpers.tolerances import assert_close
from torch_ref.models.detr import boxes as torch_boxes
from torch_ref.models.detr import criterion as torch_criterion

CLASSES = 5
ALL = ("labels", "boxes", "cardinality", "masks")
CRITERION = SetCriterion(CLASSES, losses=ALL)
TWIN = torch_criterion.SetCriterion(CLASSES, losses=ALL)
ROOM = {"length": 9, "size": (13, 10)}  # one shape for all, so that it is compiled once


def draw_boxes(rng, *shape):
    """cxcywh, inside the image."""
    sides = rng.uniform(0.1, 0.4, (*shape, 2))
    return np.concatenate([rng.uniform(sides / 2, 1 - sides / 2), sides], -1)


def draw_outputs(seed, n=3, q=9, aux=1, size=(5, 4), dtype=np.float64):
    rng = np.random.default_rng(seed)

    def layer():
        return {
            "pred_logits": (2 * rng.normal(size=(n, q, CLASSES + 1))).astype(dtype),
            "pred_boxes": draw_boxes(rng, n, q).astype(dtype),
        }

    masks = rng.normal(size=(n, q, *size)).astype(dtype)
    return {**layer(), "pred_masks": masks, "aux_outputs": [layer() for _ in range(aux)]}


def draw_targets(seed, counts=(4, 0, 7), sizes=((11, 9), (8, 10), (13, 7))):
    """As upstream's data set gives them."""
    rng = np.random.default_rng(seed)
    return [
        {
            "labels": rng.integers(CLASSES, size=count),
            "boxes": draw_boxes(rng, count),
            "masks": rng.random((count, *size)) < 0.4,
        }
        for count, size in zip(counts, sizes, strict=False)
    ]


def padded(targets, **kwargs):
    """With boxes in float64, which ``pad_targets`` has in float32."""
    result = pad_targets(targets, **kwargs)
    boxes = np.zeros(result["boxes"].shape)
    for i, target in enumerate(targets):
        boxes[i, : len(target["boxes"])] = target["boxes"]
    return {**result, "boxes": boxes}


def tensors(tree):
    return jax.tree.map(lambda x: torch.tensor(x, requires_grad=x.dtype == np.float64), tree)


def expected_losses(outputs, targets, criterion, num_boxes=None):
    """The twin's losses and the gradients of their weighted sum."""
    ours = tensors(outputs)
    losses = criterion(ours, [jax.tree.map(torch.tensor, t) for t in targets], num_boxes)
    loss = torch_criterion.weighted_loss(losses, criterion.weight_dict)
    loss.backward()
    grads = jax.tree.map(lambda x: np.zeros(x.shape) if x.grad is None else x.grad.numpy(), ours)
    return {key: value.detach().numpy() for key, value in losses.items()}, loss.item(), grads


@functools.partial(jax.jit, static_argnums=0)
def jitted(criterion, outputs, targets, num_boxes):
    def loss(outputs):
        losses = criterion(outputs, targets, num_boxes)
        return detr_criterion.weighted_loss(losses, criterion.weight_dict), losses

    (total, losses), grads = jax.value_and_grad(loss, has_aux=True)(outputs)
    return losses, total, grads


def step(outputs, targets, num_boxes=None, criterion=CRITERION):
    """Losses, their weighted sum and its gradients."""
    return jitted(criterion, outputs, targets, num_boxes)


def check_losses(outputs, targets, num_boxes=None, **room):
    """Every loss and gradient under jit against the twin; the losses."""
    expected, expected_total, expected_grads = expected_losses(outputs, targets, TWIN, num_boxes)
    losses, total, grads = step(outputs, padded(targets, **(room or ROOM)), num_boxes)
    assert set(losses) == set(expected)
    for key, value in losses.items():
        assert_close(value, expected[key], what=key)
    assert_close(total, expected_total)
    jax.tree.map(assert_close, grads, expected_grads)
    return losses


@pytest.mark.parametrize("seed", range(5))
def test_losses_and_gradients_are_the_twins(seed):
    losses = check_losses(draw_outputs(seed), draw_targets(seed))
    assert float(losses["loss_bbox"]) > 0
    assert "loss_giou_0" in losses
    assert "loss_mask_0" not in losses
    assert "class_error_0" not in losses


def test_losses_without_padding_and_of_as_many_targets_as_queries():
    check_losses(draw_outputs(3), draw_targets(3, (9, 9, 9)), length=None)


@pytest.mark.parametrize("room", [ROOM, {"length": 0}])
def test_losses_of_images_without_objects(room):
    losses = check_losses(draw_outputs(4), draw_targets(4, (0, 0, 0)), **room)
    assert float(losses["class_error"]) == 100
    assert float(losses["loss_dice"]) == 0


def test_num_boxes_may_be_given():
    losses = check_losses(draw_outputs(5), draw_targets(5), num_boxes=2.5)
    own = check_losses(draw_outputs(5), draw_targets(5))
    assert_close(losses["loss_giou"], own["loss_giou"] * 11 / 2.5)


def test_gradients_of_boxes_that_touch_are_the_twins():
    """Where max(x, 0) and the larger of two equal edges have no gradient."""
    outputs, targets = draw_outputs(6), draw_targets(6, (1, 1, 1))
    edges = [(0.75, 0.625, 0.25, 0.25), (0.5, 0.5, 0.25, 0.25), (0.5, 0.5, 0.5, 0.25)]
    for i, target in enumerate(targets):
        target["boxes"] = np.array([[0.5, 0.5, 0.25, 0.25]])
        outputs["pred_boxes"][i] = edges[i]
        outputs["pred_logits"][i, 3] = 9 * np.eye(CLASSES + 1)[target["labels"][0]]
    check_losses(outputs, targets)


def test_padding_may_stand_anywhere_and_hold_anything():
    outputs, targets = draw_outputs(8), padded(draw_targets(8), **ROOM)
    gaps, order = ~targets["valid"], np.random.default_rng(8).permutation(9)
    junk = {"labels": 77, "boxes": np.nan, "masks": True, "valid": False}
    spread = [(key, gaps.reshape(*gaps.shape, *[1] * (x.ndim - 2)), x) for key, x in targets.items()]
    shuffled = {key: np.where(gap, junk[key], x)[:, order].astype(x.dtype) for key, gap, x in spread}
    jax.tree.map(assert_close, step(outputs, shuffled), step(outputs, targets))


def pad_costs(cost, length):
    """The cost, padded with what would be cheapest, and what is valid."""
    q, t = cost.shape
    wide = np.concatenate([cost, np.full((q, length - t), -1e3)], 1)
    return wide, np.arange(length) < t


assign = jax.jit(detr_criterion.assign)


@pytest.mark.parametrize("t", [0, 1, 4, 9])
@pytest.mark.parametrize("kind", ["random", "ties", "equal"])
def test_assignment_costs_what_scipys_does(t, kind):
    rng = np.random.default_rng(t)
    draw = {"random": rng.normal, "ties": lambda size: rng.integers(3, size=size), "equal": np.ones}[kind]
    for _ in range(1 if kind == "equal" else 10):
        cost = np.asarray(draw(size=(9, t)) if kind != "equal" else draw((9, t)), float)
        rows, columns = linear_sum_assignment(cost)
        alone = np.asarray(assign(cost, np.ones(t, bool)))
        assert len(set(alone)) == t
        assert_close(cost[alone, np.arange(t)].sum(), cost[rows, columns].sum())
        for length in {9} - {t}:
            given = np.asarray(assign(*pad_costs(cost, length)))
            np.testing.assert_array_equal(given[:t], alone)
            assert (given[t:] == 9).all()


def test_assignment_is_a_matching_whatever_the_costs():
    cost = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    for bad in (np.nan, np.inf, -np.inf, 3e38):
        for rows in (slice(0, 2), slice(None)):
            spoiled = cost.copy()
            spoiled[rows] = bad
            given = np.asarray(assign(spoiled, np.array([True, False, True, True])))
            assert given[1] == 6
            assert len(set(given)) == 4
            assert (np.delete(given, 1) < 6).all()


@pytest.mark.parametrize("seed", range(3))
def test_costs_and_matches_are_the_twins(seed):
    outputs, targets = draw_outputs(seed), draw_targets(seed)
    ours, theirs = HungarianMatcher(1.5, 4.0, 2.5), torch_criterion.HungarianMatcher(1.5, 4.0, 2.5)
    tensor_targets = [jax.tree.map(torch.tensor, t) for t in targets]
    costs = ours.costs(outputs, padded(targets))
    matches = np.asarray(jax.jit(ours)(outputs, padded(targets)))
    for i, cost in enumerate(theirs.costs(jax.tree.map(torch.tensor, outputs), tensor_targets)):
        assert_close(costs[i, :, : cost.shape[1]], cost)
    for i, (queries, columns) in enumerate(theirs(jax.tree.map(torch.tensor, outputs), tensor_targets)):
        np.testing.assert_array_equal(matches[i, columns], queries)
        assert (np.delete(matches[i], columns) == 9).all()


def test_diverged_outputs_end_in_a_loss_that_is_not_a_number():
    outputs = jax.tree.map(lambda x: np.full_like(x, np.nan), draw_outputs(0))
    losses, _, _ = step(outputs, padded(draw_targets(0), **ROOM))
    assert np.isnan(losses["loss_ce"])
    assert np.isnan(losses["loss_bbox"])


def test_half_precision_outputs_give_float32_losses():
    targets = pad_targets(draw_targets(1))
    half = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), draw_outputs(1, aux=0))
    losses, total, grads = step(half, targets)
    expected, _, _ = step(jax.tree.map(lambda x: x.astype(jnp.float32), half), targets)
    assert total.dtype == jnp.float32
    assert {x.dtype.name for x in jax.tree.leaves(grads)} == {"bfloat16"}
    for key, value in losses.items():
        assert value.dtype == jnp.float32, key
        assert_close(value, expected[key], "float32", key)


def test_a_linear_detector_learns():
    rng = np.random.default_rng(0)
    targets = pad_targets(draw_targets(0))
    x = rng.normal(size=(3, 6)).astype(np.float32)
    shapes = {"pred_logits": (9, CLASSES + 1), "pred_boxes": (9, 4), "pred_masks": (9, 6, 5)}
    params = {key: 0.1 * rng.normal(size=(6, *s)).astype(np.float32) for key, s in shapes.items()}
    optimizer = optax.adam(0.03)

    def loss(params):
        outputs = {key: jnp.tensordot(x, w, 1) for key, w in params.items()}
        outputs["pred_boxes"] = jax.nn.sigmoid(outputs["pred_boxes"])
        return detr_criterion.weighted_loss(CRITERION(outputs, targets), CRITERION.weight_dict)

    @jax.jit
    def train(params):
        def update(carry, _):
            params, state = carry
            value, grads = jax.value_and_grad(loss)(params)
            updates, state = optimizer.update(grads, state)
            return (optax.apply_updates(params, updates), state), value

        return jax.lax.scan(update, (params, optimizer.init(params)), length=60)[1]

    values = np.asarray(train(params))
    assert values[-1] < 0.5 * values[0]


def test_losses_and_gradients_under_vmap():
    """Of each image on its own."""
    criterion = SetCriterion(CLASSES, losses=("labels", "boxes"))
    outputs, targets = draw_outputs(9), padded(draw_targets(9), **ROOM)
    outputs = {key: outputs[key] for key in ("pred_logits", "pred_boxes")}
    alone = jax.tree.map(lambda x: jnp.asarray(x)[:, None], (outputs, targets))
    losses, total, grads = jax.vmap(functools.partial(step, criterion=criterion))(*alone)
    for i in range(3):
        one = jax.tree.map(lambda x, i=i: x[i], alone)
        expected = step(*one, criterion=criterion)
        jax.tree.map(assert_close, jax.tree.map(lambda x, i=i: x[i], (losses, total, grads)), expected)


def test_weights_are_the_published_ones():
    ours, theirs = detr_criterion.loss_weights(2, masks=True), torch_criterion.loss_weights(2, masks=True)
    assert ours == theirs
    last = {"loss_ce": 1, "loss_bbox": 5, "loss_giou": 2, "loss_mask": 1, "loss_dice": 1}
    assert ours == last | {f"{k}_{i}": last[k] for k in ("loss_ce", "loss_bbox", "loss_giou") for i in range(2)}
    assert len(SetCriterion(CLASSES).weight_dict) == 3 * 6


def test_boxes_there_and_back():
    rng = np.random.default_rng(0)
    boxes = draw_boxes(rng, 3, 5)
    corners = detr_boxes.box_cxcywh_to_xyxy(jnp.asarray(boxes))
    assert_close(corners, torch_boxes.box_cxcywh_to_xyxy(torch.tensor(boxes)))
    assert_close(detr_boxes.box_xyxy_to_cxcywh(corners), boxes)
    assert_close(torch_boxes.box_xyxy_to_cxcywh(torch.tensor(np.asarray(corners))), boxes)


def test_iou_by_hand():
    """A box with its right half, with its neighbour, and with one of the same size at a distance of one width."""
    one = jnp.array([[0.0, 0.0, 2.0, 1.0]])
    two = jnp.array([[1.0, 0.0, 2.0, 1.0], [2.0, 0.0, 4.0, 1.0], [4.0, 0.0, 6.0, 1.0]])
    iou, union = detr_boxes.box_iou(one, two)
    assert_close(iou, [[0.5, 0, 0]])
    assert_close(union, [[2, 4, 4]])
    assert_close(detr_boxes.generalized_box_iou(one, two), [[0.5, 0, -1 / 3]])


def test_boxes_of_masks():
    masks = np.zeros((3, 6, 5), bool)
    masks[0, 2:5, 1:3] = masks[1, 0, 4] = True
    expected = [[1, 2, 2, 4], [4, 0, 4, 0], [1e8, 1e8, 0, 0]]
    np.testing.assert_array_equal(detr_boxes.masks_to_boxes(jnp.asarray(masks)), expected)
    np.testing.assert_array_equal(torch_boxes.masks_to_boxes(torch.tensor(masks)), expected)


def test_targets_are_padded():
    targets = draw_targets(0)
    result = pad_targets(targets, 8, (16, 12))
    assert {key: x.shape for key, x in result.items()} == {
        "labels": (3, 8), "boxes": (3, 8, 4), "valid": (3, 8), "masks": (3, 8, 16, 12),
    }  # fmt: skip
    assert result["valid"].sum(1).tolist() == [4, 0, 7]
    np.testing.assert_array_equal(result["labels"][2, :7], targets[2]["labels"])
    np.testing.assert_array_equal(result["masks"][2, :7, :13, :7], targets[2]["masks"])
    assert result["masks"].sum() == sum(t["masks"].sum() for t in targets)
    assert "masks" not in pad_targets([{k: t[k] for k in ("labels", "boxes")} for t in targets])


def test_targets_that_do_not_fit_are_refused():
    targets = draw_targets(0)
    check_refusal(lambda: pad_targets(targets, 6), "pad_targets: expected at most length=6 objects in an image, got 7")
    check_refusal(lambda: pad_targets(targets, size=(12, 12)), r"masks of at most \(12, 12\), got \(13, 10\)")


def test_refusals():
    outputs, targets = draw_outputs(0, q=6), draw_targets(0)
    lists = [jax.tree.map(torch.tensor, t) for t in targets]
    check_refusal(
        lambda: jax.eval_shape(HungarianMatcher(), outputs, padded(targets)),
        "HungarianMatcher: expected at most as many targets as the 6 queries, got 7",
        lambda: torch_criterion.HungarianMatcher()(jax.tree.map(torch.tensor, outputs), lists),
    )
    check_refusal(
        lambda: HungarianMatcher(0.0, 0.0, 0.0),
        "HungarianMatcher: expected a cost that is not 0",
        lambda: torch_criterion.HungarianMatcher(0, 0, 0),
    )
    check_refusal(
        lambda: SetCriterion(CLASSES, losses=("labels", "points")),
        "SetCriterion: expected losses among labels, boxes, cardinality, masks, got",
        lambda: torch_criterion.SetCriterion(CLASSES, losses=("labels", "points")),
    )
    check_refusal(
        lambda: jax.eval_shape(SetCriterion(CLASSES + 1), draw_outputs(0), padded(targets)),
        r"SetCriterion: expected 6 classes and no-object, got pred_logits of shape \(3, 9, 6\)",
        lambda: torch_criterion.SetCriterion(CLASSES + 1)(jax.tree.map(torch.tensor, draw_outputs(0)), lists),
    )
    swapped = torch.tensor([[0.5, 0.5, 0.4, 0.6]])
    with pytest.raises(ValueError, match="corners swapped"):
        torch_boxes.generalized_box_iou(swapped, swapped)
