"""End-to-End Object Detection with Transformers - Carion, Massa, Synnaeve et al. 2020, https://arxiv.org/abs/2005.12872"""

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import Conv2d, GroupNorm, Module, init
from torch.nn.functional import interpolate, relu

from torch_ref.blocks.attention_map import MHAttentionMap
from torch_ref.blocks.resnet import Bottleneck
from torch_ref.constructor import constructor
from torch_ref.models.detr.network import DETR
from torch_ref.models.detr.preprocess import preprocess


class MaskHeadSmallConv(Module):
    def __init__(self, dim, fpn_dims, context_dim):
        super().__init__()
        widths = [dim, dim, *[context_dim // 2**i for i in range(1, 5)]]
        for i, (a, b) in enumerate(pairwise(widths), 1):
            setattr(self, f"lay{i}", Conv2d(a, b, 3, padding=1))
            setattr(self, f"gn{i}", GroupNorm(8, b))
        self.out_lay = Conv2d(widths[-1], 1, 3, padding=1)
        for i, width in enumerate(fpn_dims, 1):
            setattr(self, f"adapter{i}", Conv2d(width, widths[i + 1], 1))
        for m in self.modules():
            if isinstance(m, Conv2d):
                init.kaiming_uniform_(m.weight, a=1)
                init.zeros_(m.bias)

    def convolve(self, i, x: Tensor) -> Tensor:
        return relu(getattr(self, f"gn{i}")(getattr(self, f"lay{i}")(x)))

    def forward(self, x: Tensor, bbox_mask: Tensor, layer3: Tensor, layer2: Tensor, layer1: Tensor) -> Tensor:
        n, q, *_ = bbox_mask.shape
        x = torch.cat([x.repeat_interleave(q, 0), bbox_mask.flatten(0, 1)], 1)
        x = self.convolve(2, self.convolve(1, x))
        for i, fpn in enumerate((layer3, layer2, layer1), 1):
            fpn = getattr(self, f"adapter{i}")(fpn)
            x = fpn.repeat_interleave(q, 0) + interpolate(x, fpn.shape[2:])
            x = self.convolve(i + 2, x)
        return self.out_lay(x).reshape(n, q, *x.shape[2:])


class DETRsegm(Module):
    def __init__(self, detr):
        super().__init__()
        self.detr = detr
        dim, heads, expansion = detr.hidden_dim, detr.nheads, detr.block.expansion
        self.bbox_attention = MHAttentionMap(dim, dim, heads)
        self.mask_head = MaskHeadSmallConv(dim + heads, [width * expansion for width in (256, 128, 64)], dim)

    def forward(self, x: Tensor, mask=None) -> dict:
        (layer1, layer2, layer3, _), src, padding, found, memory = self.detr.features(x, mask)
        bbox_mask = self.bbox_attention(found[-1], memory, padding)
        masks = self.mask_head(src, bbox_mask, layer3, layer2, layer1)
        return {**self.detr.predict(found), "pred_masks": masks}


@constructor(DETR, preprocess, DETRsegm, block=Bottleneck, layers=(3, 4, 6, 3), num_classes=250)
def detr_resnet50_panoptic(): ...


@constructor(DETR, preprocess, DETRsegm, block=Bottleneck, layers=(3, 4, 6, 3), num_classes=250, dilation=True)
def detr_resnet50_dc5_panoptic(): ...


@constructor(DETR, preprocess, DETRsegm, block=Bottleneck, layers=(3, 4, 23, 3), num_classes=250)
def detr_resnet101_panoptic(): ...
