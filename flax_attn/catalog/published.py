"""The published networks: constructors, example inputs, pinned keys, and the files that they accept."""

from flax_attn.catalog.entry import IMAGE, PLAIN, Published, image
from flax_attn.models import ldnet, res2net, resnet

CLASSES = {"num_classes": ("fc.weight", 0)}
"""Where most classifiers' state dicts tell how many classes there are."""

PUBLISHED = [
    # ldnet
    *[
        Published(make, (image(3, 96, 64, n=1),), outputs=(IMAGE,) * 5, keys=keys)
        for make, keys in ((ldnet.ldnet, "LDNet"), (ldnet.ldnet_resnet34, "LDNet_ResNet34"))
    ],
    # res2net
    Published(
        res2net.res2net50_v1b_26w_4s,
        (image(3, 65, 97, n=1),),
        outputs=(PLAIN,),
        keys="res2net50_v1b_26w_4s",
        lengths=CLASSES,
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
