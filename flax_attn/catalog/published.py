"""The published networks: constructors, example inputs, pinned keys, and the files that they accept."""

from flax_attn.catalog.entry import PLAIN, Published, image
from flax_attn.models import detr, detr_demo, resnet

CLASSES = {"num_classes": ("fc.weight", 0)}
"""Where most classifiers' state dicts tell how many classes there are."""

PUBLISHED = [
    # detr
    *[
        Published(
            make,
            (image(3, 65, 97, n=1),),
            outputs=(PLAIN,) * 2,
            keys=keys,
            files=(file,),
            lengths={"num_classes": ("class_embed.weight", 1), "num_queries": ("query_embed.weight", 0)},
        )
        for make, keys, file in (
            (detr.detr_resnet50, "detr_r50", "detr-r50-e632da11.pth"),
            (detr.detr_resnet50_dc5, "detr_r50_dc5", "detr-r50-dc5-f0fb7ef5.pth"),
            (detr.detr_resnet101, "", "detr-r101-2c7b67e5.pth"),
            (detr.detr_resnet101_dc5, "", "detr-r101-dc5-a2e86def.pth"),
        )
    ],
    *[
        Published(
            make,
            (image(3, 65, 97, n=1),),
            outputs=(PLAIN,) * 3,
            keys=keys,
            files=(file,),
            lengths={"num_classes": ("detr.class_embed.weight", 1), "num_queries": ("detr.query_embed.weight", 0)},
        )
        for make, keys, file in (
            (detr.detr_resnet50_panoptic, "detr_r50_panoptic", "detr-r50-panoptic-00ce5173.pth"),
            (detr.detr_resnet50_dc5_panoptic, "", "detr-r50-dc5-panoptic-da08f1b1.pth"),
            (detr.detr_resnet101_panoptic, "", "detr-r101-panoptic-40021d53.pth"),
        )
    ],
    # detr_demo
    Published(
        detr_demo.detr_demo,
        (image(3, 65, 97, n=1),),
        outputs=(PLAIN,) * 2,
        files=("detr_demo-da2a99e9.pth",),
        lengths={"num_classes": ("linear_class.weight", 1), "num_queries": ("query_pos", 0)},
    ),
    # resnet
    *[
        Published(make, (image(3, 65, 97, n=1),), kwargs, outputs=(PLAIN,), keys=keys, files=files, lengths=CLASSES)
        for make, kwargs, keys, files in (
            (resnet.resnet18, dict(num_classes=10), "timm_resnet18", ("torchvision resnet18", "timm resnet18")),
            (resnet.resnet34, {}, "", ("torchvision resnet34", "timm resnet34")),
            (resnet.resnet50, {}, "insight_old_resnet50", ("torchvision resnet50", "timm resnet50")),
            (resnet.resnet101, {}, "", ("torchvision resnet101", "timm resnet101")),
            (resnet.resnet152, {}, "", ("torchvision resnet152", "timm resnet152")),
        )
    ],
    *[
        Published(make, (image(3, 32, 32, n=1),), outputs=(PLAIN,), keys=keys, lengths=CLASSES)
        for make, keys in (
            (resnet.cifar_resnet20, "cifar_resnet20"),
            (resnet.cifar_resnet32, "cifar_resnet32"),
            (resnet.cifar_resnet44, ""),
            (resnet.cifar_resnet56, "cifar_resnet56"),
            (resnet.cifar_resnet110, "cifar_resnet110"),
            (resnet.cifar_preact_resnet20, "cifar_preact_resnet20"),
            (resnet.cifar_preact_resnet110, ""),
            (resnet.cifar_resnet20_option_a, ""),
            (resnet.cifar_resnet32_option_a, ""),
            (resnet.cifar_resnet44_option_a, ""),
            (resnet.cifar_resnet56_option_a, ""),
            (resnet.cifar_resnet110_option_a, ""),
        )
    ],
]
