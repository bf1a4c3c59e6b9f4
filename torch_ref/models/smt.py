"""Scale-Aware Modulation Meet Transformer - Lin, Wu, Chen, Huang, Jin 2023, https://arxiv.org/abs/2307.08579"""

import torch
from torch import Tensor, nn

from torch_ref.blocks.sam import SAM, Mlp, SAMAttention, linear
from torch_ref.layers.dropout import DropPath


def conv(inputs, outputs, kernel_size, stride, padding, bias=True):
    layer = nn.Conv2d(inputs, outputs, kernel_size, stride, padding, 1, 1, bias)
    nn.init.normal_(layer.weight, std=(2 / (kernel_size**2 * outputs)) ** 0.5)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class SMTBlock(nn.Module):
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
        self.norm1 = nn.LayerNorm(dim, 1e-6)
        if ca_attention:
            self.attn = SAM(dim, ca_num_heads, qkv_bias, drop, expand_ratio)
        else:
            scales = (qkv_bias, qk_scale, attn_drop, drop)
            self.attn = SAMAttention(dim, sa_num_heads, *scales)
        self.drop_path1 = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim, 1e-6)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), drop=drop)
        self.drop_path2 = DropPath(drop_path)
        if use_layerscale:
            self.gamma_1 = nn.Parameter(torch.full((dim,), layerscale_value))
            self.gamma_2 = nn.Parameter(torch.full((dim,), layerscale_value))

    def forward(self, x: Tensor, H, W) -> Tensor:
        y = self.attn(self.norm1(x), H, W)
        x = x + self.drop_path1(y * self.gamma_1 if self.use_layerscale else y)
        y = self.mlp(self.norm2(x), H, W)
        return x + self.drop_path2(y * self.gamma_2 if self.use_layerscale else y)


class SMTHead(nn.Module):
    def __init__(self, head_conv, dim, in_chans=3):
        super().__init__()
        padding = 3 if head_conv == 7 else 1
        first = conv(in_chans, dim, head_conv, 2, padding, bias=False)
        self.conv = nn.Sequential(first, nn.BatchNorm2d(dim), nn.ReLU(), conv(dim, dim, 2, 2, 0))
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x).movedim(1, -1)).movedim(-1, 1)


class OverlapPatchEmbed(nn.Module):
    def __init__(self, in_chans, embed_dim, patch_size=3, stride=2):
        super().__init__()
        self.proj = conv(in_chans, embed_dim, patch_size, stride, patch_size // 2)
        self.norm = nn.LayerNorm(embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x).movedim(1, -1)).movedim(-1, 1)


class SMT(nn.Module):
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
            raise ValueError(f"SMT: expected as many stages in every argument, got {counts}")
        self.depths, self.num_classes = depths, num_classes
        self.ca_attentions, self.drop_path_rate, self.expand_ratio = ca_attentions, drop_path_rate, expand_ratio
        self.each = list(zip(embed_dims, ca_num_heads, sa_num_heads, mlp_ratios, strict=True))
        self.scales = (qkv_bias, qk_scale, use_layerscale, layerscale_value, drop_rate, attn_drop_rate)
        for i, dim in enumerate(embed_dims):
            first = i == 0
            embed = SMTHead(head_conv, dim, in_chans) if first else OverlapPatchEmbed(embed_dims[i - 1], dim)
            setattr(self, f"patch_embed{i + 1}", embed)
            setattr(self, f"block{i + 1}", nn.ModuleList([self.block(i, j) for j in range(depths[i])]))
            setattr(self, f"norm{i + 1}", nn.LayerNorm(dim, 1e-6))
        if num_classes:
            self.head = linear(embed_dims[-1], num_classes)

    def block(self, i, j) -> SMTBlock:
        attention = 0 if i == 2 and j % 2 else self.ca_attentions[i]
        rate = self.drop_path_rate * (sum(self.depths[:i]) + j) / max(1, sum(self.depths) - 1)
        return SMTBlock(*self.each[i], *self.scales, rate, attention, self.expand_ratio)

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


def smt_tiny(num_classes=1000) -> SMT:
    return SMT(num_classes=num_classes)


def smt_small(num_classes=1000) -> SMT:
    return SMT(num_classes=num_classes, drop_path_rate=0.2, depths=(3, 4, 18, 2))


def smt_base(num_classes=1000) -> SMT:
    ratios, depths = (8.0, 6.0, 4.0, 2.0), (4, 6, 28, 2)
    return SMT(num_classes=num_classes, mlp_ratios=ratios, drop_path_rate=0.3, depths=depths, head_conv=7)


def smt_large(num_classes=1000) -> SMT:
    widths, ratios, depths = (96, 192, 384, 768), (8.0, 6.0, 4.0, 2.0), (4, 6, 28, 4)
    sizes = (3, num_classes, widths)
    return SMT(*sizes, mlp_ratios=ratios, use_layerscale=True, drop_path_rate=0.4, depths=depths, head_conv=7)
