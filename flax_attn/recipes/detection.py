"""The recipes of DETR."""

import dataclasses
from collections.abc import Mapping

from flax_attn.recipes.recipe import Group, Recipe, Schedule

FIXED = r"backbone\.0\.body\.((?!layer[234]\.)|.*(bn\d|downsample\.1)\.)"
"""The stem and the first stage of the backbone, and all its normalisations, which hold no parameters in PyTorch."""

DETR = Recipe(
    "facebookresearch/detr@29901c5, main.py, models/backbone.py, datasets/coco.py and README.md",
    "adamw",
    dict(lr=1e-4, weight_decay=1e-4),
    loss="SetCriterion",
    loss_arguments=dict(eos_coef=0.1),
    epochs=300,
    batch_size=16,
    schedule=Schedule("step_lr", dict(step_size=200, gamma=0.1)),
    groups=(Group("transformer", r"^(?!.*backbone)"), Group("backbone", "backbone", dict(lr=1e-5))),
    frozen=FIXED,
    augmentation=(
        "flip horizontally at random",
        "one time in two, resize the short side to 400, 500 or 600 pixels and crop to 384 to 600",
        "resize the short side to one of 480, 512, ..., 800 pixels, the long side to at most 1333",
    ),
    start="the backbone is torchvision's ResNet, pretrained on ImageNet; the transformer is Xavier uniform",
    clip_norm=0.1,
    precision="float32",
    notes="The batch is 2 images on each of 8 devices. The published checkpoints were trained for 500 epochs, with the "
    "drop of the rate after 400 (section 4 of the paper).",
)

DC5 = dataclasses.replace(DETR, batch_size=8, notes=DETR.notes.replace("2 images", "1 image"))

PANOPTIC = dataclasses.replace(
    DETR,
    loss_arguments=dict(eos_coef=0.1, losses=("labels", "boxes", "cardinality", "masks")),
    epochs=25,
    batch_size=None,
    schedule=Schedule("step_lr", dict(step_size=15, gamma=0.1)),
    frozen=r"^detr\.",
    start="all of DETR is a trained DETR, which stays as it is; the mask head is Kaiming uniform",
    notes="The command has --masks --epochs 25 --lr_drop 15 --frozen_weights. The second group is empty.",
)

DETECTION: Mapping[str, Recipe] = {
    "detr_resnet50": DETR,
    "detr_resnet101": DETR,
    "detr_resnet50_dc5": DC5,
    "detr_resnet101_dc5": DC5,
    "detr_resnet50_panoptic": PANOPTIC,
    "detr_resnet50_dc5_panoptic": PANOPTIC,
    "detr_resnet101_panoptic": PANOPTIC,
}
