"""``fuse``: every network with BatchNorms computes the same when they are folded into its convolutions."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from flax_attn import ABN, BasicConv2d, InPlaceABN, attention_maps, fuse, layers, to_nnx
from flax_attn.catalog import CATALOG, find_entries
from flax_attn.layers import BatchNorm2d, Conv2d, FrozenBatchNorm2d, Linear, Sequential
from tests.catalog.test_transforms import assert_trees_close, setup
from tests.helpers.tolerances import assert_close
from tests.helpers.walk import entries

PLAIN = {
    "Bottleneck-frozen",
    "DotProductNonLocalBlock-1d-sub-bn",
    "EmbeddedGaussianNonLocalBlock-3d-sub-bn",
    "PreActBasicBlock-downsample",
    "RCCAModule-abn",
    "ResNet",
    "SqueezeExcitation-norm",
}
"""What the plain run covers: each way in which the blocks put a normalization behind a convolution."""


def of(module, *inputs, seed=0):
    """Random variables of ``module`` in float64."""
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *inputs))
    rng = np.random.default_rng(seed)
    draw = {"var": lambda shape: rng.uniform(0.5, 1.5, shape)}
    flat = traverse_util.flatten_dict(shapes)
    arrays = {
        path: jnp.asarray(draw.get(path[-1], lambda shape: rng.normal(size=shape))(leaf.shape), leaf.dtype)
        for path, leaf in flat.items()
    }
    return traverse_util.unflatten_dict(arrays)


def assert_both_give_the_same(module, variables, fused, folded, x):
    got, expected = jax.jit(lambda v, w: (fused.apply(w, x), module.apply(v, x)))(variables, folded)
    assert_trees_close(got, expected)


def image(*shape):
    return jnp.asarray(np.random.default_rng(1).normal(size=shape))


@entries(CATALOG, lambda entry: entry.name not in PLAIN)
def test_equals_the_network_as_it_was(entry):
    _, variables, inputs = setup(entry)
    if not any(path[-1] == "var" for path in traverse_util.flatten_dict(variables)):
        pytest.skip("it has no normalization")
    module = entry.module(param_dtype=jnp.float64)
    args, call = entry.arguments(inputs)
    fused, folded = fuse(module, variables, *args, **call)
    rngs = {"sample": jax.random.key(0)}
    both = jax.jit(lambda v, w: [m.apply(u, *args, **call, rngs=rngs) for m, u in ((fused, w), (module, v))])
    got, expected = both(variables, folded)
    assert_trees_close(got, expected)
    assert fused.plan.norms


LAYERS = [
    (layers.Conv1d(4, 6, 3, stride=2, groups=2), layers.BatchNorm1d(6), (2, 7, 4)),
    (layers.Conv3d(4, 6, 2, bias=False), layers.BatchNorm3d(6), (2, 3, 5, 4, 4)),
    (layers.ConvTranspose1d(4, 6, 3, groups=2), layers.BatchNorm1d(6), (2, 7, 4)),
    (layers.ConvTranspose3d(4, 6, 2, stride=2), layers.BatchNorm3d(6), (2, 3, 5, 4, 4)),
    (Linear(4, 6), layers.BatchNorm1d(6), (3, 4)),
    (Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), BatchNorm2d(6, affine=False), (2, 5, 4, 4)),
    (Conv2d(4, 6, 3, dilation=2), FrozenBatchNorm2d(6, eps=0.1), (2, 7, 6, 4)),
    (layers.ConvTranspose2d(4, 6, 3, output_padding=1, stride=2, groups=2), InPlaceABN(6, 0.1), (2, 5, 4, 4)),
    (Conv2d(4, 6, 1), ABN(6, momentum=None, activation="relu"), (2, 5, 4, 4)),
]


@pytest.mark.parametrize(("layer", "norm", "shape"), LAYERS, ids=lambda value: type(value).__name__)
def test_every_layer_takes_the_factor_over(layer, norm, shape):
    module, x = Sequential(layer, norm, param_dtype=jnp.float64), image(*shape)
    variables = of(module, x)
    fused, folded = fuse(module, variables, x)
    assert fused.plan.norms == {("1",): ("0",)}
    assert folded["params"].keys() == {"0", "1"}
    assert folded.keys() == {"params"}
    assert folded["params"]["1"].keys() == {"bias"}
    assert_both_give_the_same(module, variables, fused, folded, x)


class Odd(layers.Module):
    """A convolution and a normalization. The way in which they are used does not allow to fold one into the other."""

    way: str = ""

    def setup(self):
        cls = {"subclass": Standardized, "remat": nn.remat(Conv2d)}.get(self.way, Conv2d)
        self.conv = cls(3, 3, 1)
        self.norm = BatchNorm2d(3, track_running_stats=self.way != "batch")

    def __call__(self, x, train=False, way=""):
        y = self.conv(x)
        out = self.norm(y[:, ::-1] if self.way == "reshaped" else y)
        results = {
            "read": lambda: out + y,
            "returned": lambda: (out, y),
            "conv twice": lambda: self.conv(out),
            "norm twice": lambda: self.norm(out),
            "tied": lambda: out @ self.conv.variables["params"]["kernel"][0, 0],
            "scale read": lambda: out * self.norm.variables["params"]["scale"],
        }
        return results.get(way or self.way, lambda: out)()


class Standardized(Conv2d):
    """A convolution that divides its kernel by its norm, so that a factor in the kernel has no effect."""

    def convolve(self, x, kernel, *args, **kwargs):
        return super().convolve(x, kernel / jnp.linalg.norm(kernel), *args, **kwargs)


ALONE, UNSEEN = {("norm",): None}, {}


@pytest.mark.parametrize(
    ("way", "norms"),
    [
        ("subclass", ALONE),
        ("remat", ALONE),
        ("reshaped", ALONE),
        ("read", ALONE),
        ("returned", ALONE),
        ("conv twice", ALONE),
        ("norm twice", ALONE),
        ("tied", ALONE),
        ("scale read", UNSEEN),
        ("batch", UNSEEN),
    ],
)
def test_what_cannot_be_folded_stays(way, norms):
    module, x = Odd(way, param_dtype=jnp.float64), image(2, 4, 3, 3)
    variables = of(module, x)
    fused, folded = fuse(module, variables, x)
    assert fused.plan.norms == norms
    assert_trees_close(folded["params"]["conv"], variables["params"]["conv"])
    assert_both_give_the_same(module, variables, fused, folded, x)


@pytest.fixture(scope="module")
def small():
    """A module, its variables, both fused, and an input."""
    module, x = Odd(param_dtype=jnp.float64), image(2, 4, 3, 3)
    variables = of(module, x)
    fused, folded = fuse(module, variables, x)
    assert fused.plan.norms == {("norm",): ("conv",)}
    return module, variables, fused, folded, x


@pytest.mark.parametrize("way", ["read", "returned", "conv twice", "norm twice", "tied", "scale read"])
def test_a_call_that_uses_a_folded_layer_otherwise_is_refused(small, way):
    *_, fused, folded, x = small
    with pytest.raises(
        ValueError, match="Fused: expected a call of Odd that uses 'norm' as the example inputs of fuse"
    ):
        jax.eval_shape(lambda: fused.apply(folded, x, way=way))


@pytest.mark.parametrize("args", [{"train": True}, True])
def test_training_is_refused(small, args):
    module, variables, fused, folded, x = small
    args, kwargs = ([], args) if isinstance(args, dict) else ([args], {})
    with pytest.raises(ValueError, match="Fused: expected train=False, got True"):
        fused.apply(folded, x, *args, **kwargs)
    with pytest.raises(ValueError, match="fuse: expected train=False, got True"):
        fuse(module, variables, x, *args, **kwargs)


def test_nothing_of_the_user_is_changed_or_shared(small):
    module, variables, *_, x = small
    mine = jax.tree.map(np.array, variables)
    fused, folded = fuse(module, mine, x)
    assert_trees_close(mine, variables)
    for leaf in jax.tree.leaves(mine):
        leaf[...] = 0
    assert_both_give_the_same(module, variables, fused, folded, x)


def test_the_inputs_of_the_catalog_stand_for_those_not_given():
    module, x = BasicConv2d(4, 6, kernel_size=1, param_dtype=jnp.float64), image(2, 5, 3, 4)
    variables = of(module, x)
    fused, folded = fuse(module, variables)
    assert fused.plan.norms == {("bn",): ("conv",)}
    assert_both_give_the_same(module, variables, fused, folded, x)


@pytest.mark.parametrize("variables", [None, [1]])
def test_what_is_no_variables_is_refused(no_annotation_checks, variables):
    with pytest.raises(ValueError, match=r'fuse: expected variables \{"params"'):
        fuse(Odd(), variables)


def test_a_fused_network_has_nothing_left_to_fold(small):
    _, _, fused, folded, x = small
    again, variables = fuse(fused, folded, x)
    assert not again.plan.norms
    assert_trees_close(again.apply(variables, x), fused.apply(folded, x))


def test_a_network_that_the_catalog_does_not_have_needs_inputs(small):
    module, variables, *_ = small
    with pytest.raises(ValueError, match=r"fuse: expected example inputs of Odd .* write fuse\(module, variables, x\)"):
        fuse(module, variables)


def test_transforms_and_gradients(small):
    module, variables, fused, folded, x = small

    def run(m, v):
        each = jax.vmap(lambda x: m.apply(v, x[None])[0])(x)
        return each, jax.grad(lambda x: jnp.square(m.apply(v, x)).sum())(x)

    assert_trees_close(jax.jit(lambda: run(fused, folded))(), jax.jit(lambda: run(module, variables))())


def test_bfloat16_and_a_network_around_it(small):
    module, variables, fused, folded, x = small

    class Around(layers.Module):
        inside: nn.Module

        def __call__(self, x, train=False):
            return self.inside(x)

    out = Around(fused, dtype=jnp.bfloat16).apply({"params": {"inside": folded["params"]}}, x)
    assert out.dtype == jnp.bfloat16
    assert_close(out, module.apply(variables, x), "bfloat16")


def test_float32(small):
    module, variables, *_, x = small
    module, x, variables = module.clone(param_dtype=None), x.astype("float32"), jax.tree.map(jnp.float32, variables)
    fused, folded = fuse(module, variables, x)
    assert {leaf.dtype for leaf in jax.tree.leaves(folded)} == {jnp.dtype("float32")}
    out, expected = fused.apply(folded, x), module.apply(variables, x)
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)


def test_in_nnx(small):
    module, variables, fused, folded, x = small
    assert_close(to_nnx(fused, folded)(x), module.apply(variables, x))


def test_attention_maps_stay():
    _, variables, (x,) = setup(entry := find_entries("NONLocalBlock1D")[0])
    module = entry.module(param_dtype=jnp.float64)
    fused, folded = fuse(module, variables, x)
    both = jax.jit(lambda v, w: (attention_maps(fused, w, x), attention_maps(module, v, x)))
    got, expected = both(variables, folded)
    assert got[1].keys() == expected[1].keys()
    assert_trees_close(got, expected)
