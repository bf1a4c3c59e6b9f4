"""How the maps of each block give its output: ``formula(module, maps, *inputs, **keywords)``."""

import jax.numpy as jnp

from flax_attn.blocks import (
    attention,
    attention_map,
    bam,
    cbam,
    criss_cross,
    danet,
    esa,
    gumbel_attention,
    hard_attention,
    non_local,
    polarized,
    recurrent_attention,
    residual_attention,
    sam,
    se,
    sge,
    sk,
    spatial_transformer,
    stn,
    transformer,
)
from flax_attn.blocks.non_local import tokens
from flax_attn.blocks.resnet import add_shortcut
from flax_attn.catalog import IMAGE, PLAIN
from flax_attn.layers import affine_grid, avg_pool, flatten, grid_sample, relu
from flax_attn.layers.layout import split_heads
from flax_attn.models import ram


def gated(module, maps, x):
    for gate in maps:
        x = x * gate
    return x


def added(module, maps, x):
    return sum(x * gate for gate in maps)


def by_group(module, maps, x):
    n, h, w, _ = x.shape
    return (x.reshape(n, h, w, module.groups, -1) * maps[0][..., None]).reshape(x.shape)


def selective(module, maps, x):
    y = relu(module.bn1(module.conv1(x)))
    branches = jnp.stack([relu(module.bn2(module.conv2(y))), relu(module.bn2g(module.conv2g(y)))], 1)
    y = (branches * maps[0][:, :, None, None]).sum(1)
    return relu(add_shortcut(module, module.bn3(module.conv3(y)), x, train=False))


def non_local_mean(module, maps, x):
    y = maps[0] @ tokens(module.g(x))
    return module.W(y.reshape(*x.shape[:-1], -1)) + x


def position(module, maps, x):
    return module.gamma * (maps[0] @ tokens(module.value_conv(x))).reshape(x.shape) + x


def channel(module, maps, x):
    return module.gamma * (tokens(x) @ maps[0].swapaxes(1, 2)).reshape(x.shape) + x


def danet_head(module, maps, x):
    a = module.conv51(position(module.sa, maps[:1], module.conv5a(x)))
    b = module.conv52(channel(module.sc, maps[1:], module.conv5c(x)))
    return module.conv8(a + b), module.conv6(a), module.conv7(b)


def cross(module, maps, x):
    row, column = maps
    value = module.value_conv(x)
    y = jnp.einsum("nhwv,nhvc->nhwc", row, value) + jnp.einsum("nhwg,ngwc->nhwc", column, value)
    return module.gamma * y + x


def cross_3d(module, maps, x):
    row, column, depth = maps
    value = module.value_conv(x)
    y = jnp.einsum("ndhwv,ndhvc->ndhwc", row, value) + jnp.einsum("ndhwg,ndgwc->ndhwc", column, value)
    return module.gamma * (y + jnp.einsum("ndhwe,nehwc->ndhwc", depth, value)) + x


def recurrent_cross(module, maps, x, recurrence=1):
    assert len(maps) == recurrence
    y = module.conva(x)
    for pair in maps:
        y = cross(module.cca, pair, y)
    return module.bottleneck(jnp.concatenate([x, module.convb(y)], -1))


def heads_side_by_side(weights, values):
    """The means of values (n, k, channels), which the heads share, with weights (n, heads, q, k)."""
    y = jnp.einsum("nhqk,nhkd->nqhd", weights, split_heads(values, weights.shape[1]))
    return y.reshape(*y.shape[:2], -1)


def efficient(module, maps, x):
    value = jnp.split(module.to_qkv(x), 3, -1)[2]
    return module.to_out(heads_side_by_side(maps[0], module.ppm(value)))


def lesion(module, maps, x, mask):
    value = jnp.split(module.to_qkv(x), 3, -1)[2]
    mean = (value * maps[0]).sum((1, 2)) / (maps[0].sum((1, 2)) + 0.0005)
    return module.to_out(jnp.broadcast_to(mean[:, None], (len(x), x.shape[1] * x.shape[2], mean.shape[-1])))


def modulated(module, maps, x, H, W):
    return module.proj(maps[0].reshape(x.shape) * module.v(x))


def with_local(module, maps, x, H, W):
    value = jnp.split(module.kv(x), 2, -1)[1]
    local = module.local_conv(value.reshape(len(x), H, W, -1)).reshape(x.shape)
    return module.proj(heads_side_by_side(maps[0], value) + local)


def masked_trunk(module, maps, x):
    trunk = module.trunk_branches(module.first_residual_blocks(x))
    return module.last_blocks((1 + maps[0]) * trunk)


def chosen_pixel(module, maps, x, noise):
    choice, p = maps
    return (choice * x).sum((1, 2)), jnp.log((choice * p).sum((1, 2, 3))), -(p * jnp.log(p)).sum((1, 2, 3))


def straight_through(module, maps, x, noise):
    return (maps[0] * x).sum((1, 2)), maps[0].reshape(len(x), -1)


