"""Squeeze-and-Excitation Networks - Hu, Shen, Sun 2018, https://arxiv.org/abs/1709.01507"""

from torch import Tensor
from torch.nn import Dropout, Linear, Module, init
from torch.nn.functional import max_pool2d

from torch_ref.blocks.inception import (
    BasicConv2d,
    InceptionA,
    InceptionAux,
    InceptionB,
    InceptionC,
    InceptionD,
    InceptionE,
    chain,
)
from torch_ref.constructor import constructor
from torch_ref.models.preprocess import IMAGENET_MEAN, IMAGENET_STD, imagenet


class _Inception3(Module):
    def __init__(self, num_classes, aux_logits, transform_input, gated, dropout_p):
        super().__init__()
        self.transform_input = transform_input
        self.Conv2d_1a_3x3 = BasicConv2d(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = BasicConv2d(32, 32, 3)
        self.Conv2d_2b_3x3 = BasicConv2d(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = BasicConv2d(64, 80, 1)
        self.Conv2d_4a_3x3 = BasicConv2d(80, 192, 3)
        self.Mixed_5b = InceptionA(192, 32, gated=gated)
        self.Mixed_5c = InceptionA(256, 64, gated=gated)
        self.Mixed_5d = InceptionA(288, 64, gated=gated)
        self.Mixed_6a = InceptionB(288, gated=gated)
        self.Mixed_6b = InceptionC(768, 128, gated=gated)
        self.Mixed_6c = InceptionC(768, 160, gated=gated)
        self.Mixed_6d = InceptionC(768, 160, gated=gated)
        self.Mixed_6e = InceptionC(768, 192, gated=gated)
        if aux_logits:
            self.AuxLogits = InceptionAux(768, num_classes, gated=gated)
        self.Mixed_7a = InceptionD(768, gated=gated)
        self.Mixed_7b = InceptionE(1280, gated=gated)
        self.Mixed_7c = InceptionE(2048, gated=gated)
        self.dropout = Dropout(dropout_p)
        self.fc = Linear(2048, num_classes)
        init.normal_(self.fc.weight, std=0.1)

    def forward(self, x: Tensor, aux: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        if self.transform_input:
            mean, std = (x.new_tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
            x = x * std / 0.5 + (mean - 0.5) / 0.5
        x = chain(x, self.Conv2d_1a_3x3, self.Conv2d_2a_3x3, self.Conv2d_2b_3x3)
        x = chain(max_pool2d(x, 3, 2), self.Conv2d_3b_1x1, self.Conv2d_4a_3x3)
        x = chain(max_pool2d(x, 3, 2), self.Mixed_5b, self.Mixed_5c, self.Mixed_5d)
        x = chain(x, self.Mixed_6a, self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e)
        scores = self.AuxLogits(x) if aux else None
        x = chain(x, self.Mixed_7a, self.Mixed_7b, self.Mixed_7c).mean((2, 3))
        x = self.fc(self.dropout(x))
        return x if scores is None else (x, scores)


class SEInception3(Module):
    def __init__(self, num_classes=1000, aux_logits=True, transform_input=False, gated=False, dropout=0.5):
        super().__init__()
        self.aux_logits = aux_logits
        self.model = _Inception3(num_classes, aux_logits, transform_input, gated=gated, dropout_p=dropout)

    def forward(self, x: Tensor, aux: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        if aux and not self.aux_logits:
            raise ValueError("SEInception3: expected aux=True only with aux_logits, got aux_logits=False")
        return self.model(x, aux)


def preprocess(image: Tensor) -> Tensor:
    return imagenet(image, 299, 299)


@constructor(SEInception3, preprocess)
def se_inception_v3(): ...
