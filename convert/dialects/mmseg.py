"""mmseg and mmcv: networks with the heads of DANet, CCNet and non-local networks, and mmcv's blocks.

``mmseg``: a whole file, or a head. ``mmseg_nonlocal``: the same with an NLHead. A whole file has three parts here, too:
``backbone``: a ResNetV1c is ``ResNet(Bottleneck, (3, 4, 6, 3), num_classes=0, stem_width=32,
replace_stride_with_dilation=(False, True, True))``. This needs ``contract_dilation=True``, which mmseg's configurations
have and the keys do not show.
``decode_head``: a DAHead is ``DANetHead``. A CCHead has a ReLU behind each normalization, so it is
``RCCAModule(..., inplace_abn=False, activation="relu")``, with ``recurrence=2``. An NLHead has no class here. Its
``nl_block`` is ``EmbeddedGaussianNonLocalBlock(512, dimension=2, sub_sample=False)``, and each of its other layers is a
``Sequential`` of a convolution, a normalization and a ReLU.
``auxiliary_head``: an FCNHead with one convolution is a ``Sequential`` of a convolution without bias, an ``ABN`` with
``activation="relu"``, a dropout and a convolution.
``DANet`` and ``CCNet`` are other networks: their stems have twice as many channels, ``DANet`` has no auxiliary head,
and that of ``CCNet`` is wider. mmseg resizes the scores with ``align_corners=False``.

``mmcv_nonlocal``, ``mmcv_nonlocal_scaled``: mmcv's ``NonLocal1d`` to ``NonLocal3d``. With ``use_scale`` an embedded
Gaussian divides its products by the square root of their width; here ``theta`` is divided in its place. The keys do
not show which of the two a file is. ``mmseg_nonlocal`` is for ``use_scale=True``, the default.
"""

from convert.forms import SCALAR, SCALED, ZEROS
from convert.renaming import Dialect, Rule, Rules

V1C_STEM = ("**stem.0.weight", "**conv1.0.weight")

BACKBONE: Rules = (
    Rule("**stem.7.*", "**bn1.*", beside=V1C_STEM),
    Rule("**stem.#.*", "**conv1.#.*", beside=V1C_STEM),
)

AUXILIARY: Rules = (
    Rule("auxiliary_head.convs.0.conv.*", "auxiliary_head.0.*"),
    Rule("auxiliary_head.convs.0.bn.*", "auxiliary_head.1.*"),
    Rule("auxiliary_head.conv_seg.*", "auxiliary_head.3.*"),
)

DANET_HEAD = ("**pam.gamma.scale", "**sa.gamma")
CCNET_HEAD = ("**cca.gamma.scale", "**cca.gamma")

MMSEG: Rules = (
    Rule("**pam.gamma.scale", "**sa.gamma", SCALAR),
    Rule("**cam.gamma.scale", "**sc.gamma", SCALAR),
    Rule("**gamma.scale", "**gamma", SCALAR),
    *[Rule(f"**pam.{which}_project.*", f"**sa.{which}_conv.*") for which in ("query", "key", "value")],
    *[
        Rule(f"**{theirs}.{layer}.*", f"**{ours}.{i}.*")
        for theirs, ours in (
            ("pam_in_conv", "conv5a"),
            ("cam_in_conv", "conv5c"),
            ("pam_out_conv", "conv51"),
            ("cam_out_conv", "conv52"),
            ("convs.0", "conva"),
            ("convs.1", "convb"),
            ("conv_cat", "bottleneck"),
        )
        for i, layer in enumerate(("conv", "bn"))
    ],
    Rule("**pam_conv_seg.*", "**conv6.1.*"),
    Rule("**cam_conv_seg.*", "**conv7.1.*"),
    Rule("**conv_seg.*", "**conv8.1.*", beside=DANET_HEAD),
    Rule("**conv_seg.*", "**bottleneck.3.*", beside=CCNET_HEAD),
)

NORMALISED = ("**conv_out.bn.weight", "**W.1.weight")

NONLOCAL: Rules = (
    Rule("**conv_out.conv.weight", "**W.0.bias", ZEROS, beside=NORMALISED, added=True),
    Rule("**conv_out.conv.*", "**W.0.*", beside=NORMALISED),
    Rule("**conv_out.bn.*", "**W.1.*"),
    Rule("**conv_out.conv.*", "**W.*"),
    Rule("**concat_project.conv.weight", "**concat_project.0.weight"),
    *[Rule(f"**{name}.0.conv.*", f"**{name}.0.*") for name in ("g", "phi")],
    *[Rule(f"**{name}.conv.*", f"**{name}.*") for name in ("g", "phi")],
)

NL_HEAD: Rules = (
    *[Rule(f"**convs.#.{layer}.*", f"**convs.#.{i}.*") for i, layer in enumerate(("conv", "bn"))],
    *[Rule(f"**conv_cat.{layer}.*", f"**conv_cat.{i}.*") for i, layer in enumerate(("conv", "bn"))],
)

IN_HEAD = "**nl_block.conv_out.conv.weight"
SCALED_NONLOCAL: Rules = (*NONLOCAL, Rule("**theta.conv.*", "**theta.*", SCALED))

DIALECTS = (
    Dialect(
        "mmseg",
        "mmseg's DAHead and CCHead (with ReLU, so activation='relu' and inplace_abn=False), mmcv's CrissCrossAttention",
        ((*BACKBONE, *AUXILIARY, *MMSEG),),
        signature=("**gamma.scale",),
    ),
    Dialect(
        "mmseg_nonlocal",
        "mmseg's networks with an NLHead",
        ((*BACKBONE, *AUXILIARY, *NL_HEAD), SCALED_NONLOCAL),
        signature=(IN_HEAD,),
    ),
    Dialect(
        "mmcv_nonlocal",
        "mmcv's NonLocal1d to 3d; an embedded Gaussian with use_scale=False",
        ((*NONLOCAL, Rule("**theta.conv.*", "**theta.*")),),
        signature=("**conv_out.conv.weight",),
        without=(IN_HEAD,),
    ),
    Dialect(
        "mmcv_nonlocal_scaled",
        "mmcv's NonLocal1d to 3d, an embedded Gaussian with use_scale=True, their default",
        (SCALED_NONLOCAL,),
        signature=("**conv_out.conv.weight", "**theta.conv.weight"),
        without=("**concat_project.conv.weight", IN_HEAD),
    ),
)