def sampled(module, maps, image, grid):
    axis = 3 if module.layout == "BHWD" else 1
    return jnp.moveaxis(grid_sample(jnp.moveaxis(image, axis, -1), maps[0], align_corners=True), -1, axis)


def transformed(module, maps, x):
    grid, theta = maps
    both = (grid + affine_grid(theta, x.shape, module.align_corners)) / 2
    return grid_sample(x, both, align_corners=module.align_corners)


def multihead(module, maps, query, key, value, **masks):
    tokens_first = [x if module.batch_first else x.swapaxes(0, 1) for x in (query, key, value)]
    _, k, v = module.project(tokens_first)
    out = module.out_proj(heads_side_by_side(maps[0], module.extend(k, v)[1]))
    return out if module.batch_first else out.swapaxes(0, 1)


def scaled(module, maps, queries, keys, values, **masks):
    return module.fc_o(heads_side_by_side(maps[0], module.project(queries, keys, values)[2]))


def one_head(attn, weights, values):
    return attn.out_proj(weights @ attn.project([values] * 3)[2])


def branch(module, x, norm, residual):
    return x + residual(norm(x)) if module.normalize_before else norm(x + residual(x))


def feed(module):
    return lambda x: module.feedforward(x, train=False)[0]


def encoder_layer(module, maps, src, **masks):
    x = branch(module, src, module.norm1, lambda x: one_head(module.self_attn, maps[0], x))
    return branch(module, x, module.norm2, feed(module))


def decoder_layer(module, maps, tgt, memory, **masks):
    x = branch(module, tgt, module.norm1, lambda x: one_head(module.self_attn, maps[0], x))
    x = branch(module, x, module.norm2, lambda x: one_head(module.multihead_attn, maps[1], memory))
    return branch(module, x, module.norm3, feed(module))


def patches(module, maps, x, place):
    """What lies in each box, with zeros beyond the image, pooled to the size of the smallest box."""
    border, sample, seen = 40, jnp.arange(len(x))[:, None, None], []
    padded = jnp.pad(x, [(0, 0), (border, border), (border, border), (0, 0)])
    for i, size in enumerate(recurrent_attention.patch_sizes(module.g, module.k, module.s)):
        left, top = maps[0][:, i, 0], maps[0][:, i, 1]
        rows, columns = (border + start[:, None] + jnp.arange(size) for start in (top, left))
        seen.append(avg_pool(padded[sample, rows[:, :, None], columns[:, None]], size // module.g))
    return flatten(jnp.concatenate(seen, -1))


def glimpse(module, maps, x, place):
    what = module.fc3(relu(module.fc1(patches(module.retina, maps, x, place))))
    return relu(what + module.fc4(relu(module.fc2(place))))


def one_step(module, maps, x, place, state, noise, last):
    h = module.rnn(glimpse(module.sensor, maps, x, place), state)
    log_pi, then = module.locator(h, noise)
    return h, then, module.baseliner(h)[:, 0], module.classifier(h), log_pi


GATES = {
    se.SELayer: gated,
    se.SqueezeExcitation: gated,
    cbam.ChannelGate: gated,
    cbam.SpatialGate: gated,
    cbam.CBAM: gated,
    bam.BAM: lambda module, maps, x: (1 + maps[0]) * x,
    sge.SpatialGroupEnhance: by_group,
    polarized.ParallelPolarizedSelfAttention: added,
    polarized.SequentialPolarizedSelfAttention: gated,
    polarized.PSA_p: added,
    polarized.PSA_s: gated,
    residual_attention._AttentionModule: masked_trunk,
    sam.SAM: modulated,
    esa.LCA: lesion,
    hard_attention.HardAttention: chosen_pixel,
    gumbel_attention.GumbelHardAttention: straight_through,
}

WEIGHTS = {
    sk.SKBottleneck: selective,
    non_local._NonLocalBlockND: non_local_mean,
    danet.PAM_Module: position,
    danet.CAM_Module: channel,
    danet.DANetHead: danet_head,
    criss_cross.CrissCrossAttention: cross,
    criss_cross.CrissCrossAttention3D: cross_3d,
    criss_cross.RCCAModule: recurrent_cross,
    esa.ESA: efficient,
    sam.SAMAttention: with_local,
    stn.STN: sampled,
    spatial_transformer.SpatialTransformer: transformed,
    attention.MultiheadAttention: multihead,
    attention._ScaledDotProductAttention: scaled,
    attention_map.MHAttentionMap: lambda module, maps, q, k, mask: maps[0],
    transformer.TransformerEncoderLayer: encoder_layer,
    transformer.TransformerDecoderLayer: decoder_layer,
    recurrent_attention.Retina: patches,
    recurrent_attention.GlimpseNetwork: glimpse,
    ram.RecurrentAttention: one_step,
}

FORMULAS = {cls: (f, IMAGE) for cls, f in GATES.items()} | {cls: (f, PLAIN) for cls, f in WEIGHTS.items()}
"""Class to its formula, and to the layout of its maps on the PyTorch side. A class without an entry has its base's."""


def formula(cls):
    return next(FORMULAS[base] for base in cls.__mro__ if base in FORMULAS)
