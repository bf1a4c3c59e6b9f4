"""Arguments and inputs that cannot work are refused early, in one sentence: who, what was expected, what came."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flax_attn as fa
from flax_attn import layers
from flax_attn.blocks.criss_cross import criss_cross_attention
from flax_attn.catalog import CATALOG, arguments
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


NOT_INTEGERS = [("'16'", "16"), ("16.0", 16.0), ("True", True), ("None", None), ("[]", []), ("nan", float("nan"))]


@pytest.mark.usefixtures("no_annotation_checks")
@pytest.mark.parametrize(("shown", "value"), NOT_INTEGERS)
def test_an_argument_of_another_type_is_refused(shown, value):
    with pytest.raises(ValueError, match=r"^SELayer: expected int for channel, got ") as error:
        fa.SELayer(value)
    assert str(error.value).endswith(f"got {shown}")


@pytest.mark.usefixtures("no_annotation_checks")
@pytest.mark.parametrize(
    ("construct", "sentence"),
    [
        (lambda: fa.SELayer(8, bias="no"), "SELayer: expected bool for bias, got 'no'"),
        (lambda: fa.SELayer(8, bias=1), "SELayer: expected bool for bias, got 1"),
        (lambda: fa.SELayer(8, hidden=2.5), "SELayer: expected int | None for hidden, got 2.5"),
        (lambda: layers.Dropout("x"), "Dropout: expected float for p, got 'x'"),
        (lambda: layers.Conv2d(3, 4, "3"), "Conv2d: expected int | Sequence[int] for kernel_size, got '3'"),
        (
            lambda: layers.Conv2d(3, 4, (3, 2.0)),
            "Conv2d: expected int | Sequence[int] for kernel_size, got [3, 2.0]",
        ),
        (lambda: layers.Conv2d(3, 4, 3, padding_mode=1), "Conv2d: expected str for padding_mode, got 1"),
        (lambda: fa.SELayer(10**5000), "SELayer: expected int below 2**31 for channel, got an integer of 16610 bits"),
        (lambda: fa.SELayer("x" * 10**6), f"SELayer: expected int for channel, got '{'x' * 79}..."),
    ],
)
def test_the_sentence_names_class_argument_and_value(construct, sentence):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        construct()
    assert str(error.value) == sentence


@pytest.mark.usefixtures("no_annotation_checks")
def test_numbers_of_numpy_lists_and_dtypes_are_arguments():
    assert fa.SELayer(np.int64(16), np.int32(4), np.bool_(True)) == fa.SELayer(16, 4, True)
    assert layers.Conv2d(3, 4, [3, 1]).axes("kernel_size") == [(3, 1)]
    assert layers.Conv2d(3, 4, np.array([3, 1])).axes("kernel_size") == [(3, 1)]
    assert layers.Dropout(np.float32(0.5)).p == layers.Dropout(jnp.float32(0.5)).p == 0.5
    assert layers.Dropout(0).p == 0
    assert fa.SELayer(8, dtype="bfloat16", param_dtype=np.float32).dtype == "bfloat16"
    assert layers.Linear(2, 3, kernel_init=lambda *_: jnp.ones((2, 3))).in_features == 2


def test_a_class_of_a_user_may_declare_what_it_likes():
    class Own(fa.SELayer):
        channel: str = "eight"
        width: int = None
        rate: float = "much"

        def __post_init__(self):
            layers.Module.__post_init__(self)

    assert Own(channel="ten", width="wide").channel == "ten"
    with pytest.raises(ValueError, match="Own: expected int for reduction, got 'a'"):
        Own(reduction="a")


def integers_of(entry):
    """The arguments of ``entry`` that are annotated as integers of this package."""
    known = arguments(entry.cls)
    return [name for name in known if known[name].annotation in (int, int | None)]


@pytest.mark.usefixtures("no_annotation_checks")
def test_no_integer_of_any_class_may_be_a_string():
    """Every class of the catalog, and every argument."""
    seen = set()
    for entry in CATALOG:
        for name in integers_of(entry):
            if (entry.cls, name) in seen:
                continue
            seen.add((entry.cls, name))
            for value in ("16", 2.5, True):
                with pytest.raises((ValueError, TypeError)) as error:
                    entry.module(**{name: value})
                assert "\n" not in str(error.value)
                assert name in str(error.value)
    assert len(seen) > 100


@pytest.mark.usefixtures("no_annotation_checks")
@pytest.mark.parametrize("value", ["no", "", 0, 1, None, [], jnp.bool_(True), np.array([True])])
def test_train_must_be_a_bool(value):
    x = jnp.ones((1, 3, 4, 8))
    for module in (fa.SELayer(8), layers.BatchNorm2d(8), layers.Dropout(), Sequential([layers.ReLU()])):
        variables = jax.eval_shape(module.init, jax.random.key(0), x)
        who = type(module).__name__
        with pytest.raises(ValueError, match=f"^{who}: expected train to be True or False, got ") as error:
            jax.eval_shape(lambda v, module=module: module.apply(v, x, train=value), variables)
        assert "\n" not in str(error.value)


@pytest.mark.usefixtures("no_annotation_checks")
def test_train_may_be_a_bool_of_numpy_but_no_traced_one_where_it_matters():
    module, x = fa.SELayer(8), jnp.ones((1, 3, 4, 8))
    variables = module.init(jax.random.key(0), x)
    assert (module.apply(variables, x, np.bool_(True)) == module.apply(variables, x)).all()
    jax.jit(lambda train: module.apply(variables, x, train))(True)
    for follower in (layers.Dropout(), layers.BatchNorm2d(8)):
        variables = follower.init(jax.random.key(0), x)
        with pytest.raises(ValueError, match="got an array of JAX; use static_argnames='train'"):
            jax.eval_shape(lambda train, f=follower, v=variables: f.apply(v, x, train), jnp.array(True))


INTEGERS = jnp.ones((1, 3, 4, 8), jnp.int32)
NEED_FLOATS = {
    "criss_cross_attention": lambda x: criss_cross_attention(x, x, x),
    "softmax": layers.softmax,
    "log_softmax": layers.log_softmax,
    "sigmoid": layers.sigmoid,
    "gelu": layers.gelu,
    "tanh": layers.tanh,
    "leaky_relu": layers.leaky_relu,
    "prelu": lambda x: layers.prelu(x, jnp.ones(8)),
    "avg_pool": lambda x: layers.avg_pool(x, 2),
    "adaptive_avg_pool": lambda x: layers.adaptive_avg_pool(x, 2),
    "std": lambda x: layers.std(x, (1, 2)),
    "grid_sample": lambda x: layers.grid_sample(x, jnp.zeros((1, 2, 2, 2))),
    "affine_grid": lambda x: layers.affine_grid(x[:, :2, :3, 0], (1, 3, 4, 8)),
    "interpolate": lambda x: layers.interpolate(x, 7, mode="bilinear"),
}


@pytest.mark.usefixtures("no_annotation_checks")
@pytest.mark.parametrize("name", NEED_FLOATS)
def test_integers_are_refused_where_floats_are_needed(name):
    for dtype in ("int32", "uint8", "bool"):
        with pytest.raises(ValueError, match=rf"^{name}.*: expected an array of floating point numbers, got {dtype}"):
            NEED_FLOATS[name](INTEGERS.astype(dtype))


def test_a_module_that_would_make_too_many_layers_is_refused():
    net = fa.ResNet(fa.Bottleneck, (10**5, 1))
    with pytest.raises(ValueError, match="ResNet: expected arguments that make at most 10000 layers, got more"):
        jax.eval_shape(net.init, jax.random.key(0), jnp.ones((1, 32, 32, 3)))
