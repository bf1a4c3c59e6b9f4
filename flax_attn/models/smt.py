"""Scale-Aware Modulation Meet Transformer - Lin, Wu, Chen, Huang, Jin 2023, https://arxiv.org/abs/2307.08579

Follows: AFeng-x/SMT. Its released files ``smt_tiny.pth`` to ``smt_large_22k_384_ft.pth`` fit. The form for images of
384 pixels is the same network. The defaults of ``SMT`` are those of SMT-T.

Differs: ``SMTBlock`` and ``SMTHead`` are upstream's ``Block`` and ``Head``. Upstream's ``num_stages`` is the number of
``depths`` here. Upstream's ``img_size`` is left out, since images may have any size.

Assumed: images of 384 pixels are cropped in the same proportion as images of 224 pixels.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from flax_attn.blocks.sam import SAM, Mlp, SAMAttention, linear
from flax_attn.constructor import constructor
from flax_attn.layers import (
    BatchNorm2d,
    Conv2d,
    DropPath,
    LayerNorm,
    Module,
    ModuleList,
    Sequential,
    init,
    relu,
    require,
)
from flax_attn.models.preprocess import imagenet
from flax_attn.shapes import Features, Image, Photo, Scores, Tokens


def conv(inputs: int, outputs: int, kernel_size: int, stride: int, padding: int, bias: bool = True) -> Conv2d:
    """A convolution that starts with weights of He's normal distribution over its fan-out, and with bias 0."""
    normal = init.kaiming_normal("fan_out")
    return Conv2d(
        inputs,
        outputs,
        kernel_size,
        stride=stride,
        padding=padding,
        bias=bias,
        kernel_init=normal,
        bias_init=init.zeros,
    )


class SMTBlock(Module):
    """Adds two residual branches to the tokens x: first a modulation or a self-attention, then an ``Mlp``.

    Each branch begins with a LayerNorm.

    Args:
        ca_num_heads: number of heads of the modulation, unused where ``ca_attention`` is 0.
        sa_num_heads: number of heads of the self-attention, unused where ``ca_attention`` is 1.
        mlp_ratio: the hidden width of the ``Mlp`` as a multiple of ``dim``.
        use_layerscale: multiply each branch by a learned vector, which starts at ``layerscale_value``.
        drop_path: the probability that a branch is dropped for a sample.
        ca_attention: 1 for ``SAM``, 0 for ``SAMAttention``.
        expand_ratio: that of ``SAM``.
    """

    dim: int
    ca_num_heads: int = 4
    sa_num_heads: int = 8
    mlp_ratio: float = 4.0
    qkv_bias: bool = False
    qk_scale: float | None = None
    use_layerscale: bool = False
    layerscale_value: float = 1e-4
    drop: float = 0.0
    attn_drop: float = 0.0
    drop_path: float = 0.0
    ca_attention: int = 1
    expand_ratio: int = 2

    def setup(self) -> None:
        dim, qkv_bias, drop = self.dim, self.qkv_bias, self.drop
        self.norm1 = LayerNorm(dim, 1e-6)
        if self.ca_attention:
            self.attn: Module = SAM(dim, self.ca_num_heads, qkv_bias, proj_drop=drop, expand_ratio=self.expand_ratio)
        else:
            self.attn = SAMAttention(
                dim, self.sa_num_heads, qkv_bias, qk_scale=self.qk_scale, attn_drop=self.attn_drop, proj_drop=drop
            )
        self.drop_path1 = DropPath(self.drop_path)
        self.norm2 = LayerNorm(dim, 1e-6)
        self.mlp = Mlp(dim, int(dim * self.mlp_ratio), drop=drop)
        self.drop_path2 = DropPath(self.drop_path)
        if self.use_layerscale:
            self.gamma_1 = self.parameter("gamma_1", init.constant(self.layerscale_value), (dim,))
            self.gamma_2 = self.parameter("gamma_2", init.constant(self.layerscale_value), (dim,))

    def __call__(self, x: Tokens, H: int, W: int, train: bool = False) -> Tokens:
        x = self.cast(x)
        y = self.attn(self.norm1(x), H, W, train)
        x = x + self.drop_path1(y * self.cast(self.gamma_1) if self.use_layerscale else y, train)
        y = self.mlp(self.norm2(x), H, W, train)
        return x + self.drop_path2(y * self.cast(self.gamma_2) if self.use_layerscale else y, train)


