"""The recipes of the networks that classify images."""

import dataclasses
from collections.abc import Mapping

from flax_attn.recipes.recipe import Group, Recipe, Schedule

CROPS = ("crop a random part and resize it to 224x224", "flip horizontally at random")
CIFAR = ("pad by 4 pixels and crop to 32x32", "flip horizontally at random")
SGD = dict(lr=0.1, momentum=0.9, weight_decay=1e-4)

TORCHVISION = Recipe(
    "pytorch/vision, references/classification/train.py and README.md",
    "sgd",
    SGD,
    loss="cross_entropy",
    epochs=90,
    batch_size=256,
    schedule=Schedule("step_lr", dict(step_size=30, gamma=0.1)),
    augmentation=CROPS,
    start="Kaiming normal",
    precision="float32",
    notes="The batch is 32 images on each of 8 devices.",
)

INSIGHT = dataclasses.replace(
    TORCHVISION,
    source="implus/PytorchInsight@201fcc5, classification/imagenet.py; the numbers are those of README.md@0be3db2",
    epochs=100,
)

RES2NET = dataclasses.replace(
    TORCHVISION,
    source="section 4.1 of the paper, https://arxiv.org/abs/1904.01169",
    epochs=100,
    augmentation=None,
    start=None,
    precision=None,
    notes="The paper has no v1b. Assumed: it was trained like the networks of the paper.",
)

SENET = dataclasses.replace(
    RES2NET,
    source="Squeeze-and-Excitation Networks, https://arxiv.org/abs/1709.01507, on the training on ImageNet",
    arguments=dict(lr=0.6, momentum=0.9),
    batch_size=1024,
    augmentation=CROPS,
    start="Kaiming normal",
    notes="The weights are those of Caffe. The paper does not tell the weight decay.",
)

SE_RESNET = dataclasses.replace(
    TORCHVISION,
    source="moskomule/senet.pytorch@19fccc5, imagenet.py and utils.py",
    arguments=dict(lr=0.6, momentum=0.9, weight_decay=1e-4),
    epochs=100,
    batch_size=64,
    start=None,
    notes="The script trains se_resnet50. Assumed: the others of its file are trained like it.",
)

CIFAR_RESNET = Recipe(
    "moskomule/senet.pytorch@4851b6c, cifar.py",
    "sgd",
    SGD,
    loss="cross_entropy",
    epochs=200,
    batch_size=64,
    schedule=Schedule("step_lr", dict(step_size=80, gamma=0.1)),
    precision="float32",
    notes="The script trains resnet20 and se_resnet20. Assumed: the others are trained like them. The augmentation is "
    "that of the package homura, of which the script names no version.",
)

OPTION_A = Recipe(
    "akamaster/pytorch_resnet_cifar10@159915c, trainer.py",
    "sgd",
    SGD,
    loss="cross_entropy",
    epochs=200,
    batch_size=128,
    schedule=Schedule("multi_step_lr", dict(milestones=[100, 150], gamma=0.1)),
    augmentation=CIFAR[::-1],
    start="Kaiming normal",
    precision="float32",
)

OPTION_A_110 = dataclasses.replace(
    OPTION_A,
    notes="The script sets the rate to 0.01 before the first epoch, and means to train only that epoch with it. With "
    "the schedulers of PyTorch since 1.4 it stays a tenth of the others' to the end.",
)

RESIDUAL_ATTENTION = Recipe(
    "tengshaofeng/ResidualAttentionNetwork-pytorch@82bdfd9, Residual-Attention-Network/train.py",
    "sgd",
    dict(lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4),
    loss="cross_entropy",
    epochs=300,
    batch_size=64,
    schedule=Schedule("multi_step_lr", dict(milestones=[90, 180, 270], gamma=0.1)),
    augmentation=CIFAR[::-1],
    start="PyTorch's initialization of each layer",
    precision="float32",
)

RESIDUAL_ATTENTION_224 = Recipe(
    "tengshaofeng/ResidualAttentionNetwork-pytorch@59d6ac1, Residual-Attention-Network/train.py, and README.md@037f9c5",
    "adam",
    dict(lr=1e-3),
    loss="cross_entropy",
    epochs=100,
    batch_size=35,
    schedule=Schedule("step_lr", dict(step_size=20, gamma=1 / 3)),
    augmentation=("resize images of CIFAR-10 to 224x224",),
    start="PyTorch's initialization of each layer",
    precision="float32",
    notes="Every 20 epochs the script makes a new optimizer, whose state is empty.",
)

