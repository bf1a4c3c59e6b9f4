"""End-to-End Object Detection with Transformers - Carion, Massa, Synnaeve et al. 2020, https://arxiv.org/abs/2005.12872

Follows: facebookresearch/detr, ``models/detr.py`` and ``models/backbone.py``.
Differs: images of several sizes come as one array and a padding mask, where upstream has a ``NestedTensor``; without a
mask nothing is padded. Only the position embedding of the last feature map is returned; upstream does not use the
others.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from flax_attn.blocks.position import PositionEmbeddingLearned, PositionEmbeddingSine
from flax_attn.blocks.resnet import Bottleneck
from flax_attn.blocks.transformer import Transformer
from flax_attn.constructor import constructor
from flax_attn.layers import (
    Conv2d,
    Embedding,
    FrozenBatchNorm2d,
    Linear,
    Module,
    ModuleList,
    interpolate,
    relu,
    require,
    sigmoid,
)
from flax_attn.models.detr.preprocess import preprocess
from flax_attn.models.resnet import Block, ResNet
from flax_attn.shapes import Features, Image, Padding

Found = Float[Array, "k n q d"]

POSITIONS = ("sine", "learned")


def mask_like(mask: Padding, x: Features) -> Bool[Array, "n h2 w2"]:
    """The padding mask of images, resized to their feature map x by the nearest pixel, rounded down."""
    return interpolate(mask[..., None], x.shape[1:3])[..., 0]


class Backbone(Module):
    """The feature maps of all stages of a ResNet with constant statistics, for images x (n, h, w, 3).

    Args:
        block, layers: those of ``ResNet``.
        dilation: whether the fourth stage dilates instead of striding ("DC5").
    """

    block: Block
    layers: Sequence[int]
    dilation: bool = False

    def setup(self) -> None:
        dilations = (False, False, self.dilation)
        self.body = ResNet(
            self.block,
            self.layers,
            num_classes=0,
            replace_stride_with_dilation=dilations,
            norm_layer=FrozenBatchNorm2d,
        )

    def __call__(self, x: Image, train: bool = False) -> list[Array]:
        return self.body.features(x, train)


class Joiner(Module):
    """The feature maps of all stages, and the position embedding (n, h', w', hidden_dim) of the last map.

    Args:
        block, layers, dilation: those of ``Backbone``.
        position_embedding: "sine", which is normalised, or "learned", for maps of at most 50 rows and columns.
    """

    block: Block
    layers: Sequence[int]
    hidden_dim: int = 256
    position_embedding: str = "sine"
    dilation: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        got = self.position_embedding
        require(got in POSITIONS, f"Joiner: expected position_embedding 'sine' or 'learned', got {got!r}")

    def setup(self) -> None:
        setattr(self, "0", Backbone(self.block, self.layers, self.dilation))
        half, sine = self.hidden_dim // 2, self.position_embedding == "sine"
        setattr(self, "1", PositionEmbeddingSine(half, normalize=True) if sine else PositionEmbeddingLearned(half))

    def __call__(self, x: Image, mask: Padding, train: bool = False) -> tuple[list[Array], Features]:
        maps = getattr(self, "0")(x, train)
        return maps, getattr(self, "1")(maps[-1], mask_like(mask, maps[-1]))


class MLP(Module):
    """DETR's head for boxes: ``num_layers`` linear layers with ReLU between them. ``Mlp`` is that of SMT."""

    input_dim: int
    hidden_dim: int
    output_dim: int
    num_layers: int

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.num_layers >= 1, f"MLP: expected num_layers >= 1, got {self.num_layers}")

    def setup(self) -> None:
        widths = [self.input_dim, *[self.hidden_dim] * (self.num_layers - 1), self.output_dim]
        self.layers = ModuleList([Linear(a, b) for a, b in pairwise(widths)])

    def __call__(self, x: Float[Array, "*n i"], train: bool = False) -> Float[Array, "*n o"]:
        for i, layer in enumerate(self.layers):
            x = layer(x) if i == 0 else layer(relu(x))
        return x


