"""DETR: the network and its demo, images to batches, boxes, losses, and results in pixels."""

from flax_attn.models.detr.criterion import HungarianMatcher, SetCriterion, loss_weights, weighted_loss
from flax_attn.models.detr.demo import DETRdemo, detr_demo
from flax_attn.models.detr.network import (
    DETR,
    MLP,
    Backbone,
    Joiner,
    detr_resnet50,
    detr_resnet50_dc5,
    detr_resnet101,
    detr_resnet101_dc5,
)
from flax_attn.models.detr.postprocess import PostProcess, PostProcessPanoptic, PostProcessSegm
from flax_attn.models.detr.segmentation import (
    DETRsegm,
    MaskHeadSmallConv,
    detr_resnet50_dc5_panoptic,
    detr_resnet50_panoptic,
    detr_resnet101_panoptic,
)
from flax_attn.models.detr.targets import pad_targets
