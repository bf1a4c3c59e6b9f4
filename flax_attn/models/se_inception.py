"""Squeeze-and-Excitation Networks - Hu, Shen, Sun 2018, https://arxiv.org/abs/1709.01507

Follows: moskomule/senet.pytorch: torchvision's Inception v3 with an SELayer in each Mixed block and in the auxiliary
classifier. The forward pass of that code never calls the SELayers: their weights are in the files and do nothing.
Differs: ``gated=True``, which lets the SELayers take part, is ours, as is any size other than 299x299. Upstream returns
the auxiliary scores whenever it trains; here ``aux=True`` asks for them.
Assumed: initialisation as in torchvision.
"""

import jax.numpy as jnp

from flax_attn.blocks.inception import (
    BasicConv2d,
    InceptionA,
    InceptionAux,
    InceptionB,
    InceptionC,
    InceptionD,
    InceptionE,
    chain,
)
from flax_attn.constructor import constructor
from flax_attn.layers import Dropout, Linear, Module, init, max_pool, require
from flax_attn.models.preprocess import IMAGENET_MEAN, IMAGENET_STD, imagenet
from flax_attn.shapes import Image, Photo, Resized, Scores


class _Inception3(Module):
    num_classes: int
    aux_logits: bool
    transform_input: bool
    gated: bool
    dropout_p: float

    def setup(self) -> None:
        gated = self.gated
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
        if self.aux_logits:
            self.AuxLogits = InceptionAux(768, self.num_classes, gated=gated)
        self.Mixed_7a = InceptionD(768, gated=gated)
        self.Mixed_7b = InceptionE(1280, gated=gated)
        self.Mixed_7c = InceptionE(2048, gated=gated)
        self.dropout = Dropout(self.dropout_p)
        self.fc = Linear(2048, self.num_classes, kernel_init=init.normal(0.1))

    def __call__(self, x: Image, train: bool = False, aux: bool = False) -> Scores | tuple[Scores, Scores]:
        x = self.cast(x)
        if self.transform_input:
            x = x * jnp.asarray(IMAGENET_STD, x.dtype) / 0.5 + (jnp.asarray(IMAGENET_MEAN, x.dtype) - 0.5) / 0.5
        x = chain(x, train, self.Conv2d_1a_3x3, self.Conv2d_2a_3x3, self.Conv2d_2b_3x3)
        x = chain(max_pool(x, 3, 2), train, self.Conv2d_3b_1x1, self.Conv2d_4a_3x3)
        x = chain(max_pool(x, 3, 2), train, self.Mixed_5b, self.Mixed_5c, self.Mixed_5d)
        x = chain(x, train, self.Mixed_6a, self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e)
        if self.is_initializing() and self.aux_logits:
            self.AuxLogits(jnp.zeros((1, 17, 17, 768), x.dtype))
        scores = self.AuxLogits(x, train) if aux else None
        x = chain(x, train, self.Mixed_7a, self.Mixed_7b, self.Mixed_7c).mean((1, 2))
        x = self.fc(self.dropout(x, train))
        return x if scores is None else (x, scores)


class SEInception3(Module):
    """Class scores (n, num_classes) of images x (n, h, w, 3) of at least 75x75 pixels.

    Args:
        aux_logits: whether there is an auxiliary classifier. A call with ``aux=True`` returns the scores and the
            auxiliary scores; images must then have at least 299x299 pixels.
        transform_input: whether x, normalised as for ImageNet, is first rescaled to [-1, 1].
        gated: whether the SELayers take part.
        dropout: the probability with which a feature in front of the classifier is dropped.
    """

    num_classes: int = 1000
    aux_logits: bool = True
    transform_input: bool = False
    gated: bool = False
    dropout: float = 0.5

    def setup(self) -> None:
        self.model = _Inception3(
            self.num_classes, self.aux_logits, self.transform_input, gated=self.gated, dropout_p=self.dropout
        )

    def __call__(self, x: Image, train: bool = False, aux: bool = False) -> Scores | tuple[Scores, Scores]:
        require(
            self.aux_logits or not aux, "SEInception3: expected aux=True only with aux_logits, got aux_logits=False"
        )
        return self.model(x, train, aux)


def preprocess(image: Photo) -> Resized:
    """The network's input from an RGB image: shorter side 299, the middle 299x299, normalised as for ImageNet."""
    return imagenet(image, 299, 299)


@constructor(SEInception3, preprocess)
def se_inception_v3() -> None:
    """moskomule's ``se_inception_v3``.

    Input: images (n, 299, 299, 3), pixels from 0 to 1, then normalised as for ImageNet.
    """