class SMTHead(Module):
    """Two convolutions of stride 2, then a LayerNorm: a map of ``dim`` channels at a quarter of the size of x."""

    head_conv: int
    dim: int
    in_chans: int = 3

    def setup(self) -> None:
        padding = 3 if self.head_conv == 7 else 1
        dim = self.dim
        first = conv(self.in_chans, dim, self.head_conv, stride=2, padding=padding, bias=False)
        second = conv(dim, dim, 2, stride=2, padding=0)
        self.conv = Sequential([first, BatchNorm2d(dim), relu, second])
        self.norm = LayerNorm(dim)

    def __call__(self, x: Image, train: bool = False) -> Features:
        return self.norm(self.conv(x, train))


class OverlapPatchEmbed(Module):
    """A convolution, then a LayerNorm: a map of ``embed_dim`` channels at 1 / ``stride`` of the size of x."""

    in_chans: int
    embed_dim: int
    patch_size: int = 3
    stride: int = 2

    def setup(self) -> None:
        embed_dim, patch_size = self.embed_dim, self.patch_size
        self.proj = conv(self.in_chans, embed_dim, patch_size, stride=self.stride, padding=patch_size // 2)
        self.norm = LayerNorm(embed_dim)

    def __call__(self, x: Image, train: bool = False) -> Features:
        return self.norm(self.proj(x))


class SMT(Module):
    """Logits (n, num_classes) of images x (n, h, w, in_chans). ``features`` gives the maps of all stages.

    Args:
        num_classes: 0 for no classifier; the result is then the spatial mean of the last map.
        embed_dims, ca_num_heads, sa_num_heads, mlp_ratios: for each stage the arguments of its ``SMTBlock``. A number
            of heads that a stage does not use is -1.
        drop_rate: dropout rate at the end of every branch. attn_drop_rate: that of the weights of self-attention.
        drop_path_rate: the rate of ``drop_path`` of the last block. It rises evenly from 0 at the first block.
        depths: the number of blocks of each stage.
        ca_attentions: for each stage 1 where its blocks modulate. In the third stage every other block attends anyway.
        head_conv: kernel size of the first convolution.
    """

    in_chans: int = 3
    num_classes: int = 1000
    embed_dims: Sequence[int] = (64, 128, 256, 512)
    ca_num_heads: Sequence[int] = (4, 4, 4, -1)
    sa_num_heads: Sequence[int] = (-1, -1, 8, 16)
    mlp_ratios: Sequence[float] = (4.0, 4.0, 4.0, 2.0)
    qkv_bias: bool = True
    qk_scale: float | None = None
    use_layerscale: bool = False
    layerscale_value: float = 1e-4
    drop_rate: float = 0.0
    attn_drop_rate: float = 0.0
    drop_path_rate: float = 0.1
    depths: Sequence[int] = (2, 2, 8, 1)
    ca_attentions: Sequence[int] = (1, 1, 1, 0)
    head_conv: int = 3
    expand_ratio: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        each = (self.embed_dims, self.ca_num_heads, self.sa_num_heads, self.mlp_ratios, self.depths, self.ca_attentions)
        counts = [len(values) for values in each]
        names = "embed_dims, ca_num_heads, sa_num_heads, mlp_ratios, depths and ca_attentions"
        require(min(counts) == max(counts) >= 1, f"SMT: expected {names} of one length, got {counts}")

    def setup(self) -> None:
        for i, dim in enumerate(self.embed_dims):
            setattr(self, f"patch_embed{i + 1}", self.embed(i))
            setattr(self, f"block{i + 1}", ModuleList([self.block(i, j) for j in range(self.depths[i])]))
            setattr(self, f"norm{i + 1}", LayerNorm(dim, 1e-6))
        if self.num_classes:
            self.head = linear(self.embed_dims[-1], self.num_classes)

    def embed(self, i: int) -> SMTHead | OverlapPatchEmbed:
        """The patch embedding of stage ``i``."""
        dim = self.embed_dims[i]
        return OverlapPatchEmbed(self.embed_dims[i - 1], dim) if i else SMTHead(self.head_conv, dim, self.in_chans)

    def block(self, i: int, j: int) -> SMTBlock:
        """Block ``j`` of stage ``i``."""
        return SMTBlock(
            dim=self.embed_dims[i],
            ca_num_heads=self.ca_num_heads[i],
            sa_num_heads=self.sa_num_heads[i],
            mlp_ratio=self.mlp_ratios[i],
            qkv_bias=self.qkv_bias,
            qk_scale=self.qk_scale,
            use_layerscale=self.use_layerscale,
            layerscale_value=self.layerscale_value,
            drop=self.drop_rate,
            attn_drop=self.attn_drop_rate,
            drop_path=self.drop_path_rate * (sum(self.depths[:i]) + j) / max(1, sum(self.depths) - 1),
            ca_attention=0 if i == 2 and j % 2 else self.ca_attentions[i],
            expand_ratio=self.expand_ratio,
        )

    def features(self, x: Image, train: bool = False) -> list[Features]:
        """The normalised map of each stage, at 1/4, 1/8, 1/16 and 1/32 of the size of x."""
        x = self.cast(x)
        maps = []
        for i in range(1, len(self.depths) + 1):
            x = getattr(self, f"patch_embed{i}")(x, train)
            n, H, W, c = x.shape
            x = x.reshape(n, H * W, c)
            for block in getattr(self, f"block{i}"):
                x = block(x, H, W, train)
            x = getattr(self, f"norm{i}")(x).reshape(n, H, W, c)
            maps.append(x)
        return maps

    def __call__(self, x: Image, train: bool = False) -> Scores:
        x = self.features(x, train)[-1].mean((1, 2))
        return self.head(x) if self.num_classes else x


def preprocess(image: Photo, size: int = 224) -> Float[np.ndarray, "s t c"]:
    """The evaluation pipeline of ImageNet with bicubic resizing. ``size`` is 384 for ``smt_large_22k_384_ft.pth``."""
    return imagenet(image, size, int(256 / 224 * size), mode="bicubic")


@constructor(SMT, preprocess)
def smt_tiny() -> None:
    """SMT-T: 11.5 million parameters.

    Input: images (n, 224, 224, 3), pixels from 0 to 1, then normalised as for ImageNet.
    """


@constructor(SMT, preprocess, drop_path_rate=0.2, depths=(3, 4, 18, 2))
def smt_small() -> None:
    """SMT-S: deeper than SMT-T.

    Input: images (n, 224, 224, 3), pixels from 0 to 1, then normalised as for ImageNet.
    """


@constructor(SMT, preprocess, mlp_ratios=(8.0, 6.0, 4.0, 2.0), drop_path_rate=0.3, depths=(4, 6, 28, 2), head_conv=7)
def smt_base() -> None:
    """SMT-B: deeper than SMT-S, with wider ``Mlp``s and a first convolution of 7x7.

    Input: images (n, 224, 224, 3), pixels from 0 to 1, then normalised as for ImageNet.
    """


@constructor(
    SMT,
    preprocess,
    embed_dims=(96, 192, 384, 768),
    mlp_ratios=(8.0, 6.0, 4.0, 2.0),
    use_layerscale=True,
    drop_path_rate=0.4,
    depths=(4, 6, 28, 4),
    head_conv=7,
)
def smt_large() -> None:
    """SMT-L as released, with layer scale: 80.6 million parameters.

    Input: images (n, 224, 224, 3), pixels from 0 to 1, then normalised as for ImageNet.
    """
