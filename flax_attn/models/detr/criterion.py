"""End-to-End Object Detection with Transformers - Carion et al. 2020, https://arxiv.org/abs/2005.12872

Status: the matching and losses of facebookresearch/detr, whole under jit: optax matches on the device what upstream
matches with scipy on the host. Ground truth is padded to one number of objects (see ``pad_targets``), which changes
nothing; the twin takes upstream's lists. The defaults are those of upstream's training script, and costs and losses are
float32 at least. A cost that is NaN, at which scipy raises, is taken for 0, so that a diverged loss shows as NaN.

Upstream divides by the number of boxes averaged over its processes, each of which has a loss of its own. Under one jit
over a sharded batch the number is that of the whole batch and the gradients are the same, but for two things: upstream
averages the classification losses of its processes, each of which divides by its own sum of class weights, and it
clamps the average, not the total, at 1. Under shard_map give ``num_boxes``, the average over the shards.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int
from optax.assignment import hungarian_algorithm

from flax_attn.layers import accumulator, interpolate, log_softmax, require, sigmoid, softmax
from flax_attn.models.detr.boxes import box_cxcywh_to_xyxy, generalized_box_iou

Outputs = Mapping[str, Any]
"""pred_logits (n, q, c+1), the last for no object; pred_boxes (n, q, 4), cxcywh in [0, 1]; of the last layer.

For panoptic segmentation pred_masks (n, q, h, w), logits. With aux_outputs a list of the same, less masks, of the
layers before.
"""

Targets = Mapping[str, Any]
"""labels (n, t), integers below c; boxes (n, t, 4), cxcywh in [0, 1]; valid (n, t), False for padding.

For panoptic segmentation masks (n, t, h, w), 0 or 1.
"""

Matches = Int[Array, "n t"]
Losses = dict[str, Array]
Masks = Float[Array, "*n h w"]

LOSSES = ("labels", "boxes", "cardinality", "masks")


def pad_targets(
    targets: Sequence[Mapping[str, Any]], length: int | None = None, size: tuple[int, int] | None = None
) -> dict[str, np.ndarray]:
    """``Targets`` of upstream's form, a dict of labels (k,), boxes (k, 4) and perhaps masks (k, h, w) for each image.

    Args:
        length: how many objects there is room for, the largest number in ``targets`` when None. Fix it: jit compiles
            once for each. Room costs next to nothing, but for masks.
        size: height and width that masks are padded to at the bottom and right: those of the padded images. The
            largest in ``targets`` when None.

    Raises:
        ValueError: more objects than ``length``, or a mask larger than ``size``.
    """
    counts = [len(target["labels"]) for target in targets]
    most = max(counts, default=0)
    t = most if length is None else length
    require(most <= t, f"pad_targets: expected at most length={t} objects in an image, got {most}")
    spaces = {"labels": (), "boxes": (4,), "valid": ()}
    if any("masks" in target for target in targets):
        largest = tuple(np.max([np.shape(target["masks"])[1:] for target in targets], axis=0).tolist())
        spaces["masks"] = size or largest
        room = all(np.less_equal(largest, spaces["masks"]))
        require(room, f"pad_targets: expected masks of at most {size}, got {largest}")
    dtypes = {"labels": np.int32, "boxes": np.float32, "valid": bool, "masks": bool}
    padded = {key: np.zeros((len(targets), t, *space), dtypes[key]) for key, space in spaces.items()}
    for i, target in enumerate(targets):
        for key, rows in padded.items():
            values = np.ones(counts[i], bool) if key == "valid" else np.asarray(target[key])
            rows[i][tuple(map(slice, values.shape))] = values
    return padded


@dataclasses.dataclass(frozen=True)
class HungarianMatcher:
    """The query (n, t) of every target in the matching of least total cost; q, one too many, for padding.

    Args:
        cost_class, cost_bbox, cost_giou: weights of the class probability, of the L1 distance and of the generalised
            IoU of the boxes.

    Raises:
        ValueError: fewer queries than targets, padding included.
    """

    cost_class: float = 1.0
    cost_bbox: float = 5.0
    cost_giou: float = 2.0

    def __post_init__(self) -> None:
        costs = (self.cost_class, self.cost_bbox, self.cost_giou)
        require(any(costs), f"HungarianMatcher: expected a cost that is not 0, got {costs}")

    def costs(self, outputs: Outputs, targets: Targets) -> Float[Array, "n q t"]:
        """What it costs to give each target each query; without meaning for padding."""
        logits, boxes = wide(outputs["pred_logits"]), wide(outputs["pred_boxes"])
        labels, target_boxes = jnp.asarray(targets["labels"]), jnp.asarray(targets["boxes"], boxes.dtype)
        cost_class = -jnp.take_along_axis(softmax(logits), labels[:, None, :], 2)
        cost_bbox = jnp.abs(boxes[:, :, None] - target_boxes[:, None]).sum(-1)
        cost_giou = -generalized_box_iou(box_cxcywh_to_xyxy(boxes), box_cxcywh_to_xyxy(target_boxes))
        return self.cost_bbox * cost_bbox + self.cost_class * cost_class + self.cost_giou * cost_giou

    def __call__(self, outputs: Outputs, targets: Targets) -> Matches:
        (q, _), t = outputs["pred_logits"].shape[1:], targets["labels"].shape[1]
        require(t <= q, f"HungarianMatcher: expected at most as many targets as the {q} queries, got {t}")
        return jax.vmap(assign)(lax.stop_gradient(self.costs(outputs, targets)), jnp.asarray(targets["valid"]))


def assign(cost: Float[Array, "q t"], valid: Bool[Array, " t"]) -> Int[Array, " t"]:
    """The row of every valid column in the assignment of least total cost; q for the others.

    Each column that is not valid has a row of its own that nothing else can take, so that the valid ones are assigned
    as if they were alone, to the last bit.
    """
    q, t = cost.shape
    finite = jnp.clip(jnp.nan_to_num(cost), -1e9, 1e9)
    own = jnp.where(jnp.eye(t, dtype=bool), 0.0, jnp.inf).astype(cost.dtype)
    costs = jnp.concatenate([jnp.where(valid, finite, jnp.inf), jnp.where(valid, jnp.inf, own)])
    rows, columns = hungarian_algorithm(costs)
    return jnp.minimum(jnp.zeros(t, rows.dtype).at[columns].set(rows), q)


def wide(x: Any) -> Array:
    """x in float32 at least."""
    return jnp.asarray(x, accumulator(x.dtype))


def l1(x: Array) -> Array:
    """abs(x) with torch's gradient, which at 0 is 0."""
    return jnp.where(x == 0, 0, jnp.abs(x))


