"""mmseg and mmcv: the heads of DANet and CCNet, criss-cross attention, and non-local blocks.

``mmseg``: ReLU follows the normalization of a CCHead: ``RCCAModule(..., inplace_abn=False, activation="relu")``, with
``recurrence=2``.
``mmcv_nonlocal``, ``mmcv_nonlocal_scaled``: mmcv's ``NonLocal1d`` to ``NonLocal3d``. With ``use_scale`` an embedded
Gaussian divides its products by the square root of their width; here ``theta`` is divided in its place. The keys do
not show which of the two a file is.
"""

from convert.forms import SCALAR, SCALED, ZEROS
from convert.renaming import Dialect, Rule, Rules

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

DIALECTS = (
    Dialect(
        "mmseg",
        "mmseg's DAHead and CCHead (with ReLU, so activation='relu' and inplace_abn=False), mmcv's CrissCrossAttention",
        (MMSEG,),
        signature=("**gamma.scale",),
    ),
    Dialect(
        "mmcv_nonlocal",
        "mmcv's NonLocal1d to 3d; an embedded Gaussian with use_scale=False",
        ((*NONLOCAL, Rule("**theta.conv.*", "**theta.*")),),
        signature=("**conv_out.conv.weight",),
    ),
    Dialect(
        "mmcv_nonlocal_scaled",
        "mmcv's NonLocal1d to 3d, an embedded Gaussian with use_scale=True, their default",
        ((*NONLOCAL, Rule("**theta.conv.*", "**theta.*", SCALED)),),
        signature=("**conv_out.conv.weight", "**theta.conv.weight"),
        without=("**concat_project.conv.weight",),
    ),
)
