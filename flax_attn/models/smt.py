"""Scale-Aware Modulation Meet Transformer - Lin, Wu, Chen, Huang, Jin 2023, https://arxiv.org/abs/2307.08579

Status: AFeng-x/SMT, for its released files ``smt_tiny.pth`` to ``smt_large_22k_384_ft.pth``: the 384 pixel form is the
same network. Its ``Block`` and ``Head`` are ``SMTBlock`` and ``SMTHead`` here; ``num_stages`` is the number of
``depths``, and ``img_size`` is gone, since images may have any size. Defaults of ``SMT`` are those of SMT-T.
Input is ImageNet's: shorter side to 256 (bicubic), the centre 224 x 224, normalised by ImageNet's mean and deviation.
"""

from collections.abc import Sequence

from flax_attn.blocks.sam import SAM, Mlp, SAMAttention, linear
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
from flax_attn.shapes import Features, Image, Scores, Tokens


def conv(inputs: int, outputs: int, kernel_size: int, stride: int, padding: int, bias: bool = True) -> Conv2d:
    """Weights N(0, 2/fan) with what leaves as the fan, bias 0."""
    arguments = (inputs, outputs, kernel_size, stride, padding, 1, 1, bias)
    return Conv2d(*arguments, kernel_init=init.kaiming_normal("fan_out"), bias_init=init.zeros)


