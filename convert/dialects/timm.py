"""timm, and Cadene's networks, which timm calls ``legacy_*``.

Their SE gates have 1x1 convolutions where ours have linear layers. In most of Cadene's networks the stem is in a
``layer0``. Where timm and torchvision have the names that are here, as in ResNet, no dialect is needed.

``timm``: ``seresnet50`` is ``timm_seresnet50`` here, and ``seresnet101``, which has the same blocks, is
``insight_se_resnet101``. timm rounds the hidden width of a gate to a multiple of 8, so ``seresnet18`` and
``seresnet34`` are no networks here.
``timm_cbam``: ``CbamModule``, which is ``CBAM(..., conv=True, bias=False, mean_first=True)`` here.
``timm_nonlocal``, ``timm_nonlocal_scaled``: ``NonLocalAttn``, which is an ``EmbeddedGaussianNonLocalBlock`` with
``dimension=2, sub_sample=False`` and an eighth of the channels inside. With ``use_scale``, its default, the products
are divided by the square root of the number of channels; here ``theta`` is divided in its place. The keys do not show
``use_scale``.
"""

from convert.forms import POINTWISE, SCALED_8
from convert.renaming import Dialect, Rule, Rules

TIMM: Rules = (
    Rule("**se.fc1.weight", "**se.fc.0.weight", POINTWISE),
    Rule("**se.fc1.bias", "**se.fc.0.bias"),
    Rule("**se.fc2.weight", "**se.fc.2.weight", POINTWISE),
    Rule("**se.fc2.bias", "**se.fc.2.bias"),
)

SENET154 = ("layer0.conv2.weight", "conv1.3.weight")

CADENE: Rules = (
    Rule("layer0.conv1.*", "conv1.0.*", beside=SENET154),
    Rule("layer0.bn1.*", "conv1.1.*", beside=SENET154),
    Rule("layer0.conv2.*", "conv1.3.*", beside=SENET154),
    Rule("layer0.bn2.*", "conv1.4.*", beside=SENET154),
    Rule("layer0.conv3.*", "conv1.6.*", beside=SENET154),
    Rule("layer0.bn3.*", "bn1.*", beside=SENET154),
    Rule("layer0.conv1.*", "conv1.*"),
    Rule("layer0.bn1.*", "bn1.*"),
    Rule("**se_module.fc#.*", "**se.fc#.*"),
    Rule("last_linear.*", "fc.*"),
)

CBAM: Rules = (
    Rule("**channel.fc1.*", "**ChannelGate.mlp.0.*"),
    Rule("**channel.fc2.*", "**ChannelGate.mlp.2.*"),
    Rule("**spatial.conv.conv.*", "**SpatialGate.spatial.conv.*"),
    Rule("**spatial.conv.bn.*", "**SpatialGate.spatial.bn.*"),
)

NONLOCAL: Rules = (
    Rule("**p.*", "**phi.*"),
    Rule("**z.*", "**W.0.*"),
    Rule("**norm.*", "**W.1.*"),
)
NONLOCAL_KEYS = ("**t.weight", "**p.weight", "**g.weight", "**z.weight", "**norm.weight")

DIALECTS = (
    Dialect(
        "timm",
        "timm's SE networks",
        (TIMM,),
        signature=("**se.fc1.weight", "**se.fc2.weight"),
        networks=("timm_*", "insight_se_resnet101"),
    ),
    Dialect(
        "cadene",
        "Cadene's SE networks, timm's legacy_*",
        (CADENE, TIMM),
        signature=("layer0.conv1.weight", "**se_module.fc1.weight", "**se_module.fc2.weight"),
        networks=("legacy_*",),
    ),
    Dialect(
        "timm_cbam",
        "timm's CbamModule",
        (CBAM,),
        signature=("**channel.fc1.weight", "**spatial.conv.conv.weight"),
    ),
    Dialect(
        "timm_nonlocal",
        "timm's NonLocalAttn with use_scale=False",
        ((*NONLOCAL, Rule("**t.*", "**theta.*")),),
        signature=NONLOCAL_KEYS,
    ),
    Dialect(
        "timm_nonlocal_scaled",
        "timm's NonLocalAttn with use_scale=True, the default",
        ((*NONLOCAL, Rule("**t.*", "**theta.*", SCALED_8)),),
        signature=NONLOCAL_KEYS,
    ),
)