SMT = Recipe(
    "AFeng-x/SMT@4975f19, config.py, main.py, optimizer.py and lr_scheduler.py; the command of README.md@00bbe22",
    "adamw",
    dict(lr=2e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05),
    loss="soft_target_cross_entropy",
    epochs=300,
    batch_size=1024,
    schedule=Schedule(
        "cosine_annealing_lr",
        dict(T_max=295, eta_min=2e-6),
        every="iteration",
        warmup=dict(length=5, lr=2e-7),
    ),
    groups=(
        Group("decay"),
        Group(
            "no decay",
            r"\.bias$|(^|\.)(norm\d?|bn)\.weight$|^patch_embed1\.conv\.1\.weight$|\.gamma_[12]$",
            dict(weight_decay=0.0),
        ),
    ),
    augmentation=(
        *CROPS,
        "RandAugment rand-m9-mstd0.5-inc1 of timm",
        "erase a random part with probability 0.25",
        "mixup with alpha 0.2 or cutmix with alpha 1.0, one as often as the other, for the whole batch",
        "labels are smoothed by 0.1",
    ),
    start="Linear: truncated normal 0.02; convolutions: normal, sqrt(2 / (k * k * out / groups))",
    clip_norm=5.0,
    precision="mixed",
    notes="Parameters of one axis and biases have no weight decay. The rates are those of config.py times batch size / "
    "512. The schedule steps after the optimizer: the second step is the first with the rate of its step 0.",
)

SMT_LARGE = dataclasses.replace(
    SMT,
    source=f"{SMT.source}; configs/smt/smt_large_224_22k.yaml",
    arguments={**SMT.arguments, "lr": 1e-3},
    epochs=90,
    batch_size=4096,
    schedule=Schedule(
        "cosine_annealing_lr",
        dict(T_max=85, eta_min=1e-5),
        every="iteration",
        warmup=dict(length=5, lr=1e-6),
    ),
    notes=f"{SMT.notes} This is the training on ImageNet-22K, of 4 accumulated steps of 1024 images. The fine-tuning "
    "on ImageNet-1K is smt_large_224_22kto1k_finetune.yaml: 30 epochs, and rates of 1e-5, 1e-8 and 1e-7 times batch "
    "size / 512.",
)

NON_LOCAL = Recipe(
    "AlexHex7/Non-local_pytorch@0276c7b, demo_MNIST_train.py",
    "adam",
    dict(lr=1e-3),
    loss="cross_entropy",
    epochs=10,
    batch_size=128,
    augmentation=(),
    start="PyTorch's initialization of each layer; the last normalisation of each block is 0",
    precision="float32",
)

SPATIAL_TRANSFORMER = Recipe(
    "pytorch/tutorials@0023ff0, intermediate_source/spatial_transformer_tutorial.py",
    "sgd",
    dict(lr=0.01),
    loss="nll_loss",
    epochs=20,
    batch_size=64,
    augmentation=(),
    start="PyTorch's initialization of each layer; the affine matrix is the identity",
    precision="float32",
)

RAM = Recipe(
    "kevinzakka/recurrent-visual-attention@098880b, trainer.py, config.py and data_loader.py",
    "adam",
    dict(lr=3e-4),
    loss="ram_loss",
    epochs=200,
    batch_size=128,
    schedule=Schedule("reduce_lr_on_plateau", dict(mode="min", patience=20)),
    augmentation=(),
    start="PyTorch's initialization of each layer",
    precision="float32",
    notes="The plateau is one of the accuracy, with the opposite sign. The training stops after 50 epochs without a "
    "better accuracy. The places of the first glimpses are uniform in [-1, 1].",
)

CLASSIFICATION: Mapping[str, Recipe] = {
    **dict.fromkeys(("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"), TORCHVISION),
    **{f"sge_resnet{n}": INSIGHT for n in (18, 50, 101)},
    **{f"insight_se_resnet{n}": INSIGHT for n in (18, 50, 101)},
    **{f"sk_resnet{n}": INSIGHT for n in (50, 101)},
    **{f"{name}_resnet{n}": INSIGHT for name in ("cbam", "bam") for n in (18, 50, 101)},
    "res2net50_v1b_26w_4s": RES2NET,
    **{f"legacy_seresnet{n}": SENET for n in (50, 101, 152)},
    **{f"legacy_seresnext{n}_32x4d": SENET for n in (50, 101)},
    **{f"se_resnet{n}": SE_RESNET for n in (18, 34, 50, 101, 152)},
    **{f"cifar_resnet{n}": CIFAR_RESNET for n in (20, 32, 44, 56, 110)},
    **{f"cifar_preact_resnet{n}": CIFAR_RESNET for n in (20, 110)},
    **{f"cifar_se_{name}{n}": CIFAR_RESNET for name in ("resnet", "preactresnet") for n in (20, 32, 56)},
    **{f"cifar_resnet{n}_option_a": OPTION_A for n in (20, 32, 44, 56)},
    "cifar_resnet110_option_a": OPTION_A_110,
    "residual_attention_92_32input_update": RESIDUAL_ATTENTION,
    **{f"residual_attention_{name}": RESIDUAL_ATTENTION_224 for name in ("56", "92", "448input")},
    **{f"smt_{size}": SMT for size in ("tiny", "small", "base")},
    "smt_large": SMT_LARGE,
    "non_local_net": NON_LOCAL,
    "spatial_transformer_net": SPATIAL_TRANSFORMER,
    "ram": RAM,
    "ram_6_8x8_2": RAM,
}
