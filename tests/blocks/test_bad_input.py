"""Arguments and inputs that cannot work are refused early, in one sentence: who, what was expected, what came."""

import jax
import jax.numpy as jnp
import pytest

import flax_attn as fa
from flax_attn.layers import Sequential

CONSTRUCTION = [
    (lambda: fa.SELayer(0), "SELayer: expected channel >= 1, got 0"),
    (lambda: fa.SELayer(8, 0), "SELayer: expected reduction >= 1, got 0"),
    (
        lambda: fa.SEBasicBlock(4, 4, groups=2),
        "SEBasicBlock: expected groups, base_width, dilation = 1, 64, 1, got 2, 64, 1",
    ),
    (lambda: fa.SpatialGroupEnhance(0), "SpatialGroupEnhance: expected groups >= 1, got 0"),
    (lambda: fa.ParallelPolarizedSelfAttention(1), "ParallelPolarizedSelfAttention: expected channel >= 2, got 1"),
    (lambda: fa.PSA_p(8, 16), "PSA_p: expected inplanes == planes, got 8, 16"),
    (lambda: fa.PSA_s(4, 4), "PSA_s: expected planes >= 8, got 4"),
    (lambda: fa.PSA_p(8, 8, stride=2), "PSA_p: expected stride 1, got 2"),
    (lambda: fa.GaussianNonLocalBlock(0), "GaussianNonLocalBlock: expected in_channels >= 1, got 0"),
    (lambda: fa.GaussianNonLocalBlock(4, 0), "GaussianNonLocalBlock: expected inter_channels None or >= 1, got 0"),
    (lambda: fa.GaussianNonLocalBlock(4, dimension=4), "GaussianNonLocalBlock: expected dimension 1, 2 or 3, got 4"),
    (lambda: fa.PAM_Module(4), "PAM_Module: expected in_dim >= 8, got 4"),
    (lambda: fa.DANetHead(16, 3), "DANetHead: expected in_channels >= 32, got 16"),
    (lambda: fa.CrissCrossAttention(4), "CrissCrossAttention: expected in_dim >= 8, got 4"),
    (lambda: fa.CrissCrossAttention3D(4), "CrissCrossAttention3D: expected in_dim >= 8, got 4"),
    (lambda: fa.RCCAModule(16, 8, 3), "RCCAModule: expected in_channels >= 32, got 16"),
    (lambda: fa.ABN(4, activation="elu"), "ABN: expected activation 'leaky_relu', 'relu' or 'identity', got 'elu'"),
    (lambda: fa.InPlaceABN(0), "InPlaceABN: expected num_features >= 1, got 0"),
]

CALL = [
    (fa.SELayer(8), (2, 5, 7, 6), "SELayer: expected 8 channels on the last axis, got shape (2, 5, 7, 6)"),
    (
        fa.SELayer(8),
        (2, 8, 5, 7),
        "SELayer: expected 8 channels on the last axis, got shape (2, 8, 5, 7); the input looks channels-first; "
        "move the channels to the last axis: x.transpose(0, 2, 3, 1)",
    ),
    (
        fa.NONLocalBlock1D(8),
        (2, 8, 5),
        "NONLocalBlock1D: expected 8 channels on the last axis, got shape (2, 8, 5); the input looks channels-first; "
        "move the channels to the last axis: x.transpose(0, 2, 1)",
    ),
    (fa.SELayer(8), (2, 3, 5, 7, 8), "SELayer: expected a channels-last input of rank 4, got shape (2, 3, 5, 7, 8)"),
    (fa.CAM_Module(8), (2, 5, 8), "CAM_Module: expected a channels-last input of rank 4, got shape (2, 5, 8)"),
    (fa.SpatialGroupEnhance(4), (2, 5, 7, 6), "SpatialGroupEnhance: 4 groups do not divide 6 channels"),
    (fa.SpatialGroupEnhance(4), (2, 5, 8), "SpatialGroupEnhance: expected an input (n, h, w, c), got shape (2, 5, 8)"),
    (
        fa.PSA_p(8, 8),
        (2, 5, 7, 6),
        "Conv2d at 'conv_q_left': expected 8 channels on the last axis, got shape (2, 5, 7, 6)",
    ),
    (
        fa.NONLocalBlock2D(6),
        (2, 5, 6),
        "NONLocalBlock2D: expected a channels-last input of rank 4, got shape (2, 5, 6)",
    ),
    (
        Sequential([fa.SELayer(8)]),
        (2, 5, 7, 6),
        "SELayer at '0': expected 8 channels on the last axis, got shape (2, 5, 7, 6)",
    ),
]


@pytest.mark.parametrize(("construct", "sentence"), CONSTRUCTION)
def test_arguments_are_refused_at_construction(construct, sentence):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        construct()
    assert str(error.value) == sentence


@pytest.mark.usefixtures("no_annotation_checks")
@pytest.mark.parametrize(("module", "shape", "sentence"), CALL)
def test_inputs_are_refused_at_the_call(module, shape, sentence):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        jax.eval_shape(module.init, jax.random.key(0), jnp.zeros(shape))
    assert str(error.value) == sentence


@pytest.mark.parametrize("groups", [5, 7])
def test_pytorch_refuses_groups_that_do_not_divide_too(groups):
    torch = pytest.importorskip("torch")
    from torch_ref.blocks.sge import SpatialGroupEnhance

    with pytest.raises(RuntimeError):
        SpatialGroupEnhance(groups)(torch.zeros(2, 6, 5, 7))


def test_spatial_group_enhance_is_nan_on_one_pixel_as_in_pytorch():
    torch = pytest.importorskip("torch")
    from torch_ref.blocks.sge import SpatialGroupEnhance

    module, x = fa.SpatialGroupEnhance(2), jnp.ones((1, 1, 1, 4))
    assert jnp.isnan(module.apply(module.init(jax.random.key(0), x), x)).all()
    with pytest.warns(UserWarning, match="degrees of freedom"):
        assert SpatialGroupEnhance(2)(torch.ones(1, 4, 1, 1)).isnan().all()


def test_spatial_group_enhance_has_a_gradient_where_a_group_is_constant():
    module, x = fa.SpatialGroupEnhance(2), jnp.zeros((1, 5, 7, 4))
    variables = module.init(jax.random.key(0), x)
    assert jnp.isfinite(jax.grad(lambda x: module.apply(variables, x).sum())(x)).all()
