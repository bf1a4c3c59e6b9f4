"""End-to-End Object Detection with Transformers - Carion, Massa, Synnaeve et al. 2020, https://arxiv.org/abs/2005.12872

Follows: the short network of facebookresearch/detr's notebook. It has a ``torch.nn.Transformer``, and adds a learned
position embedding to the input of the encoder, where DETR adds one to queries and keys.
Differs: upstream takes one image at a time; here a batch may have several images of one size, and nothing is padded.
The width of the feed-forward network, the dropout rate, the number of queries and the ResNet are arguments.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

from flax_attn.blocks.resnet import Bottleneck
from flax_attn.blocks.transformer import (
    TransformerDecoder,
    TransformerDecoderLayer,
    TransformerEncoder,
    TransformerEncoderLayer,
)
from flax_attn.constructor import constructor
from flax_attn.layers import Conv2d, LayerNorm, Linear, Module, init, require, sigmoid
from flax_attn.models.detr.preprocess import preprocess
from flax_attn.models.resnet import Block, ResNet
from flax_attn.shapes import Image, Tokens


class _Transformer(Module):
    d_model: int
    nhead: int
    num_encoder_layers: int
    num_decoder_layers: int
    dim_feedforward: int
    dropout: float

    def setup(self) -> None:
        d_model, nhead, xavier = self.d_model, self.nhead, init.xavier_uniform()
        encoder_layer = TransformerEncoderLayer(
            d_model, nhead, self.dim_feedforward, dropout=self.dropout, kernel_init=xavier
        )
        self.encoder = TransformerEncoder(encoder_layer, self.num_encoder_layers, LayerNorm(self.d_model))
        decoder_layer = TransformerDecoderLayer(
            d_model, nhead, self.dim_feedforward, dropout=self.dropout, kernel_init=xavier
        )
        self.decoder = TransformerDecoder(decoder_layer, self.num_decoder_layers, LayerNorm(self.d_model))

    def __call__(self, src: Float[Array, "n m c"], tgt: Tokens, train: bool = False) -> Tokens:
        return self.decoder(tgt, self.encoder(src, train=train), train=train)[0]


class DETRdemo(Module):
    """Classes and boxes of ``num_queries`` objects in each of the images x (n, h, w, 3), of one size and normalised.

    Args:
        block, layers: those of ``ResNet``.
        num_classes: the largest class id + 1. There is one more logit, for "no object".

    The result is a dict of "pred_logits" (n, q, num_classes + 1) and "pred_boxes" (n, q, 4): centre x, centre y, width
    and height, relative to the image. Raises ValueError for a feature map of more than 50 rows or columns.
    """

    block: Block
    layers: Sequence[int]
    num_classes: int = 91
    hidden_dim: int = 256
    nheads: int = 8
    num_encoder_layers: int = 6
    num_decoder_layers: int = 6
    dim_feedforward: int = 2048
    dropout: float = 0.1
    num_queries: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        dim, heads = self.hidden_dim, self.nheads
        divides = heads >= 1 and dim >= 2 and dim % 2 == 0 and dim % heads == 0
        require(divides, f"DETRdemo: expected 2 and nheads={heads} to divide hidden_dim, got {dim}")

    def setup(self) -> None:
        dim, half = self.hidden_dim, self.hidden_dim // 2
        self.query_pos = self.parameter("query_pos", init.uniform(0.0, 1.0), (self.num_queries, dim))
        self.row_embed = self.parameter("row_embed", init.uniform(0.0, 1.0), (50, half))
        self.col_embed = self.parameter("col_embed", init.uniform(0.0, 1.0), (50, half))
        self.backbone = ResNet(self.block, self.layers, 0)
        self.conv = Conv2d(64 * 2 ** (len(self.layers) - 1) * self.block.expansion, dim, 1)
        self.transformer = _Transformer(
            dim,
            self.nheads,
            self.num_encoder_layers,
            num_decoder_layers=self.num_decoder_layers,
            dim_feedforward=self.dim_feedforward,
            dropout=self.dropout,
        )
        self.linear_class = Linear(dim, self.num_classes + 1)
        self.linear_bbox = Linear(dim, 4)

    def position(self, h: int, w: int) -> Float[Array, "m c"]:
        """The embedding of each pixel: that of its column, then that of its row."""
        require(max(h, w) <= 50, f"DETRdemo: expected a map of at most 50 rows and columns, got {h}, {w}")
        shape = (h, w, self.hidden_dim // 2)
        pair = jnp.broadcast_to(self.col_embed[:w], shape), jnp.broadcast_to(self.row_embed[:h, None], shape)
        return jnp.concatenate(pair, -1).reshape(h * w, self.hidden_dim)

    def __call__(self, x: Image, train: bool = False) -> dict[str, Array]:
        x = self.conv(self.backbone.features(x, train)[-1])
        n, h, w, c = x.shape
        src, pos, tgt = self.promote(0.1 * x.reshape(n, h * w, c), self.position(h, w), self.query_pos)
        found = self.transformer(pos + src, jnp.broadcast_to(tgt, (n, *tgt.shape)), train)
        return {"pred_logits": self.linear_class(found), "pred_boxes": sigmoid(self.linear_bbox(found))}


@constructor(DETRdemo, preprocess, block=Bottleneck, layers=(3, 4, 6, 3))
def detr_demo() -> None:
    """The notebook's network, for COCO.

    Input: images (n, h, w, 3), pixels from 0 to 1, then normalised as for ImageNet.
    """
