"""timm, and Cadene's networks, which timm calls ``legacy_*``.

Their SE gates have 1x1 convolutions where ours have linear layers. In most of Cadene's networks the stem is in a
``layer0``. Where timm and torchvision have the names that are here, as in ResNet, no dialect is needed.
"""

from convert.renaming import POINTWISE, Dialect, Rule, Rules

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

DIALECTS = (
    Dialect(
        "timm",
        "timm's SE networks",
        (TIMM,),
        signature=("**se.fc1.weight", "**se.fc2.weight"),
        networks=("timm_*",),
    ),
    Dialect(
        "cadene",
        "Cadene's SE networks, timm's legacy_*",
        (CADENE, TIMM),
        signature=("layer0.conv1.weight", "**se_module.fc1.weight", "**se_module.fc2.weight"),
        networks=("legacy_*",),
    ),
)
