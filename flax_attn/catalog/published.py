"""The published networks: constructors, example inputs, pinned keys, and the files that they accept."""

from flax_attn.catalog.entry import IMAGE, PLAIN, Input, Published, image
from flax_attn.models import ccnet, danet, detr, detr_demo, ldnet, res2net, residual_attention, resnet, sge_resnet

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
        )
        for make, keys, files in (
            (danet.danet_resnet50, "danet_r50_deepstem", ()),
            (danet.danet_resnet101, "danet_r101_citys", ("DANet101.pth.tar",)),
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
        detr_demo.detr_demo,
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
    # res2net
    Published(
        res2net.res2net50_v1b_26w_4s,
        (image(3, 65, 97, n=1),),
        outputs=(PLAIN,),
        keys="res2net50_v1b_26w_4s",
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
    # sge_resnet
    *[
        Published(make, (image(3, 65, 97, n=1),), outputs=(PLAIN,), keys=keys, files=files, lengths=CLASSES)
        for make, keys, files in (
            (sge_resnet.sge_resnet18, "insight_sge_resnet18", ()),
            (sge_resnet.sge_resnet50, "insight_sge_resnet50", ("sge_resnet50.pth.tar",)),
            (sge_resnet.sge_resnet101, "insight_sge_resnet101", ("sge_resnet101.pth.tar",)),
            (sge_resnet.insight_se_resnet18, "", ()),
            (sge_resnet.insight_se_resnet50, "insight_se_resnet50", ()),
            (sge_resnet.insight_se_resnet101, "", ()),
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
]
