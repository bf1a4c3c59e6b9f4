"""The recipes of the networks that segment images."""

from collections.abc import Mapping

from flax_attn.recipes.recipe import Group, Recipe, Schedule

CCNET = Recipe(
    "speedinghzl/CCNet@00af149, run_local.sh, train.py and utils/criterion.py",
    "sgd",
    dict(lr=1e-2, momentum=0.9, weight_decay=5e-4),
    loss="dsn_loss",
    loss_arguments=dict(ignore_index=255, aux_weight=0.4),
    iterations=60000,
    batch_size=4,
    schedule=Schedule("polynomial_lr", dict(total_iters=60000, power=0.9), unit="iteration", every="iteration"),
    augmentation=("scale by a random factor", "crop to 769x769", "mirror at random"),
    start="the backbone is MIT's ResNet-101, pretrained on ImageNet",
    precision="float32",
    notes="With --ohem the loss is ohem_dsn_loss; the script's defaults are then thresh=0.6 and min_kept=200000, those "
    "of the loss 0.7 and 100000. Later commits have a batch size of 8.",
)

DANET = Recipe(
    "junfu1115/DANet@2a04c23, danet/train.py and danet/option.py; the numbers are those of the command for Cityscapes "
    "in yougoforward/hlzhu_DANet_git, danet/mvtrain50.sh, a fork",
    "sgd",
    dict(lr=0.003, momentum=0.9, weight_decay=1e-4),
    loss="segmentation_multi_losses",
    loss_arguments=dict(ignore_index=-1),
    epochs=240,
    batch_size=8,
    schedule=Schedule("polynomial_lr", dict(total_iters=240, power=0.9), every="iteration"),
    groups=(Group("pretrained", r"^pretrained\."), Group("head", r"^head\.", dict(lr=0.03))),
    augmentation=("scale by a random factor, from a base size of 1024", "crop to 768x768", "mirror at random"),
    start="the backbone is pretrained on ImageNet",
    precision="float32",
    notes="The rate of the head is ten times the other rate, at each step. Without --lr and --epochs the script takes "
    "a rate of 0.01 / 8 * batch size and 180 epochs.",
)

LDNET = Recipe(
    "ReaFly/LDNet@dce7a04, train.py, opt.py, utils/loss.py, datasets/Polyp.py and models/LDNet.py",
    "sgd",
    dict(lr=1e-3, momentum=0.9, weight_decay=1e-5),
    loss="deep_supervision_loss",
    epochs=80,
    batch_size=16,
    schedule=Schedule("polynomial_lr", dict(total_iters=80, power=0.9)),
    augmentation=(
        "resize to 256x256",
        "flip horizontally at random",
        "flip vertically at random",
        "rotate by at most 90 degrees",
        "zoom by 0.9 to 1.1",
        "crop to 224x224",
    ),
    start="the encoder is pretrained on ImageNet",
    precision="float32",
    notes="Upstream's schedule is a LambdaLR of the same numbers.",
)

SEGMENTATION: Mapping[str, Recipe] = {
    "ccnet_resnet101": CCNET,
    "danet_resnet50": DANET,
    "danet_resnet101": DANET,
    "ldnet": LDNET,
    "ldnet_resnet34": LDNET,
}
