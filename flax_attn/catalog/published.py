"""The published networks: constructors, example inputs, pinned keys, and the files that they accept."""

from flax_attn.catalog.entry import PLAIN, Published, image, plain
from flax_attn.models import non_local_net, ram, resnet, smt, spatial_transformer_net

CLASSES = {"num_classes": ("fc.weight", 0)}
"""Where most classifiers' state dicts tell how many classes there are."""

PUBLISHED = [
    # non_local_net
    Published(non_local_net.non_local_net, (image(1, 28, 28, n=1),), outputs=(PLAIN,), files=("net.pth",)),
    # ram
    *[
        Published(
            make,
            (image(1, 28, 28, n=1), plain(1, 2, kind="uniform"), plain(1, 256), plain(1, 2, name="noise")),
            call=dict(last=True),
            outputs=(PLAIN,) * 5,
            keys=keys,
            files=files,
            lengths={"num_classes": ("classifier.fc.weight", 0)},
        )
        for make, keys, files in (
            (ram.ram, "ram_head", ()),
            (ram.ram_6_8x8_2, "", ("ram_6_8x8_2_model_best.pth.tar", "ram_6_8x8_2_ckpt.pth.tar")),
        )
    ],
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
    # smt
    *[
        Published(
            make,
            (image(3, 64, 96, n=1),),
            outputs=(PLAIN,),
            keys=keys,
            files=files,
            lengths={"num_classes": ("head.weight", 0)},
        )
        for make, keys, files in (
            (smt.smt_tiny, "smt_t", ("smt_tiny.pth",)),
            (smt.smt_small, "smt_s", ("smt_small.pth",)),
            (smt.smt_base, "smt_b", ("smt_base.pth",)),
            (
                smt.smt_large,
                "smt_l_layerscale",
                ("smt_large_22k.pth", "smt_large_22k_224_ft.pth", "smt_large_22k_384_ft.pth"),
            ),
        )
    ],
    # spatial_transformer_net
    Published(
        spatial_transformer_net.spatial_transformer_net,
        (image(1, 28, 28, n=1),),
        outputs=(PLAIN,),
        keys="tutorial_stn_net",
        lengths={"num_classes": ("fc2.weight", 0)},
    ),
]
