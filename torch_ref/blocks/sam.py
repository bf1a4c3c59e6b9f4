"""Scale-Aware Modulation Meet Transformer - Lin, Wu, Chen, Huang, Jin 2023, https://arxiv.org/abs/2307.08579"""

import math

import torch
from torch import Tensor, softmax
from torch.nn import BatchNorm2d, Conv2d, Dropout, Linear, Module, init
from torch.nn.functional import gelu


def linear(inputs, outputs, bias=True):
    layer = Linear(inputs, outputs, bias)
    init.trunc_normal_(layer.weight, std=0.02)
    if layer.bias is not None:
        init.zeros_(layer.bias)
    return layer


def conv(inputs, outputs, kernel_size, groups=1):
    layer = Conv2d(inputs, outputs, kernel_size, padding=kernel_size // 2, groups=groups)
    init.normal_(layer.weight, std=math.sqrt(2 / (kernel_size**2 * outputs // groups)))
    if layer.bias is not None:
        init.zeros_(layer.bias)
    return layer


def image(x: Tensor, H, W) -> Tensor:
    return x.mT.reshape(x.shape[0], x.shape[2], H, W)


class SAM(Module):
    def __init__(self, dim, ca_num_heads=4, qkv_bias=False, proj_drop=0.0, expand_ratio=2):
        super().__init__()
        if ca_num_heads < 1 or dim % ca_num_heads:
            raise ValueError(f"SAM: expected ca_num_heads to divide dim={dim}, got {ca_num_heads}")
        self.ca_num_heads = ca_num_heads
        wide = dim * expand_ratio
        each = dim // ca_num_heads
        self.proj = linear(dim, dim)
        self.v = linear(dim, dim, qkv_bias)
        self.s = linear(dim, dim, qkv_bias)
        for i in range(1, ca_num_heads + 1):
            setattr(self, f"local_conv_{i}", conv(each, each, 2 * i + 1, groups=each))
        self.proj0 = conv(dim, wide, 1, groups=each)
        self.bn = BatchNorm2d(wide)
        self.proj1 = conv(wide, dim, 1)
        self.dropout = Dropout(proj_drop)

    def forward(self, x: Tensor, H, W, attention_weights=False) -> Tensor | tuple[Tensor, Tensor]:
        heads = image(self.s(x), H, W).chunk(self.ca_num_heads, 1)
        seen = [getattr(self, f"local_conv_{i}")(head) for i, head in enumerate(heads, 1)]
        y = torch.stack(seen, 2).flatten(1, 2)
        modulator = self.proj1(gelu(self.bn(self.proj0(y))))
        y = self.dropout(self.proj(modulator.flatten(2).mT * self.v(x)))
        return (y, modulator) if attention_weights else y


class SAMAttention(Module):
    def __init__(self, dim, sa_num_heads=8, qkv_bias=False, qk_scale=None, attn_drop=0.0, proj_drop=0.0):
        super().__init__()
        if sa_num_heads < 1 or dim % sa_num_heads:
            raise ValueError(f"SAMAttention: expected sa_num_heads to divide dim={dim}, got {sa_num_heads}")
        self.sa_num_heads = sa_num_heads
        self.scale = qk_scale or (dim // sa_num_heads) ** -0.5
        self.proj = linear(dim, dim)
        self.q = linear(dim, dim, qkv_bias)
        self.attn_dropout = Dropout(attn_drop)
        self.kv = linear(dim, 2 * dim, qkv_bias)
        self.local_conv = conv(dim, dim, 3, groups=dim)
        self.proj_dropout = Dropout(proj_drop)

    def forward(self, x: Tensor, H, W, attention_weights=False) -> Tensor | tuple[Tensor, Tensor]:
        key, value = self.kv(x).chunk(2, -1)
        q, k, v = (t.unflatten(-1, (self.sa_num_heads, -1)).transpose(1, 2) for t in (self.q(x), key, value))
        attn = softmax(q @ k.mT * self.scale, -1)
        y = (self.attn_dropout(attn) @ v).transpose(1, 2).flatten(2)
        local = self.local_conv(image(value, H, W)).flatten(2).mT
        y = self.proj_dropout(self.proj(y + local))
        return (y, attn) if attention_weights else y


class _DWConv(Module):
    def __init__(self, dim):
        super().__init__()
        self.dwconv = conv(dim, dim, 3, groups=dim)

    def forward(self, x: Tensor, H, W) -> Tensor:
        return self.dwconv(image(x, H, W)).flatten(2).mT


class Mlp(Module):
    def __init__(self, in_features, hidden_features=None, out_features=None, drop=0.0):
        super().__init__()
        hidden = hidden_features or in_features
        self.fc1 = linear(in_features, hidden)
        self.dwconv = _DWConv(hidden)
        self.fc2 = linear(hidden, out_features or in_features)
        self.dropout1 = Dropout(drop)
        self.dropout2 = Dropout(drop)

    def forward(self, x: Tensor, H, W) -> Tensor:
        x = self.fc1(x)
        x = self.dropout1(gelu(x + self.dwconv(x, H, W)))
        return self.dropout2(self.fc2(x))
