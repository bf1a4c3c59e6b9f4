"""End-to-End Object Detection with Transformers - Carion, Massa, Synnaeve et al. 2020, https://arxiv.org/abs/2005.12872"""

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import Conv2d, Embedding, Linear, Module, ModuleList
from torch.nn.functional import interpolate, relu, sigmoid

from torch_ref.blocks.position import PositionEmbeddingLearned, PositionEmbeddingSine
from torch_ref.blocks.resnet import Bottleneck
from torch_ref.blocks.transformer import Transformer
from torch_ref.constructor import constructor
from torch_ref.layers.norm import FrozenBatchNorm2d
from torch_ref.models.detr.preprocess import preprocess
from torch_ref.models.resnet import ResNet


def mask_like(mask: Tensor, x: Tensor) -> Tensor:
    return interpolate(mask[None].float(), x.shape[2:])[0].bool()


class Backbone(Module):
    def __init__(self, block, layers, dilation=False):
        super().__init__()
        dilations = (False, False, dilation)
        self.body = ResNet(
            block,
            layers,
            num_classes=0,
            replace_stride_with_dilation=dilations,
            norm_layer=FrozenBatchNorm2d,
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        return self.body.features(x)


class Joiner(Module):
    def __init__(self, block, layers, hidden_dim=256, position_embedding="sine", dilation=False):
        super().__init__()
        if position_embedding not in ("sine", "learned"):
            expected = "Joiner: expected position_embedding 'sine' or 'learned'"
            raise ValueError(f"{expected}, got {position_embedding!r}")
        setattr(self, "0", Backbone(block, layers, dilation))
        half, sine = hidden_dim // 2, position_embedding == "sine"
        setattr(self, "1", PositionEmbeddingSine(half, normalize=True) if sine else PositionEmbeddingLearned(half))

    def forward(self, x: Tensor, mask: Tensor) -> tuple[list[Tensor], Tensor]:
        maps = getattr(self, "0")(x)
        return maps, getattr(self, "1")(maps[-1], mask_like(mask, maps[-1]))


class MLP(Module):
    def __init__(self, input_dim, hidden_dim, output_dim, num_layers):
        super().__init__()
        widths = [input_dim, *[hidden_dim] * (num_layers - 1), output_dim]
        self.layers = ModuleList([Linear(a, b) for a, b in pairwise(widths)])

    def forward(self, x: Tensor) -> Tensor:
        for i, layer in enumerate(self.layers):
            x = layer(x) if i == 0 else layer(relu(x))
        return x


class DETR(Module):
    def __init__(
        self,
        block,
        layers,
        num_classes=91,
        num_queries=100,
        aux_loss=False,
        hidden_dim=256,
        nheads=8,
        enc_layers=6,
        dec_layers=6,
        dim_feedforward=2048,
        dropout=0.1,
        pre_norm=False,
        position_embedding="sine",
        dilation=False,
    ):
        super().__init__()
        self.block, self.layers, self.aux_loss = block, layers, aux_loss
        self.hidden_dim, self.nheads = hidden_dim, nheads
        dim, norm_first = hidden_dim, pre_norm
        self.transformer = Transformer(
            dim,
            nheads,
            enc_layers,
            num_decoder_layers=dec_layers,
            dim_feedforward=dim_feedforward,
            dropout=dropout,
            normalize_before=norm_first,
            return_intermediate_dec=True,
        )
        self.class_embed = Linear(dim, num_classes + 1)
        self.bbox_embed = MLP(dim, dim, 4, num_layers=3)
        self.query_embed = Embedding(num_queries, dim)
        self.input_proj = Conv2d(64 * 2 ** (len(layers) - 1) * block.expansion, dim, 1)
        self.backbone = Joiner(block, layers, dim, position_embedding=position_embedding, dilation=dilation)

    def features(self, x: Tensor, mask=None) -> tuple[list[Tensor], Tensor, Tensor, Tensor, Tensor]:
        if mask is None:
            mask = x.new_zeros(x[:, 0].shape, dtype=torch.bool)
        maps, pos = self.backbone(x, mask)
        src, padding = self.input_proj(maps[-1]), mask_like(mask, maps[-1])
        queries = self.query_embed.weight
        found, memory = self.transformer(src, padding, queries, pos)
        return maps, src, padding, found, memory

    def predict(self, found: Tensor) -> dict:
        logits, boxes = self.class_embed(found), sigmoid(self.bbox_embed(found))
        *aux, out = [{"pred_logits": a, "pred_boxes": b} for a, b in zip(logits, boxes, strict=True)]
        return {**out, "aux_outputs": aux} if self.aux_loss else out

    def forward(self, x: Tensor, mask=None) -> dict:
        return self.predict(self.features(x, mask)[3])


@constructor(DETR, preprocess, block=Bottleneck, layers=(3, 4, 6, 3))
def detr_resnet50(): ...


@constructor(DETR, preprocess, block=Bottleneck, layers=(3, 4, 6, 3), dilation=True)
def detr_resnet50_dc5(): ...


@constructor(DETR, preprocess, block=Bottleneck, layers=(3, 4, 23, 3))
def detr_resnet101(): ...


@constructor(DETR, preprocess, block=Bottleneck, layers=(3, 4, 23, 3), dilation=True)
def detr_resnet101_dc5(): ...
