"""End-to-End Object Detection with Transformers - Carion et al. 2020, https://arxiv.org/abs/2005.12872

Follows: facebookresearch/detr, ``models/matcher.py``, ``models/detr.py`` and ``models/segmentation.py``. The defaults
are those of its training script.

Differs: matching and losses run under jit. optax solves the assignment on the device; upstream solves it with scipy on
the host. All images have the same number of targets, some of them padding (see ``pad_targets``). Padding changes no
number. Costs and losses are float32 at least. scipy raises at a cost that is NaN; here that cost is 0, so that the loss
of a diverged network is NaN. With ``eos_coef=0``, loss_ce of a batch without objects is 0; upstream's is NaN.

In distributed training, upstream computes a loss in each process, and divides it by the mean number of boxes of the
processes. One jit over a sharded batch divides by the number of boxes of the whole batch. The gradients are the same
with two exceptions. Upstream takes the mean of the classification losses of its processes, each of which is
divided by its own sum of class weights. Upstream clamps the mean number of boxes at 1, not the total. Under shard_map
give ``num_boxes``: the mean number of boxes of the shards.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from flax_attn.layers import accumulator, interpolate, log_softmax, require, sigmoid, softmax
from flax_attn.models.detr.boxes import box_cxcywh_to_xyxy, generalized_box_iou
from flax_attn.models.detr.targets import check_labels
from flax_attn.models.detr.targets import pad_targets as pad_targets

Outputs = Mapping[str, Any]
"""The outputs of the last layer: pred_logits (n, q, c+1), whose last class is "no object", and pred_boxes (n, q, 4),
cxcywh in [0, 1].

For panoptic segmentation also pred_masks (n, q, h, w), which are logits. aux_outputs is a list with the outputs of the
earlier layers, without masks.
"""

Targets = Mapping[str, Any]
"""The ground truth: labels (n, t), integers below c; boxes (n, t, 4), cxcywh in [0, 1]; valid (n, t), which is False
for padding.

For panoptic segmentation also masks (n, t, h, w), 0 or 1.
"""

Matches = Int[Array, "n t"]
Losses = dict[str, Array]
Masks = Float[Array, "*n h w"]

LOSSES = ("labels", "boxes", "cardinality", "masks")


@dataclasses.dataclass(frozen=True)
class HungarianMatcher:
    """The query (n, t) of every target, in the matching of the least total cost; q, which is no query, for padding.

    Args:
        cost_class, cost_bbox, cost_giou: the weights of the class probability, of the L1 distance of the boxes and of
            their generalized IoU.

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
        """The cost of every pair of a query and a target; meaningless for padding."""
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
    """The row of every valid column in the assignment of the least total cost; q for the other columns.

    Every column that is not valid gets an extra row that no other column can take. So the valid columns have exactly
    the assignment that they have alone.
    """
    q, t = cost.shape
    finite = jnp.clip(jnp.nan_to_num(cost), -1e9, 1e9)
    own = jnp.where(jnp.eye(t, dtype=bool), 0.0, jnp.inf).astype(cost.dtype)
    costs = jnp.concatenate([jnp.where(valid, finite, jnp.inf), jnp.where(valid, jnp.inf, own)])
    rows, columns = import_module("optax.assignment").hungarian_algorithm(costs)
    return jnp.minimum(jnp.zeros(t, rows.dtype).at[columns].set(rows), q)


def wide(x: Any) -> Array:
    """x in float32 at least."""
    return jnp.asarray(x, accumulator(x.dtype))


def l1(x: Array) -> Array:
    """abs(x) with the gradient of torch, which is 0 at 0."""
    return jnp.where(x == 0, 0, jnp.abs(x))


def sigmoid_focal_loss(inputs: Masks, targets: Masks, alpha: float = 0.25, gamma: float = 2.0) -> Float[Array, "*n"]:
    """The focal loss of https://arxiv.org/abs/1708.02002: the mean over the pixels of each map of logits.

    ``alpha`` is the weight of pixels whose target is 1.
    """
    inputs = wide(inputs)
    prob = sigmoid(inputs)
    ce = jnp.logaddexp(inputs, 0) - inputs * targets
    p_t = prob * targets + (1 - prob) * (1 - targets)
    weight = alpha * targets + (1 - alpha) * (1 - targets)
    return (weight * ce * (1 - p_t) ** gamma).mean((-2, -1))


