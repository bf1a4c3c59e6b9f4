"""End-to-End Object Detection with Transformers - Carion et al. 2020, https://arxiv.org/abs/2005.12872"""

import torch
from torch import Tensor
from torch.nn import Module, functional

from torch_ref.models.detr.boxes import box_cxcywh_to_xyxy, generalized_box_iou

LOSSES = ("labels", "boxes", "cardinality", "masks")


def pad_masks(targets: list[dict]) -> list[dict]:
    """The targets with all masks padded at the bottom and at the right to the size of the largest."""
    h, w = (max(target["masks"].shape[axis] for target in targets) for axis in (1, 2))
    pads = [(0, w - target["masks"].shape[2], 0, h - target["masks"].shape[1]) for target in targets]
    return [{**t, "masks": functional.pad(t["masks"], pad)} for t, pad in zip(targets, pads, strict=True)]


class HungarianMatcher(Module):
    def __init__(self, cost_class=1.0, cost_bbox=5.0, cost_giou=2.0):
        super().__init__()
        self.cost_class = cost_class
        self.cost_bbox = cost_bbox
        self.cost_giou = cost_giou
        if not any((cost_class, cost_bbox, cost_giou)):
            raise ValueError("HungarianMatcher: expected a cost that is not 0")

    def costs(self, outputs: dict, targets: list[dict]) -> list[Tensor]:
        """The cost (queries, targets) of every image."""
        costs = []
        for logits, boxes, target in zip(outputs["pred_logits"], outputs["pred_boxes"], targets, strict=True):
            labels, target_boxes = target["labels"], target["boxes"]
            cost_class = -logits.softmax(-1)[:, labels]
            cost_bbox = torch.cdist(boxes, target_boxes, p=1)
            cost_giou = -generalized_box_iou(box_cxcywh_to_xyxy(boxes), box_cxcywh_to_xyxy(target_boxes))
            costs.append(self.cost_bbox * cost_bbox + self.cost_class * cost_class + self.cost_giou * cost_giou)
        return costs

    @torch.no_grad()
    def forward(self, outputs: dict, targets: list[dict]) -> list[tuple[Tensor, Tensor]]:
        """The queries and the targets of every image that belong together."""
        q, t = outputs["pred_logits"].shape[1], max((len(target["labels"]) for target in targets), default=0)
        if t > q:
            raise ValueError(f"HungarianMatcher: expected at most as many targets as the {q} queries, got {t}")
        return [assign(cost) for cost in self.costs(outputs, targets)]


def assign(cost: Tensor) -> tuple[Tensor, Tensor]:
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(cost)
    return torch.as_tensor(rows, dtype=torch.int64), torch.as_tensor(columns, dtype=torch.int64)


def sigmoid_focal_loss(inputs: Tensor, targets: Tensor, alpha=0.25, gamma=2.0) -> Tensor:
    prob = inputs.sigmoid()
    ce = functional.binary_cross_entropy_with_logits(inputs, targets, reduction="none")
    p_t = prob * targets + (1 - prob) * (1 - targets)
    weight = alpha * targets + (1 - alpha) * (1 - targets)
    return (weight * ce * (1 - p_t) ** gamma).mean((-2, -1))


def dice_loss(inputs: Tensor, targets: Tensor) -> Tensor:
    prob = inputs.sigmoid()
    numerator = 2 * (prob * targets).sum((-2, -1))
    denominator = prob.sum((-2, -1)) + targets.sum((-2, -1))
    return 1 - (numerator + 1) / (denominator + 1)


def loss_weights(aux_layers=5, masks=False) -> dict[str, float]:
    weights = {"loss_ce": 1.0, "loss_bbox": 5.0, "loss_giou": 2.0}
    last = {**weights, "loss_mask": 1.0, "loss_dice": 1.0} if masks else weights
    return last | {f"{key}_{i}": weight for i in range(aux_layers) for key, weight in weights.items()}


def weighted_loss(losses: dict[str, Tensor], weight_dict: dict[str, float]) -> Tensor:
    return torch.stack([value * weight_dict[key] for key, value in losses.items() if key in weight_dict]).sum()