class SMTBlock(Module):
    """The tokens x plus their modulation or self-attention, plus an ``Mlp`` of that; each branch behind a LayerNorm.

    Args:
        ca_num_heads: heads of the modulation, unused where ``ca_attention`` is 0.
        sa_num_heads: heads of the self-attention, unused where ``ca_attention`` is 1.
        mlp_ratio: width between the two layers of the ``Mlp``, in widths of the tokens.
        use_layerscale: multiply each branch by a vector, ``layerscale_value`` at first.
        drop_path: the probability that a sample goes without a branch.
        ca_attention: 1 for ``SAM``, 0 for ``SAMAttention``.
        expand_ratio: of the ``SAM``.
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
        self.norm1 = LayerNorm(self.dim, 1e-6)
        if self.ca_attention:
            self.attn: Module = SAM(self.dim, self.ca_num_heads, self.qkv_bias, self.drop, self.expand_ratio)
        else:
            scales = (self.qkv_bias, self.qk_scale, self.attn_drop, self.drop)
            self.attn = SAMAttention(self.dim, self.sa_num_heads, *scales)
        self.drop_path1 = DropPath(self.drop_path)
        self.norm2 = LayerNorm(self.dim, 1e-6)
        self.mlp = Mlp(self.dim, int(self.dim * self.mlp_ratio), drop=self.drop)
        self.drop_path2 = DropPath(self.drop_path)
        if self.use_layerscale:
            self.gamma_1 = self.parameter("gamma_1", init.constant(self.layerscale_value), (self.dim,))
            self.gamma_2 = self.parameter("gamma_2", init.constant(self.layerscale_value), (self.dim,))

    def __call__(self, x: Tokens, H: int, W: int, train: bool = False) -> Tokens:
        x = self.cast(x)
        y = self.attn(self.norm1(x), H, W, train)
        x = x + self.drop_path1(y * self.cast(self.gamma_1) if self.use_layerscale else y, train)
        y = self.mlp(self.norm2(x), H, W, train)
        return x + self.drop_path2(y * self.cast(self.gamma_2) if self.use_layerscale else y, train)


class SMTHead(Module):
    """A map of ``dim`` channels at a quarter of the size of x: two convolutions of stride 2, then a LayerNorm."""

    head_conv: int
    dim: int
    in_chans: int = 3

    def setup(self) -> None:
        padding = 3 if self.head_conv == 7 else 1
        first = conv(self.in_chans, self.dim, self.head_conv, 2, padding, bias=False)
        self.conv = Sequential([first, BatchNorm2d(self.dim), relu, conv(self.dim, self.dim, 2, 2, 0)])
        self.norm = LayerNorm(self.dim)

    def __call__(self, x: Image, train: bool = False) -> Features:
        return self.norm(self.conv(x, train))


class OverlapPatchEmbed(Module):
    """A map of ``embed_dim`` channels at 1 / ``stride`` of the size of x: one convolution, then a LayerNorm."""

    in_chans: int
    embed_dim: int
    patch_size: int = 3
    stride: int = 2

    def setup(self) -> None:
        self.proj = conv(self.in_chans, self.embed_dim, self.patch_size, self.stride, self.patch_size // 2)
        self.norm = LayerNorm(self.embed_dim)

    def __call__(self, x: Image, train: bool = False) -> Features:
        return self.norm(self.proj(x))


class SMT(Module):
    """Class scores (n, num_classes) of images x (n, h, w, in_chans); ``features`` gives the maps of all stages.

    Args:
        num_classes: 0 for no classifier, and the spatial mean of the last map as the result.
        embed_dims, ca_num_heads, sa_num_heads, mlp_ratios, depths: of each stage, ``SMTBlock``'s and how many blocks;
            -1 for heads that a stage does not have.
        drop_rate: of what every branch gives. attn_drop_rate: of the weights of self-attention.
        drop_path_rate: of the last block; it rises evenly from 0 at the first.
        ca_attentions: for each stage, whether its blocks modulate; of the third stage every other block attends anyway.
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
        expected = (
            "SMT: expected one of embed_dims, ca_num_heads, sa_num_heads, mlp_ratios, depths, ca_attentions a stage"
        )
        require(min(counts) == max(counts) >= 1, f"{expected}, got {counts}")

    def setup(self) -> None:
        for i, dim in enumerate(self.embed_dims):
            first = i == 0
            embed = (
                SMTHead(self.head_conv, dim, self.in_chans) if first else OverlapPatchEmbed(self.embed_dims[i - 1], dim)
            )
            setattr(self, f"patch_embed{i + 1}", embed)
            setattr(self, f"block{i + 1}", ModuleList([self.block(i, j) for j in range(self.depths[i])]))
            setattr(self, f"norm{i + 1}", LayerNorm(dim, 1e-6))
        if self.num_classes:
            self.head = linear(self.embed_dims[-1], self.num_classes)

    def block(self, i: int, j: int) -> SMTBlock:
        """Block ``j`` of stage ``i``."""
        attention = 0 if i == 2 and j % 2 else self.ca_attentions[i]
        rate = self.drop_path_rate * (sum(self.depths[:i]) + j) / max(1, sum(self.depths) - 1)
        each = (self.embed_dims[i], self.ca_num_heads[i], self.sa_num_heads[i], self.mlp_ratios[i])
        scales = (self.qkv_bias, self.qk_scale, self.use_layerscale, self.layerscale_value)
        return SMTBlock(*each, *scales, self.drop_rate, self.attn_drop_rate, rate, attention, self.expand_ratio)

    def features(self, x: Image, train: bool = False) -> list[Features]:
        """The normalised map of each stage: 1/4, 1/8, 1/16 and 1/32 of the size of x."""
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


def smt_tiny(num_classes: int = 1000) -> SMT:
    """SMT-T: 11.5 million parameters."""
    return SMT(num_classes=num_classes)


def smt_small(num_classes: int = 1000) -> SMT:
    """SMT-S: deeper than SMT-T."""
    return SMT(num_classes=num_classes, drop_path_rate=0.2, depths=(3, 4, 18, 2))


def smt_base(num_classes: int = 1000) -> SMT:
    """SMT-B: deeper still, with wider ``Mlp``s and a 7x7 convolution at first."""
    ratios, depths = (8.0, 6.0, 4.0, 2.0), (4, 6, 28, 2)
    return SMT(num_classes=num_classes, mlp_ratios=ratios, drop_path_rate=0.3, depths=depths, head_conv=7)


def smt_large(num_classes: int = 1000) -> SMT:
    """SMT-L as released, with layer scale: 80.6 million parameters."""
    widths, ratios, depths = (96, 192, 384, 768), (8.0, 6.0, 4.0, 2.0), (4, 6, 28, 4)
    sizes = (3, num_classes, widths)
    return SMT(*sizes, mlp_ratios=ratios, use_layerscale=True, drop_path_rate=0.4, depths=depths, head_conv=7)
