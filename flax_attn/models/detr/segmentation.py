"""End-to-End Object Detection with Transformers - Carion, Massa, Synnaeve et al. 2020, https://arxiv.org/abs/2005.12872

Follows: facebookresearch/detr, ``models/segmentation.py``. Masks come from the image that ``input_proj`` makes, and
from a softmax over heads and pixels together.
Differs: the mask head takes the feature maps of any block, and returns (n, q, h, w) where upstream returns
(n * q, 1, h, w).
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from flax_attn.blocks.attention_map import MHAttentionMap
from flax_attn.blocks.resnet import Bottleneck
from flax_attn.constructor import constructor
from flax_attn.layers import Conv2d, GroupNorm, InitRule, Module, init, interpolate, relu, require
from flax_attn.models.detr.network import DETR
from flax_attn.models.detr.preprocess import preprocess
from flax_attn.shapes import Features, Image, Padding


class MaskHeadSmallConv(Module):
    """Logits (n, q, h1, w1) of a mask for each query, at the size of the feature map of the first stage.

    Args:
        dim: channels of x plus heads of ``bbox_mask``.
        fpn_dims: channels of the feature maps of the stages 3, 2 and 1.
        context_dim: the convolutions have from 1/2 to 1/16 as many channels; 8 groups must divide each number.

    The call takes x (n, h, w, c), the attention ``bbox_mask`` (n, q, heads, h, w), and the feature maps.
    """

    dim: int
    fpn_dims: Sequence[int]
    context_dim: int

    init_rules: ClassVar[Sequence[InitRule]] = (
        InitRule(Conv2d, "kernel", init.kaiming_uniform(1.0)),
        InitRule(Conv2d, "bias", init.zeros),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        who, widths = "MaskHeadSmallConv", (self.dim, self.context_dim // 16)
        divides = min(widths) >= 8 and self.dim % 8 == 0 and self.context_dim % 128 == 0
        require(divides, f"{who}: expected 8 to divide dim and 128 context_dim, got {self.dim}, {self.context_dim}")
        require(len(self.fpn_dims) == 3, f"{who}: expected three fpn_dims, got {self.fpn_dims}")

    def setup(self) -> None:
        widths = [self.dim, self.dim, *[self.context_dim // 2**i for i in range(1, 5)]]
        for i, (a, b) in enumerate(pairwise(widths), 1):
            setattr(self, f"lay{i}", Conv2d(a, b, 3, padding=1))
            setattr(self, f"gn{i}", GroupNorm(8, b))
        self.out_lay = Conv2d(widths[-1], 1, 3, padding=1)
        for i, width in enumerate(self.fpn_dims, 1):
            setattr(self, f"adapter{i}", Conv2d(width, widths[i + 1], 1))

    def convolve(self, i: int, x: Image) -> Float[Array, "n h w d"]:
        return relu(getattr(self, f"gn{i}")(getattr(self, f"lay{i}")(x)))

    def __call__(
        self,
        x: Image,
        bbox_mask: Float[Array, "n q heads h w"],
        layer3: Float[Array, "n h3 w3 c3"],
        layer2: Features,
        layer1: Float[Array, "n h1 w1 c1"],
        train: bool = False,
    ) -> Float[Array, "n q h1 w1"]:
        n, q, *_ = bbox_mask.shape
        x = jnp.concatenate([jnp.repeat(x, q, 0), lax.collapse(jnp.moveaxis(bbox_mask, 2, -1), 0, 2)], -1)
        x = self.convolve(2, self.convolve(1, x))
        for i, fpn in enumerate((layer3, layer2, layer1), 1):
            fpn = getattr(self, f"adapter{i}")(fpn)
            x = jnp.repeat(fpn, q, 0) + interpolate(x, fpn.shape[1:3])
            x = self.convolve(i + 2, x)
        return self.out_lay(x).reshape(n, q, *x.shape[1:3])


class DETRsegm(Module):
    """The result of ``detr``, which has four stages, and "pred_masks" (n, q, h/4, w/4): mask logits for each query."""

    detr: DETR

    def __post_init__(self) -> None:
        super().__post_init__()
        stages = len(self.detr.layers)
        require(stages == 4, f"DETRsegm: expected a detector of four stages, got {stages}")

    def setup(self) -> None:
        dim, heads, expansion = self.detr.hidden_dim, self.detr.nheads, self.detr.block.expansion
        self.bbox_attention: Module = MHAttentionMap(dim, dim, heads)
        self.mask_head = MaskHeadSmallConv(dim + heads, [width * expansion for width in (256, 128, 64)], dim)

    def __call__(self, x: Image, mask: Padding | None = None, train: bool = False) -> dict[str, Any]:
        (layer1, layer2, layer3, _), src, padding, found, memory = self.detr.features(x, mask, train)
        bbox_mask = self.bbox_attention(found[-1], memory, padding, train=train)
        masks = self.mask_head(src, bbox_mask, layer3, layer2, layer1)
        return {**self.detr.predict(found), "pred_masks": masks}


@constructor(DETR, preprocess, DETRsegm, block=Bottleneck, layers=(3, 4, 6, 3), num_classes=250)
def detr_resnet50_panoptic() -> None:
    """DETR with a ResNet-50 and masks, for COCO panoptic.

    Input: images (n, h, w, 3), pixels from 0 to 1, then normalised as for ImageNet, and the mask of their padding.
    """


@constructor(DETR, preprocess, DETRsegm, block=Bottleneck, layers=(3, 4, 6, 3), num_classes=250, dilation=True)
def detr_resnet50_dc5_panoptic() -> None:
    """DETR with a ResNet-50 and masks, for COCO panoptic. Its last feature map is at 1/16 of the image.

    Input: images (n, h, w, 3), pixels from 0 to 1, then normalised as for ImageNet, and the mask of their padding.
    """


@constructor(DETR, preprocess, DETRsegm, block=Bottleneck, layers=(3, 4, 23, 3), num_classes=250)
def detr_resnet101_panoptic() -> None:
    """DETR with a ResNet-101 and masks, for COCO panoptic.

    Input: images (n, h, w, 3), pixels from 0 to 1, then normalised as for ImageNet, and the mask of their padding.
    """
