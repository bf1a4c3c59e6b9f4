"""The published networks: constructors, example inputs, pinned keys, and the files that they accept."""

from collections.abc import Callable
from typing import Any

from flax_attn.catalog.entry import IMAGE, PLAIN, Input, Published, image, plain
from flax_attn.models import (
    ccnet,
    cifar_resnet,
    danet,
    detr,
    ldnet,
    non_local_net,
    ram,
    res2net,
    residual_attention,
    resnet,
    se_inception,
    se_resnet,
    sge_resnet,
    smt,
    spatial_transformer_net,
)

ALIGNED = "the scores are resized with align_corners=True, as in the published code"
OLD_TORCH = "align_corners=False, PyTorch's default since 1.3; a network trained before needs align_corners=True"
CIFAR = "images are normalised by the mean and the deviation of CIFAR-10, which the published code does not show"
CIFAR_A = "images are normalised as for ImageNet, as in akamaster's code"

CLASSES = {"num_classes": ("fc.weight", 0)}
"""Where most classifiers' state dicts tell how many classes there are."""

PUBLISHED = [
    # ccnet
    Published(
        ccnet.ccnet_resnet101,
        (image(3, 65, 97, n=1),),
        outputs=(IMAGE, IMAGE),
        keys="ccnet_r101",
        files=("CS_scenes_60000.pth",),
        lengths={"num_classes": ("head.bottleneck.3.weight", 0)},
        assumed=f"recurrence=2, as in the paper; {ALIGNED}",
    ),
    # danet
    *[
        Published(
            make,
            (image(3, 65, 97, n=1),),
            outputs=(IMAGE,) * 3,
            keys=keys,
            files=files,
            lengths={"num_classes": ("head.conv8.1.weight", 0)},
            assumed=f"{grid}; {ALIGNED}",
        )
        for make, keys, files, grid in (
            (danet.danet_resnet50, "danet_r50_deepstem", (), "multi_grid=None, upstream's default"),
            (danet.danet_resnet101, "danet_r101_citys", ("DANet101.pth.tar",), "multi_grid=(4, 8, 16), as released"),
        )
    ],
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
        detr.detr_demo,
        (image(3, 65, 97, n=1),),
        outputs=(PLAIN,) * 2,
        files=("detr_demo-da2a99e9.pth",),
        lengths={"num_classes": ("linear_class.weight", 1), "num_queries": ("query_pos", 0)},
    ),
    # ldnet
    *[
        Published(make, (image(3, 96, 64, n=1),), outputs=(IMAGE,) * 5, keys=keys)
        for make, keys in ((ldnet.ldnet, "LDNet"), (ldnet.ldnet_resnet34, "LDNet_ResNet34"))
    ],
    # non_local_net
    Published(
        non_local_net.non_local_net,
        (image(1, 28, 28, n=1),),
        outputs=(PLAIN,),
        files=("net.pth",),
    ),
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
    # res2net
    Published(
        res2net.res2net50_v1b_26w_4s,
        (image(3, 65, 97, n=1),),
        outputs=(PLAIN,),
        keys="res2net50_v1b_26w_4s",
        files=("timm res2net50d",),
        lengths=CLASSES,
    ),
    # residual_attention
    *[
        Published(
            make,
            (Input(lambda module: (1, *module.size, 3)),),
            dict(size=size),
            outputs=(PLAIN,),
            keys=f"ResidualAttentionModel_{make.__name__.removeprefix('residual_attention_')}",
            files=files,
            lengths=CLASSES,
        )
        for make, size, files in (
            (residual_attention.residual_attention_56, (65, 97), ()),
            (residual_attention.residual_attention_92, (65, 97), ()),
            (residual_attention.residual_attention_448input, (65, 97), ()),
            (residual_attention.residual_attention_92_32input, (29, 22), ()),
            (residual_attention.residual_attention_92_32input_update, (13, 18), ("model_92_sgd.pkl",)),
        )
    ],
    # resnet
    *[
        Published(
            make,
            (image(3, 65, 97, n=1),),
            kwargs,
            outputs=(PLAIN,),
            keys=keys,
            files=files,
            lengths=CLASSES,
        )
        for make, kwargs, keys, files in (
            (resnet.resnet18, dict(num_classes=10), "timm_resnet18", ("torchvision resnet18", "timm resnet18")),
            (resnet.resnet34, {}, "", ("torchvision resnet34", "timm resnet34")),
            (resnet.resnet50, {}, "insight_old_resnet50", ("torchvision resnet50", "timm resnet50")),
            (resnet.resnet101, {}, "", ("torchvision resnet101", "timm resnet101")),
            (resnet.resnet152, {}, "", ("torchvision resnet152", "timm resnet152")),
        )
    ],
    *[
        Published(
            make,
            (image(3, 32, 32, n=1),),
            outputs=(PLAIN,),
            keys=keys,
            lengths=CLASSES,
            assumed=CIFAR,
        )
        for make, keys in (
            (cifar_resnet.cifar_resnet20, "cifar_resnet20"),
            (cifar_resnet.cifar_resnet32, "cifar_resnet32"),
            (cifar_resnet.cifar_resnet44, ""),
            (cifar_resnet.cifar_resnet56, "cifar_resnet56"),
            (cifar_resnet.cifar_resnet110, "cifar_resnet110"),
            (cifar_resnet.cifar_preact_resnet20, "cifar_preact_resnet20"),
            (cifar_resnet.cifar_preact_resnet110, ""),
        )
    ],
    *[
        Published(make, (image(3, 32, 32, n=1),), outputs=(PLAIN,), lengths=CLASSES, assumed=CIFAR_A)
        for make in (
            cifar_resnet.cifar_resnet20_option_a,
            cifar_resnet.cifar_resnet32_option_a,
            cifar_resnet.cifar_resnet44_option_a,
            cifar_resnet.cifar_resnet56_option_a,
            cifar_resnet.cifar_resnet110_option_a,
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
        Published(
            make,
            (image(3, 65, 97, n=1),),
            kwargs,
            outputs=(PLAIN,),
            keys=keys,
            files=files,
            lengths=CLASSES,
        )
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
        Published(
            make,
            (image(3, 32, 32, n=1),),
            outputs=(PLAIN,),
            keys=keys,
            lengths=CLASSES,
            assumed=CIFAR,
        )
        for make, keys in (
            (se_resnet.cifar_se_resnet20, "cifar_se_resnet20"),
            (se_resnet.cifar_se_resnet32, "cifar_se_resnet32"),
            (se_resnet.cifar_se_resnet56, "cifar_se_resnet56"),
            (se_resnet.cifar_se_preactresnet20, "cifar_se_preactresnet20"),
            (se_resnet.cifar_se_preactresnet32, ""),
            (se_resnet.cifar_se_preactresnet56, ""),
        )
    ],
    # sge_resnet
    *[
        Published(
            make,
            (image(3, 65, 97, n=1),),
            outputs=(PLAIN,),
            keys=keys,
            files=files,
            lengths=CLASSES,
        )
        for make, keys, files in (
            (sge_resnet.sge_resnet18, "insight_sge_resnet18", ()),
            (sge_resnet.sge_resnet50, "insight_sge_resnet50", ("sge_resnet50.pth.tar",)),
            (sge_resnet.sge_resnet101, "insight_sge_resnet101", ("sge_resnet101.pth.tar",)),
            (sge_resnet.insight_se_resnet18, "", ()),
            (sge_resnet.insight_se_resnet50, "insight_se_resnet50", ()),
            (sge_resnet.insight_se_resnet101, "", ("timm seresnet101",)),
            (sge_resnet.sk_resnet50, "insight_sk_resnet50", ()),
            (sge_resnet.sk_resnet101, "", ()),
            (sge_resnet.cbam_resnet18, "", ()),
            (sge_resnet.cbam_resnet50, "insight_cbam_resnet50", ()),
            (sge_resnet.cbam_resnet101, "", ()),
            (sge_resnet.bam_resnet18, "", ()),
            (sge_resnet.bam_resnet50, "insight_bam_resnet50", ()),
            (sge_resnet.bam_resnet101, "", ()),
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
        assumed=OLD_TORCH,
    ),
]


def preprocess_of(name: str) -> Callable[..., Any]:
    """The input pipeline of the published network whose constructor is called ``name``.

    Raises:
        ValueError: if there is no such network.
    """
    for entry in PUBLISHED:
        if entry.name == name:
            return entry.preprocess
    raise ValueError(f"no published network is called {name!r}; `flax-attn-convert models` lists them")