class SetCriterion(Module):
    def __init__(
        self,
        num_classes,
        matcher=None,
        weight_dict=None,
        eos_coef=0.1,
        losses=("labels", "boxes", "cardinality"),
    ):
        super().__init__()
        if not set(losses) <= set(LOSSES):
            raise ValueError(f"SetCriterion: expected losses among {', '.join(LOSSES)}, got {losses}")
        self.num_classes = num_classes
        self.matcher = matcher or HungarianMatcher()
        self.weight_dict = loss_weights(masks="masks" in losses) if weight_dict is None else weight_dict
        self.eos_coef = eos_coef
        self.losses = losses

    def loss(self, name, outputs: dict, targets: list[dict], matches: list, num_boxes) -> dict[str, Tensor]:
        functions = {
            "labels": self.loss_labels,
            "boxes": self.loss_boxes,
            "cardinality": self.loss_cardinality,
            "masks": self.loss_masks,
        }
        return functions[name](outputs, targets, matches, num_boxes)

    def loss_labels(self, outputs: dict, targets: list[dict], matches: list, num_boxes) -> dict[str, Tensor]:
        logits = outputs["pred_logits"]
        n, q, _ = logits.shape
        image, query = places(matches)
        labels = of_targets(targets, matches, "labels")
        classes = torch.full((n, q), self.num_classes)
        classes[image, query] = labels
        weight = torch.tensor([1.0] * self.num_classes + [self.eos_coef], dtype=logits.dtype)
        loss_ce = functional.cross_entropy(logits.transpose(1, 2), classes, weight)
        hits = logits[image, query].argmax(-1) == labels
        accuracy = hits.sum().to(logits.dtype) / max(len(labels), 1)
        return {"loss_ce": loss_ce, "class_error": 100 - 100 * accuracy}

    def loss_cardinality(self, outputs: dict, targets: list[dict], matches: list, num_boxes) -> dict[str, Tensor]:
        logits = outputs["pred_logits"]
        found = (logits.argmax(-1) != logits.shape[2] - 1).sum(1)
        error = (found - torch.tensor([len(target["labels"]) for target in targets])).abs()
        return {"cardinality_error": error.to(logits.dtype).mean()}

    def loss_boxes(self, outputs: dict, targets: list[dict], matches: list, num_boxes) -> dict[str, Tensor]:
        matched = outputs["pred_boxes"][places(matches)]
        target_boxes = of_targets(targets, matches, "boxes")
        loss_bbox = functional.l1_loss(matched, target_boxes, reduction="none").sum()
        ours, theirs = (box_cxcywh_to_xyxy(b)[:, None] for b in (matched, target_boxes))
        loss_giou = (1 - generalized_box_iou(ours, theirs)).sum()
        return {"loss_bbox": loss_bbox / num_boxes, "loss_giou": loss_giou / num_boxes}

    def loss_masks(self, outputs: dict, targets: list[dict], matches: list, num_boxes) -> dict[str, Tensor]:
        logits = outputs["pred_masks"][places(matches)]
        masks = of_targets(pad_masks(targets), matches, "masks").to(logits.dtype)
        matched = functional.interpolate(logits[:, None], masks.shape[1:], mode="bilinear", align_corners=False)[:, 0]
        loss_mask = sigmoid_focal_loss(matched, masks).sum()
        loss_dice = dice_loss(matched, masks).sum()
        return {"loss_mask": loss_mask / num_boxes, "loss_dice": loss_dice / num_boxes}

    def forward(self, outputs: dict, targets: list[dict], num_boxes=None) -> dict[str, Tensor]:
        layers = [outputs, *outputs.get("aux_outputs", ())]
        count = max(sum(len(target["labels"]) for target in targets) if num_boxes is None else num_boxes, 1)
        result = {}
        for i, layer in enumerate(layers):
            matches = self.matcher(layer, targets)
            for name in self.losses:
                if i == 0 or name != "masks":
                    losses = self.loss(name, layer, targets, matches, count)
                    result |= {f"{key}_{i - 1}" if i else key: value for key, value in losses.items()}
        return {key: value for key, value in result.items() if not key.startswith("class_error_")}


def places(matches: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """The image and the query of every match."""
    image = torch.cat([torch.full_like(query, i) for i, (query, _) in enumerate(matches)])
    return image, torch.cat([query for query, _ in matches])


def of_targets(targets: list[dict], matches: list[tuple[Tensor, Tensor]], key: str) -> Tensor:
    """The row of ``key`` of the target of every match."""
    return torch.cat([one[key][target] for one, (_, target) in zip(targets, matches, strict=True)])
