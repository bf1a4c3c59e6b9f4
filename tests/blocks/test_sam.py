"""Scale-aware modulation is what its specification spells out; what it refuses."""

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from flax_attn.blocks import sam
from tests.helpers.layer import check_refusal
from tests.helpers.parity import randomise
from torch_ref.blocks import sam as torch_sam


def spelled_out(m, x, H, W):
    """SMT's forward, reshape by reshape."""
    b, n, c = x.shape
    heads = m.ca_num_heads
    s = m.s(x).reshape(b, H, W, heads, c // heads).permute(3, 0, 4, 1, 2)
    s = [getattr(m, f"local_conv_{i + 1}")(s[i]).reshape(b, -1, 1, H, W) for i in range(heads)]
    s = m.proj1(torch.nn.functional.gelu(m.bn(m.proj0(torch.cat(s, 2).reshape(b, c, H, W)))))
    return m.proj(s.reshape(b, c, n).permute(0, 2, 1) * m.v(x))


def test_twin_is_the_spelled_out_forward():
    twin = torch_sam.SAM(12).double().eval()
    randomise(twin, np.random.default_rng(0))
    x = torch.randn(2, 35, 12, dtype=torch.float64)
    torch.testing.assert_close(twin(x, 7, 5), spelled_out(twin, x, 7, 5), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["SAM", "SAMAttention", "Mlp"])
def test_tokens_must_fill_the_image(name):
    ours, theirs = getattr(sam, name)(8), getattr(torch_sam, name)(8)
    x = jax.ShapeDtypeStruct((2, 34, 8), "float32")
    check_refusal(
        lambda: jax.eval_shape(lambda x: ours.init(jax.random.key(0), x, 7, 5), x),
        f"{name}: expected H . W = 7 . 5 tokens, got 34",
        lambda: theirs(torch.zeros(2, 34, 8), 7, 5),
    )


@pytest.mark.parametrize(("name", "heads"), [("SAM", "ca_num_heads"), ("SAMAttention", "sa_num_heads")])
@pytest.mark.parametrize("count", [3, 0])
def test_heads_divide_dim(name, heads, count):
    check_refusal(
        lambda: getattr(sam, name)(8, count),
        f"{name}: expected {heads} to divide dim=8, got {count}",
        lambda: getattr(torch_sam, name)(8, count),
    )
