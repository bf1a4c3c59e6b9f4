"""Scale-Aware Modulation Meet Transformer - Lin, Wu, Chen, Huang, Jin 2023, https://arxiv.org/abs/2307.08579"""

import torch
from torch import Tensor
from torch.nn import BatchNorm2d, Conv2d, LayerNorm, Module, ModuleList, Parameter, ReLU, Sequential, init

from torch_ref.blocks.sam import SAM, Mlp, SAMAttention, linear
from torch_ref.constructor import constructor
from torch_ref.layers.dropout import DropPath
from torch_ref.models.preprocess import imagenet


def conv(inputs, outputs, kernel_size, stride, padding, bias=True):
    layer = Conv2d(inputs, outputs, kernel_size, stride=stride, padding=padding, bias=bias)
    init.normal_(layer.weight, std=(2 / (kernel_size**2 * outputs)) ** 0.5)
    if layer.bias is not None:
        init.zeros_(layer.bias)
    return layer


class SMTBlock(Module):
    def __init__(
        self,
        dim,
        ca_num_heads=4,
        sa_num_heads=8,
        mlp_ratio=4.0,
        qkv_bias=False,
        qk_scale=None,
        use_layerscale=False,
        layerscale_value=1e-4,
        drop=0.0,
        attn_drop=0.0,
        drop_path=0.0,
        ca_attention=1,
        expand_ratio=2,
    ):
        super().__init__()
        self.use_layerscale = use_layerscale
        self.norm1 = LayerNorm(dim, 1e-6)
        if ca_attention:
            self.attn = SAM(dim, ca_num_heads, qkv_bias, proj_drop=drop, expand_ratio=expand_ratio)
        else:
            self.attn = SAMAttention(
                dim, sa_num_heads, qkv_bias, qk_scale=qk_scale, attn_drop=attn_drop, proj_drop=drop
            )
        self.drop_path1 = DropPath(drop_path)
        self.norm2 = LayerNorm(dim, 1e-6)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), drop=drop)
        self.drop_path2 = DropPath(drop_path)
        if use_layerscale:
            self.gamma_1 = Parameter(torch.full((dim,), layerscale_value))
            self.gamma_2 = Parameter(torch.full((dim,), layerscale_value))

    def forward(self, x: Tensor, H, W) -> Tensor:
        y = self.attn(self.norm1(x), H, W)
        x = x + self.drop_path1(y * self.gamma_1 if self.use_layerscale else y)
        y = self.mlp(self.norm2(x), H, W)
        return x + self.drop_path2(y * self.gamma_2 if self.use_layerscale else y)


class SMTHead(Module):
    def __init__(self, head_conv, dim, in_chans=3):
        super().__init__()
        padding = 3 if head_conv == 7 else 1
        first = conv(in_chans, dim, head_conv, stride=2, padding=padding, bias=False)
        second = conv(dim, dim, 2, stride=2, padding=0)
        self.conv = Sequential(first, BatchNorm2d(dim), ReLU(), second)
        self.norm = LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x).movedim(1, -1)).movedim(-1, 1)


class OverlapPatchEmbed(Module):
    def __init__(self, in_chans, embed_dim, patch_size=3, stride=2):
        super().__init__()
        self.proj = conv(in_chans, embed_dim, patch_size, stride=stride, padding=patch_size // 2)
        self.norm = LayerNorm(embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x).movedim(1, -1)).movedim(-1, 1)


class SMT(Module):
    def __init__(
        self,
        in_chans=3,
        num_classes=1000,
        embed_dims=(64, 128, 256, 512),
        ca_num_heads=(4, 4, 4, -1),
        sa_num_heads=(-1, -1, 8, 16),
        mlp_ratios=(4.0, 4.0, 4.0, 2.0),
        qkv_bias=True,
        qk_scale=None,
        use_layerscale=False,
        layerscale_value=1e-4,
        drop_rate=0.0,
        attn_drop_rate=0.0,
        drop_path_rate=0.1,
        depths=(2, 2, 8, 1),
        ca_attentions=(1, 1, 1, 0),
        head_conv=3,
        expand_ratio=2,
    ):
        super().__init__()
        counts = [len(v) for v in (embed_dims, ca_num_heads, sa_num_heads, mlp_ratios, depths, ca_attentions)]
        if not min(counts) == max(counts) >= 1:
            raise ValueError(f"SMT: expected arguments of one length for the stages, got {counts}")
        self.in_chans, self.num_classes, self.embed_dims = in_chans, num_classes, embed_dims
        self.ca_num_heads, self.sa_num_heads, self.mlp_ratios = ca_num_heads, sa_num_heads, mlp_ratios
        self.qkv_bias, self.qk_scale = qkv_bias, qk_scale
        self.use_layerscale, self.layerscale_value = use_layerscale, layerscale_value
        self.drop_rate, self.attn_drop_rate, self.drop_path_rate = drop_rate, attn_drop_rate, drop_path_rate
        self.depths, self.ca_attentions, self.head_conv = depths, ca_attentions, head_conv
        self.expand_ratio = expand_ratio
        for i, dim in enumerate(embed_dims):
            setattr(self, f"patch_embed{i + 1}", self.embed(i))
            setattr(self, f"block{i + 1}", ModuleList([self.block(i, j) for j in range(depths[i])]))
            setattr(self, f"norm{i + 1}", LayerNorm(dim, 1e-6))
        if num_classes:
            self.head = linear(embed_dims[-1], num_classes)

    def embed(self, i) -> SMTHead | OverlapPatchEmbed:
        dim = self.embed_dims[i]
        return OverlapPatchEmbed(self.embed_dims[i - 1], dim) if i else SMTHead(self.head_conv, dim, self.in_chans)

    def block(self, i, j) -> SMTBlock:
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

    def features(self, x: Tensor) -> list[Tensor]:
        maps = []
        for i in range(1, len(self.depths) + 1):
            x = getattr(self, f"patch_embed{i}")(x)
            H, W = x.shape[2:]
            x = x.flatten(2).mT
            for block in getattr(self, f"block{i}"):
                x = block(x, H, W)
            x = getattr(self, f"norm{i}")(x).mT.unflatten(2, (H, W))
            maps.append(x)
        return maps

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)[-1].mean((2, 3))
        return self.head(x) if self.num_classes else x


def preprocess(image: Tensor, size=224) -> Tensor:
    return imagenet(image, size, int(256 / 224 * size), mode="bicubic")


@constructor(SMT, preprocess)
def smt_tiny(): ...


@constructor(SMT, preprocess, drop_path_rate=0.2, depths=(3, 4, 18, 2))
def smt_small(): ...


@constructor(SMT, preprocess, mlp_ratios=(8.0, 6.0, 4.0, 2.0), drop_path_rate=0.3, depths=(4, 6, 28, 2), head_conv=7)
def smt_base(): ...


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
def smt_large(): ...
