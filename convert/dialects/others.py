"""InPlaceABN, akamaster's CIFAR ResNets, and the copies of SMT.

``inplace_abn``: a checkpoint of InPlaceABN, which scales by |weight| + eps, for a network with plain BatchNorm. Its
keys are those here, so it is used only if it is named. It can be read, but not written.
``akamaster``: CIFAR ResNets whose classifier is called ``linear``. The arithmetic is the same.
``smt_dense``: the copies of SMT for detection and segmentation. The arithmetic is the same.
"""

from convert.forms import POSITIVE
from convert.renaming import Dialect, Rule

DIALECTS = (
    Dialect(
        "inplace_abn",
        "InPlaceABN's weights as those of plain BatchNorm, |weight| + eps",
        ((Rule("**weight", "**weight", POSITIVE, beside=("**running_var", "**running_var")),),),
        networks=("ccnet_*",),
    ),
    Dialect(
        "akamaster",
        "akamaster's CIFAR ResNets",
        ((Rule("linear.*", "fc.*"), Rule("**shortcut.#.*", "**downsample.#.*")),),
        signature=("linear.weight", "layer1.0.conv1.weight"),
        networks=("cifar_resnet*",),
    ),
    Dialect(
        "smt_dense",
        "SMT's copies for detection and segmentation",
        ((Rule("**attn.dw_conv.*", "**attn.local_conv.*"),),),
        signature=("**attn.dw_conv.weight",),
        networks=("smt_*",),
    ),
)
