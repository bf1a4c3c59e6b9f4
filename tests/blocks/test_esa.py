"""LDNet's attention is what its specification spells out; what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from flax_attn.blocks import esa
from tests.helpers.layer import check_refusal
from tests.helpers.parity import randomise
from torch_ref.blocks import esa as torch_esa


def fresh(layer):
    layer = layer.double().eval()
    randomise(layer, np.random.default_rng(0))
    return layer


def test_esa_is_one_softmax_a_head_over_35_pooled_pixels():
    layer, x = fresh(torch_esa.ESA(9, 2, 6)), torch.randn(2, 9, 7, 5, dtype=torch.float64)
    q, k, v = layer.to_qkv(x)[:, :12], layer.to_qkv(x)[:, 12:24], layer.to_qkv(x)[:, 24:]
    pools = [torch.nn.AdaptiveAvgPool2d(size) for size in (1, 3, 5)]
    k, v = (torch.cat([pool(t).flatten(2) for pool in pools], 2) for t in (k, v))
    heads = []
    for head in (slice(0, 6), slice(6, 12)):
        attn = torch.softmax(q[:, head].flatten(2).transpose(1, 2) @ k[:, head] / 6**0.5, -1)
        heads.append(attn @ v[:, head].transpose(1, 2))
    assert attn.shape == (2, 35, 35)
    torch.testing.assert_close(layer(x), layer.to_out(torch.cat(heads, -1)), rtol=0, atol=1e-12)


def test_lca_gives_every_pixel_the_same_and_never_reads_queries_or_keys():
    layer, x = fresh(torch_esa.LCA(9, 2, 6)), torch.randn(2, 9, 7, 5, dtype=torch.float64)
    mask = torch.randn(2, 1, 7, 5, dtype=torch.float64)
    out = layer(x, mask)
    torch.testing.assert_close(out, out[:, :1].expand_as(out), rtol=0, atol=1e-12)
    with torch.no_grad():
        layer.to_qkv.weight[:24].normal_()
    torch.testing.assert_close(layer(x, mask), out, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["LCA", "LCABlock"])
@pytest.mark.parametrize(("h", "w", "c"), [(7, 5, 3), (4, 3, 1)])
def test_a_mask_has_one_channel_and_the_size_of_x(name, h, w, c):
    ours, theirs = getattr(esa, name)(8), getattr(torch_esa, name)(8)
    shapes = [jax.ShapeDtypeStruct(shape, "float32") for shape in ((2, 7, 5, 8), (2, h, w, c))]
    check_refusal(
        lambda: jax.eval_shape(lambda x, mask: ours.init(jax.random.key(0), x, mask), *shapes),
        "LCA: expected a mask of shape .2, 7, 5, 1., got",
        lambda: theirs(torch.zeros(2, 8, 7, 5), torch.zeros(2, c, h, w)),
    )


@pytest.mark.parametrize("kwargs", [{"heads": 0}, {"dim_head": 0}])
def test_heads_have_a_width(kwargs):
    check_refusal(
        lambda: esa.ESA(8, **kwargs), "ESA: expected heads, dim_head >= 1", lambda: torch_esa.ESA(8, **kwargs)
    )


def test_keys_and_values_are_computed_from_the_tokens_alone():
    block, x = esa.ESA(32, heads=4, dim_head=16), jnp.zeros((1, 24, 24, 32))
    variables = jax.eval_shape(block.init, jax.random.key(0), x)
    flops = jax.jit(block.apply).lower(variables, x).compile().cost_analysis()["flops"]
    assert flops < 2 * x.size * 3 * 64 + 2 * 2 * 24 * 24 * 35 * 64
