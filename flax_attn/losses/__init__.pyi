"""The losses, and the file of each. `flax_attn/losses/__init__.py` reads this list, and so do type checkers."""

from .binary import (
    binary_cross_entropy as binary_cross_entropy,
    binary_cross_entropy_with_logits as binary_cross_entropy_with_logits,
)
from .cross_entropy import (
    auxiliary_cross_entropy as auxiliary_cross_entropy,
    cross_entropy as cross_entropy,
    nll_loss as nll_loss,
    soft_target_cross_entropy as soft_target_cross_entropy,
)
from .ldnet import bce_dice_loss as bce_dice_loss, deep_supervision_loss as deep_supervision_loss
from .of_networks import (
    dice_loss as dice_loss,
    reinforce_loss as reinforce_loss,
    sigmoid_focal_loss as sigmoid_focal_loss,
)
from .ohem import (
    dsn_loss as dsn_loss,
    ohem_cross_entropy as ohem_cross_entropy,
    ohem_dsn_loss as ohem_dsn_loss,
)
from .ram import mse_loss as mse_loss, ram_loss as ram_loss
from .segmentation import (
    segmentation_losses as segmentation_losses,
    segmentation_multi_losses as segmentation_multi_losses,
)
from .structure import structure_loss as structure_loss