def sigmoid_focal_loss(inputs: Masks, targets: Masks, alpha: float = 0.25, gamma: float = 2.0) -> Float[Array, "*n"]:
    """https://arxiv.org/abs/1708.02002 of each map of logits, the mean of its pixels; ``alpha`` is the weight of 1."""
    prob = sigmoid(inputs)
    ce = jnp.logaddexp(inputs, 0) - inputs * targets
    p_t = prob * targets + (1 - prob) * (1 - targets)
    weight = alpha * targets + (1 - alpha) * (1 - targets)
    return (weight * ce * (1 - p_t) ** gamma).mean((-2, -1))


def dice_loss(inputs: Masks, targets: Masks) -> Float[Array, "*n"]:
    """1 less the overlap of each map of logits with its target, both counts plus one."""
    prob = sigmoid(inputs)
    numerator = 2 * (prob * targets).sum((-2, -1))
    denominator = prob.sum((-2, -1)) + targets.sum((-2, -1))
    return 1 - (numerator + 1) / (denominator + 1)


def loss_weights(aux_layers: int = 5, masks: bool = False) -> dict[str, float]:
    """The published coefficient of every loss, of the last layer and of ``aux_layers`` before it."""
    weights = {"loss_ce": 1.0, "loss_bbox": 5.0, "loss_giou": 2.0}
    last = {**weights, "loss_mask": 1.0, "loss_dice": 1.0} if masks else weights
    return last | {f"{key}_{i}": weight for i in range(aux_layers) for key, weight in weights.items()}


def weighted_loss(losses: Losses, weight_dict: Mapping[str, float]) -> Float[Array, ""]:
    """The sum of the losses that have a weight, times it; the others are for the log."""
    return jnp.sum(jnp.stack([value * weight_dict[key] for key, value in losses.items() if key in weight_dict]))