class DETR(Module):
    """Classes and boxes of ``num_queries`` objects in each of the images x (n, h, w, 3), which ``preprocess`` makes.

    Args:
        block, layers, dilation: those of ``Backbone``.
        num_classes: the largest class id + 1. There is one more logit, for "no object".
        aux_loss: whether to return also the predictions of the earlier decoder layers, a list of dicts "aux_outputs".
        pre_norm: whether LayerNorm is in front of each branch of the transformer instead of behind it.
        position_embedding: that of ``Joiner``.

    ``mask`` (n, h, w) is True where x is padding. The result is a dict of "pred_logits" (n, q, num_classes + 1) and
    "pred_boxes" (n, q, 4): centre x, centre y, width and height, relative to the padded image.
    """

    block: Block
    layers: Sequence[int]
    num_classes: int = 91
    num_queries: int = 100
    aux_loss: bool = False
    hidden_dim: int = 256
    nheads: int = 8
    enc_layers: int = 6
    dec_layers: int = 6
    dim_feedforward: int = 2048
    dropout: float = 0.1
    pre_norm: bool = False
    position_embedding: str = "sine"
    dilation: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes = (self.num_classes, self.num_queries, self.dec_layers)
        require(min(sizes) >= 1, f"DETR: expected num_classes, num_queries, dec_layers >= 1, got {sizes}")
        dim, heads = self.hidden_dim, self.nheads
        divides = heads >= 1 and dim >= 4 and dim % 4 == 0 and dim % heads == 0
        require(divides, f"DETR: expected 4 and nheads={heads} to divide hidden_dim, got {dim}")

    def setup(self) -> None:
        dim, norm_first = self.hidden_dim, self.pre_norm
        self.transformer = Transformer(
            dim,
            self.nheads,
            self.enc_layers,
            num_decoder_layers=self.dec_layers,
            dim_feedforward=self.dim_feedforward,
            dropout=self.dropout,
            normalize_before=norm_first,
            return_intermediate_dec=True,
        )
        self.class_embed = Linear(dim, self.num_classes + 1)
        self.bbox_embed = MLP(dim, dim, 4, num_layers=3)
        self.query_embed = Embedding(self.num_queries, dim)
        self.input_proj = Conv2d(64 * 2 ** (len(self.layers) - 1) * self.block.expansion, dim, 1)
        self.backbone = Joiner(
            self.block, self.layers, dim, position_embedding=self.position_embedding, dilation=self.dilation
        )

    def features(
        self, x: Image, mask: Padding | None = None, train: bool = False
    ) -> tuple[list[Array], Features, Bool[Array, "n h2 w2"], Found, Features]:
        """Feature maps of all stages, the transformer's input and its mask, each decoder layer's output, the memory."""
        if mask is None:
            mask = jnp.zeros(x.shape[:3], bool)
        require(mask.shape == x.shape[:3], f"DETR: expected a mask of shape {x.shape[:3]}, got {mask.shape}")
        maps, pos = self.backbone(x, mask, train)
        src, padding = self.input_proj(maps[-1]), mask_like(mask, maps[-1])
        queries = self.query_embed(jnp.arange(self.num_queries))
        found, memory = self.transformer(src, padding, queries, pos, train)
        return maps, src, padding, found, memory

    def predict(self, found: Found) -> dict[str, Any]:
        """Logits and boxes from the output of each decoder layer."""
        logits, boxes = self.class_embed(found), sigmoid(self.bbox_embed(found))
        *aux, out = [{"pred_logits": a, "pred_boxes": b} for a, b in zip(logits, boxes, strict=True)]
        return {**out, "aux_outputs": aux} if self.aux_loss else out

    def __call__(self, x: Image, mask: Padding | None = None, train: bool = False) -> dict[str, Any]:
        return self.predict(self.features(x, mask, train)[3])


@constructor(DETR, preprocess, block=Bottleneck, layers=(3, 4, 6, 3))
def detr_resnet50() -> None:
    """DETR with a ResNet-50, for COCO.

    Input: images (n, h, w, 3), pixels from 0 to 1, then normalised as for ImageNet, and the mask of their padding.
    """


@constructor(DETR, preprocess, block=Bottleneck, layers=(3, 4, 6, 3), dilation=True)
def detr_resnet50_dc5() -> None:
    """DETR with a ResNet-50, for COCO. Its last feature map is at 1/16 of the image.

    Input: images (n, h, w, 3), pixels from 0 to 1, then normalised as for ImageNet, and the mask of their padding.
    """


@constructor(DETR, preprocess, block=Bottleneck, layers=(3, 4, 23, 3))
def detr_resnet101() -> None:
    """DETR with a ResNet-101, for COCO.

    Input: images (n, h, w, 3), pixels from 0 to 1, then normalised as for ImageNet, and the mask of their padding.
    """


@constructor(DETR, preprocess, block=Bottleneck, layers=(3, 4, 23, 3), dilation=True)
def detr_resnet101_dc5() -> None:
    """DETR with a ResNet-101, for COCO. Its last feature map is at 1/16 of the image.

    Input: images (n, h, w, 3), pixels from 0 to 1, then normalised as for ImageNet, and the mask of their padding.
    """
