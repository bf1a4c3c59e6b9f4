"""What the catalog does not see of SMT: which block attends, drop path rates, layer scale, maps of odd images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from flax_attn import SMT, SMTBlock
from flax_attn.layers import DropPath
from flax_attn.models import smt
from tests.helpers.layer import check_refusal
from torch_ref.layers.dropout import DropPath as TorchDropPath
from torch_ref.models import smt as torch_smt

SMALL = dict(
    num_classes=5,
    embed_dims=(4, 6, 8, 10),
    ca_num_heads=(2, 2, 2, -1),
    sa_num_heads=(-1, -1, 4, 5),
    depths=(1, 1, 3, 2),
)


def test_every_other_block_of_the_third_stage_and_all_of_the_fourth_attend():
    twin = torch_smt.SMT(**SMALL)
    bound = SMT(**SMALL).bind({})
    for i, expected in enumerate(("m", "m", "mam", "aa"), 1):
        kinds = ["a" if hasattr(block.attn, "kv") else "m" for block in getattr(twin, f"block{i}")]
        assert "".join(kinds) == expected
        ours = [block.ca_attention for block in getattr(bound, f"block{i}")]
        assert "".join("am"[kind] for kind in ours) == expected


@pytest.mark.parametrize(
    ("name", "rate", "depth"),
    [("smt_tiny", 0.1, 13), ("smt_small", 0.2, 27), ("smt_base", 0.3, 40), ("smt_large", 0.4, 42)],
)
def test_drop_path_rises_evenly_to_the_published_rate(name, rate, depth):
    with torch.device("meta"):
        twin = getattr(torch_smt, name)()
    theirs = [m.p for key, m in twin.named_modules() if key.endswith("drop_path1")]
    assert len(theirs) == depth
    bound = getattr(smt, name)().bind({})
    ours = [block.drop_path for i in range(1, 5) for block in getattr(bound, f"block{i}")]
    assert ours == theirs
    np.testing.assert_allclose(ours, torch.linspace(0, rate, depth), rtol=1e-6, atol=0)


def test_drop_path_drops_both_branches_of_a_sample_each_on_its_own():
    block = SMTBlock(4, -1, 2, drop_path=0.5, ca_attention=0)
    x = jax.random.normal(jax.random.key(0), (64, 6, 4))
    whole, variables = jax.jit(lambda x: block.init_with_output(jax.random.key(1), x, 2, 3))(x)
    drop = lambda key: block.apply(variables, x, 2, 3, train=True, rngs={"dropout": key})  # noqa: E731
    untouched = (jax.jit(drop)(jax.random.key(2)) == x).all((1, 2))
    assert 4 <= untouched.sum() <= 30  # 16 on average: a quarter loses both
    assert (whole != x).any((1, 2)).all()


def test_fresh_layer_scale_is_close_to_no_block_at_all():
    block = SMTBlock(8, -1, 2, use_layerscale=True, ca_attention=0)
    x = jax.random.normal(jax.random.key(0), (2, 6, 8))
    y, variables = jax.jit(lambda x: block.init_with_output(jax.random.key(1), x, 2, 3))(x)
    np.testing.assert_array_equal(variables["params"]["gamma_1"], jnp.full(8, 1e-4, jnp.float32))
    assert 0 < np.abs(y - x).max() < 1e-3


@pytest.mark.parametrize("name", ["layers", "twin"])
def test_drop_path_keeps_the_mean_and_whole_samples(name):
    x, p = np.ones((4000, 3, 2), np.float32), 0.3
    if name == "twin":
        torch.manual_seed(0)
        y = TorchDropPath(p)(torch.tensor(x)).numpy()
    else:
        y = np.asarray(DropPath(p).apply({}, jnp.asarray(x), train=True, rngs={"dropout": jax.random.key(0)}))
    np.testing.assert_allclose(np.unique(y), [0, 1 / (1 - p)], rtol=1e-6)
    assert (y == y[:, :1, :1]).all()
    assert abs(y.mean() - 1) < 5 * np.sqrt(p / (1 - p) / 4000)


def test_drop_path_of_the_twin_does_nothing_in_eval_mode_and_drops_all_at_one():
    x = torch.randn(3, 2, 4)
    assert TorchDropPath(0.3).eval()(x).equal(x)
    assert TorchDropPath()(x).equal(x)
    assert not TorchDropPath(1.0)(x).any()


@pytest.mark.parametrize(
    ("size", "sizes"),
    [((101, 75), [(25, 19), (13, 10), (7, 5), (4, 3)]), ((32, 64), [(8, 16), (4, 8), (2, 4), (1, 2)])],
)
def test_maps_of_any_size(size, sizes):
    module, x = SMT(**SMALL), jax.ShapeDtypeStruct((2, *size, 3), "float32")
    variables = jax.eval_shape(module.init, jax.random.key(0), x)
    maps = jax.eval_shape(lambda v, x: module.apply(v, x, method="features"), variables, x)
    theirs = torch_smt.SMT(**SMALL).features(torch.zeros(2, 3, *size))
    assert [m.shape for m in maps] == [(2, h, w, c) for (h, w), c in zip(sizes, (4, 6, 8, 10), strict=True)]
    assert [tuple(m.shape) for m in theirs] == [(2, c, h, w) for (h, w), c in zip(sizes, (4, 6, 8, 10), strict=True)]


def test_arguments_of_other_numbers_of_stages_are_refused():
    wrong = {**SMALL, "depths": (1, 1, 3)}
    refuses = r"SMT: expected embed_dims, .* of one length, got \[4, 4, 4, 4, 3, 4\]"
    check_refusal(lambda: SMT(**wrong), refuses, lambda: torch_smt.SMT(**wrong))


def test_too_small_an_image_is_refused_on_both_sides():
    x = jax.ShapeDtypeStruct((2, 2, 64, 3), "float32")
    check_refusal(
        lambda: jax.eval_shape(SMT(**SMALL).init, jax.random.key(0), x),
        "expected an input that leaves a pixel of output",
        lambda: torch_smt.SMT(**SMALL)(torch.zeros(2, 3, 2, 64)),
    )
