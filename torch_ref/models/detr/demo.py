"""End-to-End Object Detection with Transformers - Carion, Massa, Synnaeve et al. 2020, https://arxiv.org/abs/2005.12872"""

import torch
from torch import Tensor
from torch.nn import Conv2d, Linear, Module, Parameter, Transformer
from torch.nn.functional import sigmoid

from torch_ref.blocks.resnet import Bottleneck
from torch_ref.constructor import constructor
from torch_ref.models.detr.preprocess import preprocess
from torch_ref.models.resnet import ResNet


class _Transformer(Transformer):
    def __init__(self, d_model, nhead, num_encoder_layers, num_decoder_layers, dim_feedforward, dropout):
        super().__init__(
            d_model,
            nhead,
            num_encoder_layers,
            num_decoder_layers=num_decoder_layers,
            dim_feedforward=dim_feedforward,
            dropout=dropout,
            batch_first=True,
        )


class DETRdemo(Module):
    def __init__(
        self,
        block,
        layers,
        num_classes=91,
        hidden_dim=256,
        nheads=8,
        num_encoder_layers=6,
        num_decoder_layers=6,
        dim_feedforward=2048,
        dropout=0.1,
        num_queries=100,
    ):
        super().__init__()
        dim, half = hidden_dim, hidden_dim // 2
        self.query_pos = Parameter(torch.rand(num_queries, dim))
        self.row_embed = Parameter(torch.rand(50, half))
        self.col_embed = Parameter(torch.rand(50, half))
        self.backbone = ResNet(block, layers, 0)
        self.conv = Conv2d(64 * 2 ** (len(layers) - 1) * block.expansion, dim, 1)
        self.transformer = _Transformer(
            dim,
            nheads,
            num_encoder_layers,
            num_decoder_layers=num_decoder_layers,
            dim_feedforward=dim_feedforward,
            dropout=dropout,
        )
        self.linear_class = Linear(dim, num_classes + 1)
        self.linear_bbox = Linear(dim, 4)

    def position(self, h, w) -> Tensor:
        pair = self.col_embed[:w].expand(h, w, -1), self.row_embed[:h, None].expand(h, w, -1)
        return torch.cat(pair, -1).flatten(0, 1)

    def forward(self, x: Tensor) -> dict:
        x = self.conv(self.backbone.features(x)[-1])
        n, _, h, w = x.shape
        src, pos, tgt = 0.1 * x.flatten(2).mT, self.position(h, w), self.query_pos
        found = self.transformer(pos + src, tgt.expand(n, -1, -1))
        return {"pred_logits": self.linear_class(found), "pred_boxes": sigmoid(self.linear_bbox(found))}


@constructor(DETRdemo, preprocess, block=Bottleneck, layers=(3, 4, 6, 3))
def detr_demo(): ...