@dataclasses.dataclass(frozen=True, eq=False)
class SetCriterion:
    """The losses of a batch by name, each query compared with the target it is matched with, if any.

    loss_ce and class_error (of the matched queries, in percent), cardinality_error, loss_bbox, loss_giou, loss_mask
    and loss_dice; those of ``aux_outputs``, each matched on its own, end in _0, _1, ... and lack masks and class_error.

    Args:
        num_classes: without no-object.
        weight_dict: for ``weighted_loss``, kept for the training loop; ``loss_weights()`` when None.
        eos_coef: weight of no-object in loss_ce.
        losses: among "labels", "boxes", "cardinality" and "masks".

    The call takes outputs, targets and ``num_boxes``, a number to divide by in place of that of the valid targets.
    """

    num_classes: int
    matcher: HungarianMatcher = HungarianMatcher()
    weight_dict: Mapping[str, float] | None = None
    eos_coef: float = 0.1
    losses: Sequence[str] = ("labels", "boxes", "cardinality")

    def __post_init__(self) -> None:
        known = set(self.losses) <= set(LOSSES)
        require(known, f"SetCriterion: expected losses among {', '.join(LOSSES)}, got {self.losses}")
        if self.weight_dict is None:
            object.__setattr__(self, "weight_dict", loss_weights(masks="masks" in self.losses))

    def loss_labels(self, outputs: Outputs, targets: Targets, matches: Matches, num_boxes: Array) -> Losses:
        logits = wide(outputs["pred_logits"])
        n, q, _ = logits.shape
        found = f"expected {self.num_classes} classes and no-object, got pred_logits of shape {logits.shape}"
        require(logits.shape[2] == self.num_classes + 1, f"SetCriterion: {found}")
        image = jnp.arange(n)[:, None]
        empty = jnp.full((n, q), self.num_classes)
        classes = empty.at[image, matches].set(targets["labels"], mode="drop")
        nll = -jnp.take_along_axis(log_softmax(logits), classes[..., None], 2)[..., 0]
        weight = jnp.where(classes == self.num_classes, self.eos_coef, 1.0).astype(nll.dtype)
        hits = (logits.argmax(-1) == classes) & (classes < self.num_classes)
        accuracy = hits.sum().astype(nll.dtype) / jnp.maximum(targets["valid"].sum(), 1)
        return {"loss_ce": (weight * nll).sum() / weight.sum(), "class_error": 100 - 100 * accuracy}

    def loss_cardinality(self, outputs: Outputs, targets: Targets, matches: Matches, num_boxes: Array) -> Losses:
        """How many more or fewer objects are found than there are."""
        logits = wide(outputs["pred_logits"])
        found = (logits.argmax(-1) != logits.shape[2] - 1).sum(1)
        error = jnp.abs(found - targets["valid"].sum(1))
        return {"cardinality_error": error.astype(logits.dtype).mean()}

    def loss_boxes(self, outputs: Outputs, targets: Targets, matches: Matches, num_boxes: Array) -> Losses:
        boxes, valid = wide(outputs["pred_boxes"]), targets["valid"][..., None]
        target_boxes = jnp.where(valid, jnp.asarray(targets["boxes"], boxes.dtype), 0.5)
        matched = jnp.where(valid, take(boxes, matches), target_boxes)
        loss_bbox = l1(matched - target_boxes).sum()
        ours, theirs = (box_cxcywh_to_xyxy(b)[..., None, :] for b in (matched, target_boxes))
        loss_giou = (1 - generalized_box_iou(ours, theirs)[..., 0, 0]).sum(where=targets["valid"])
        return {"loss_bbox": loss_bbox / num_boxes, "loss_giou": loss_giou / num_boxes}

    def loss_masks(self, outputs: Outputs, targets: Targets, matches: Matches, num_boxes: Array) -> Losses:
        logits, masks = wide(outputs["pred_masks"]), jnp.asarray(targets["masks"])
        small = jnp.moveaxis(take(logits, matches), 1, -1)
        matched = jnp.moveaxis(interpolate(small, masks.shape[2:], mode="bilinear", align_corners=False), -1, 1)
        masks = masks.astype(matched.dtype)
        loss_mask = sigmoid_focal_loss(matched, masks).sum(where=targets["valid"])
        loss_dice = dice_loss(matched, masks).sum(where=targets["valid"])
        return {"loss_mask": loss_mask / num_boxes, "loss_dice": loss_dice / num_boxes}

    def __call__(self, outputs: Outputs, targets: Targets, num_boxes: Array | float | None = None) -> Losses:
        layers = [outputs, *outputs.get("aux_outputs", ())]
        stacked = {key: jnp.stack([layer[key] for layer in layers]) for key in ("pred_logits", "pred_boxes")}
        matches = jax.vmap(self.matcher, (0, None))(stacked, targets)
        count = jnp.maximum(targets["valid"].sum() if num_boxes is None else num_boxes, 1)
        result: Losses = {}
        for i, layer in enumerate(layers):
            for name in self.losses:
                if i == 0 or name != "masks":
                    losses = getattr(self, f"loss_{name}")(layer, targets, matches[i], count)
                    result |= {f"{key}_{i - 1}" if i else key: value for key, value in losses.items()}
        return {key: value for key, value in result.items() if not key.startswith("class_error_")}


def take(x: Float[Array, "n q *s"], matches: Matches) -> Float[Array, "n t *s"]:
    """The rows of x that are matched; the last one for padding."""
    index = jnp.minimum(matches, x.shape[1] - 1)
    return jnp.take_along_axis(x, index.reshape(*index.shape, *[1] * (x.ndim - 2)), 1)
