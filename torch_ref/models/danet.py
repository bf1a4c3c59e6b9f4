"""Dual Attention Network for Scene Segmentation - Fu, Liu, Tian et al. 2019, https://arxiv.org/abs/1809.02983"""

from torch import Tensor
from torch.nn import Module
from torch.nn.functional import interpolate

from torch_ref.blocks.danet import DANetHead
from torch_ref.blocks.resnet import Bottleneck
from torch_ref.constructor import constructor
from torch_ref.models.preprocess import normalize
from torch_ref.models.resnet import ResNet


class DANet(Module):
    def __init__(self, num_classes, layers=(3, 4, 23, 3), deep_stem=True, multi_grid=(4, 8, 16), dropout=0.1):
        super().__init__()
        if multi_grid is not None and len(multi_grid) != layers[-1]:
            expected = f"DANet: expected a dilation for each of the last stage's {layers[-1]} blocks"
            raise ValueError(f"{expected}, got {multi_grid}")
        stem, dilated = 64 if deep_stem else None, (False, True, True)
        self.pretrained = ResNet(
            Bottleneck,
            layers,
            num_classes=0,
            replace_stride_with_dilation=dilated,
            stem_width=stem,
            multi_grid=multi_grid,
        )
        width = 32 * 2 ** len(layers) * Bottleneck.expansion
        self.head = DANetHead(width, num_classes, dropout=dropout)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        both, position, channel = self.head(self.pretrained.features(x)[-1])
        return upsample(both, x), upsample(position, x), upsample(channel, x)


def upsample(scores: Tensor, x: Tensor) -> Tensor:
    return interpolate(scores, x.shape[2:], mode="bilinear", align_corners=True)


preprocess = normalize


@constructor(DANet, preprocess, num_classes=19, layers=(3, 4, 6, 3), multi_grid=None)
def danet_resnet50(): ...


@constructor(DANet, preprocess, num_classes=19, deep_stem=False)
def danet_resnet101(): ...
