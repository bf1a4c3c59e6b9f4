"""Losses that are defined beside the networks that they train."""

from flax_attn.blocks.recurrent_attention import reinforce_loss as reinforce_loss
from flax_attn.models.detr.criterion import dice_loss as dice_loss
from flax_attn.models.detr.criterion import sigmoid_focal_loss as sigmoid_focal_loss