def dice_loss(inputs: Masks, targets: Masks) -> Float[Array, "*n"]:
    """1 minus the Dice coefficient of each map of logits and its target, with 1 added to both counts."""
    prob = sigmoid(wide(inputs))
    numerator = 2 * (prob * targets).sum((-2, -1))
    denominator = prob.sum((-2, -1)) + targets.sum((-2, -1))
    return 1 - (numerator + 1) / (denominator + 1)


def loss_weights(aux_layers: int = 5, masks: bool = False) -> dict[str, float]:
    """The published weight of every loss, for the last layer and for the ``aux_layers`` layers before it."""
    weights = {"loss_ce": 1.0, "loss_bbox": 5.0, "loss_giou": 2.0}
    last = {**weights, "loss_mask": 1.0, "loss_dice": 1.0} if masks else weights
    return last | {f"{key}_{i}": weight for i in range(aux_layers) for key, weight in weights.items()}


def weighted_loss(losses: Losses, weight_dict: Mapping[str, float]) -> Float[Array, ""]:
    """The weighted sum of the losses that have a weight. The other losses are for the log only."""
    return jnp.sum(jnp.stack([value * weight_dict[key] for key, value in losses.items() if key in weight_dict]))


@dataclasses.dataclass(frozen=True, eq=False)
class SetCriterion:
    """The losses of a batch, by name. They compare each query with the target that it is matched with.

    The names are loss_ce, class_error (of the matched queries, in percent), cardinality_error, loss_bbox, loss_giou,
    loss_mask and loss_dice. Each layer of ``aux_outputs`` has a matching of its own. The names of its losses end in _0,
    _1, ...; it has no losses of masks and no class_error.

    Args:
        num_classes: the number of classes without "no object".
        weight_dict: the weights for ``weighted_loss``; the training loop reads them. ``loss_weights()`` when None.
        eos_coef: the weight of "no object" in loss_ce.
        losses: some of "labels", "boxes", "cardinality" and "masks".

    The call takes outputs, targets and ``num_boxes``. The box and mask losses are divided by ``num_boxes``; by the
    number of valid targets when None. Targets that are numpy arrays are refused if a label is not in
    [0, num_classes). Under jit the labels are not known: give ``num_classes`` to ``pad_targets``.
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

    def loss(self, name: str, outputs: Outputs, targets: Targets, matches: Matches, num_boxes: Array) -> Losses:
        """The losses of one kind, of one layer."""
        functions = {
            "labels": self.loss_labels,
            "boxes": self.loss_boxes,
            "cardinality": self.loss_cardinality,
            "masks": self.loss_masks,
        }
        return functions[name](outputs, targets, matches, num_boxes)

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
        total = jnp.where(weight.sum() == 0, 1, weight.sum())
        return {"loss_ce": (weight * nll).sum() / total, "class_error": 100 - 100 * accuracy}

    def loss_cardinality(self, outputs: Outputs, targets: Targets, matches: Matches, num_boxes: Array) -> Losses:
        """The mean difference of the number of objects found and the number of targets, without sign."""
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
        missing = [key for key in ("labels", "boxes", "valid") if key not in targets]
        missing += ["masks"] if "masks" in self.losses and "masks" not in targets else []
        require(not missing, f"SetCriterion: expected targets with {', '.join(missing)}, got {', '.join(targets)}")
        if all(isinstance(targets[key], np.ndarray) for key in ("labels", "valid")):
            check_labels("SetCriterion", targets["labels"][targets["valid"].astype(bool)], self.num_classes)
        layers = [outputs, *outputs.get("aux_outputs", ())]
        stacked = {key: jnp.stack([layer[key] for layer in layers]) for key in ("pred_logits", "pred_boxes")}
        matches = jax.vmap(self.matcher, (0, None))(stacked, targets)
        count = jnp.maximum(targets["valid"].sum() if num_boxes is None else num_boxes, 1)
        result: Losses = {}
        for i, layer in enumerate(layers):
            for name in self.losses:
                if i == 0 or name != "masks":
                    losses = self.loss(name, layer, targets, matches[i], count)
                    result |= {f"{key}_{i - 1}" if i else key: value for key, value in losses.items()}
        return {key: value for key, value in result.items() if not key.startswith("class_error_")}


def take(x: Float[Array, "n q *s"], matches: Matches) -> Float[Array, "n t *s"]:
    """The row of x that is matched with each target; the last row for padding."""
    index = jnp.minimum(matches, x.shape[1] - 1)
    return jnp.take_along_axis(x, index.reshape(*index.shape, *[1] * (x.ndim - 2)), 1)
