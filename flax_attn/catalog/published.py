"""The published networks: constructors, example inputs, pinned keys, and the files that they accept."""

from flax_attn.catalog.entry import PLAIN, Published, image
from flax_attn.models import resnet, se_inception, se_resnet

CLASSES = {"num_classes": ("fc.weight", 0)}
"""Where most classifiers' state dicts tell how many classes there are."""

PUBLISHED = [
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
    # se_inception
    Published(
        se_inception.se_inception_v3,
        (image(3, 299, 299, n=1),),
        dict(num_classes=10),
        call=dict(aux=True),
        outputs=(PLAIN, PLAIN),
        keys="se_inception_v3",
        lengths={"num_classes": ("model.fc.weight", 0)},
    ),
    # se_resnet
    *[
        Published(make, (image(3, 65, 97, n=1),), kwargs, outputs=(PLAIN,), keys=keys, files=files, lengths=CLASSES)
        for make, kwargs, keys, files in (
            (se_resnet.se_resnet18, dict(num_classes=10), "se_resnet18", ()),
            (se_resnet.se_resnet34, dict(num_classes=10), "se_resnet34", ()),
            (se_resnet.se_resnet50, dict(num_classes=10), "se_resnet50", ("seresnet50-60a8950a85b2b.pkl",)),
            (se_resnet.se_resnet101, dict(num_classes=10), "se_resnet101", ()),
            (se_resnet.se_resnet152, dict(num_classes=10), "se_resnet152", ()),
            (se_resnet.timm_seresnet50, {}, "", ("timm seresnet50",)),
            (se_resnet.legacy_seresnet18, {}, "", ("timm legacy_seresnet18",)),
            (se_resnet.legacy_seresnet34, {}, "", ("timm legacy_seresnet34",)),
            (se_resnet.legacy_seresnet50, {}, "", ("timm legacy_seresnet50", "Cadene se_resnet50")),
            (se_resnet.legacy_seresnet101, {}, "", ("timm legacy_seresnet101", "Cadene se_resnet101")),
            (se_resnet.legacy_seresnet152, {}, "", ("timm legacy_seresnet152", "Cadene se_resnet152")),
            (
                se_resnet.legacy_seresnext50_32x4d,
                {},
                "",
                ("timm legacy_seresnext50_32x4d", "Cadene se_resnext50_32x4d"),
            ),
            (
                se_resnet.legacy_seresnext101_32x4d,
                {},
                "",
                ("timm legacy_seresnext101_32x4d", "Cadene se_resnext101_32x4d"),
            ),
            (se_resnet.legacy_senet154, {}, "", ("timm legacy_senet154", "Cadene senet154")),
        )
    ],
    *[
        Published(make, (image(3, 32, 32, n=1),), outputs=(PLAIN,), keys=keys, lengths=CLASSES)
        for make, keys in (
            (se_resnet.cifar_se_resnet20, "cifar_se_resnet20"),
            (se_resnet.cifar_se_resnet32, "cifar_se_resnet32"),
            (se_resnet.cifar_se_resnet56, "cifar_se_resnet56"),
            (se_resnet.cifar_se_preactresnet20, "cifar_se_preactresnet20"),
            (se_resnet.cifar_se_preactresnet32, ""),
            (se_resnet.cifar_se_preactresnet56, ""),
        )
    ],
]
