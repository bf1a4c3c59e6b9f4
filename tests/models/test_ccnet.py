"""CCNet: the geometry and normalisations of its backbone, recurrence, and what stands before and behind it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from convert import plan
from flax_attn.blocks.inplace_abn import ABN, InPlaceABN
from flax_attn.models import ccnet
from tests.helpers.layer import channels_first, channels_last, check_function, check_refusal, layers_of, normal
from tests.helpers.parity import randomise
from tests.helpers.tolerances import assert_close
from torch_ref.models import ccnet as torch_ccnet
from torch_ref.twins import twin as twin_of

IMAGE = jax.ShapeDtypeStruct((1, 23, 33, 3), "float32")
SMALL = dict(num_classes=3, layers=(1, 1))


def weights(**kwargs):
    """The twin in float64 with random numbers in it, and its state dict."""
    twin = torch_ccnet.CCNet(**SMALL, **kwargs)
    randomise(twin, np.random.default_rng(0))
    return twin.double().eval(), {k: v.clone() for k, v in twin.state_dict().items()}


def scores(state, **kwargs):
    """What the network gives with the PyTorch ``state`` in it."""
    module, x = ccnet.CCNet(**SMALL, **kwargs), jnp.asarray(normal(*IMAGE.shape))
    return jax.jit(module.apply)(plan(module, x).from_torch(state), x)


def test_the_first_block_of_a_stage_dilates_like_the_others():
    stages = [(1, 1), (2, 1), (1, 2), (1, 4)]
    expected = {
        f"layer{i}.{j}.conv2": (stride if j == 0 else 1, dilation)
        for i, (stride, dilation) in enumerate(stages, 1)
        for j in range(2)
    }
    found = layers_of(ccnet.CCNet(19, (2, 2, 2, 2)), IMAGE)
    with torch.device("meta"):
        twins = dict(torch_ccnet.CCNet(19, (2, 2, 2, 2)).named_modules())
    assert {path: (found[path].stride, found[path].dilation) for path in expected} == expected
    assert {path: (twins[path].stride[0], twins[path].dilation[0]) for path in expected} == expected
    assert sum(path.endswith(".conv2") for path in found) == len(expected)


@pytest.mark.parametrize("inplace_abn", [True, False])
def test_only_the_two_heads_normalise_with_an_activation(inplace_abn):
    found = layers_of(ccnet.CCNet(**SMALL, inplace_abn=inplace_abn), IMAGE)
    with torch.device("meta"):
        twins = dict(torch_ccnet.CCNet(**SMALL, inplace_abn=inplace_abn).named_modules())
    cls = InPlaceABN if inplace_abn else ABN
    ours = {path: layer.activation for path, layer in found.items() if type(layer) is cls}
    theirs = {path: layer.activation for path, layer in twins.items() if type(layer) is twin_of(cls)}
    assert ours == theirs
    heads = {"head.conva.1", "head.convb.1", "head.bottleneck.1", "dsn.1"}
    assert {path for path, activation in ours.items() if activation == "leaky_relu"} == heads
    assert len(ours) == 3 + 2 * 4 + len(heads)


def test_the_pool_behind_the_stem_rounds_up():
    main, auxiliary = jax.eval_shape(ccnet.CCNet(**SMALL).init_with_output, jax.random.key(0), IMAGE)[0]
    assert (main.shape, auxiliary.shape) == ((1, 4, 5, 3), (1, 7, 9, 3))  # the stem leaves 12 x 17


def test_without_recurrence_there_is_no_attention_but_its_weights():
    twin, state = weights(recurrence=0)
    expected = twin(torch.tensor(channels_first(normal(*IMAGE.shape))))
    got = scores(state, recurrence=0)
    for ours, theirs in zip(got, expected, strict=True):
        assert_close(ours, channels_last(theirs.detach()))
    rows = [plan(ccnet.CCNet(**SMALL, recurrence=r), IMAGE).rows for r in (0, 2)]
    assert [row.key for row in rows[0]] == [row.key for row in rows[1]]


def test_each_recurrence_changes_the_scores_but_not_the_auxiliary_ones():
    _, state = weights()
    (main, auxiliary), (other, same) = scores(state, recurrence=1), scores(state, recurrence=2)
    assert np.abs(main - other).max() > 1e-3
    assert_close(auxiliary, same)


def test_plain_normalisation_gives_the_same_once_its_weights_are_made_so():
    _, state = weights()
    norms = {key.removesuffix("running_mean") + "weight" for key in state if key.endswith("running_mean")}
    plain = {key: value.abs() + 1e-5 if key in norms else value for key, value in state.items()}
    for got, expected in zip(scores(plain, inplace_abn=False), scores(state), strict=True):
        assert_close(got, expected)


def test_preprocess_swaps_the_colours_and_takes_their_means_away():
    red = np.zeros((2, 5, 7, 3), np.uint8)
    red[..., 0] = 200
    got = ccnet.preprocess(red)
    assert (got.shape, got.dtype) == (red.shape, np.float32)
    np.testing.assert_allclose(got[1, 4, 6], [-104.00698793, -116.66876762, 200 - 122.67891434], rtol=1e-6)


def test_preprocess_equals_its_twin():
    images = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), np.uint8)
    theirs = torch_ccnet.preprocess(torch.tensor(channels_first(images)))
    np.testing.assert_array_equal(ccnet.preprocess(images), channels_last(theirs))
    np.testing.assert_array_equal(ccnet.preprocess(images[0]), ccnet.preprocess(images)[0])


def test_upsample_puts_corners_on_corners():
    x = jnp.asarray(normal(2, 4, 5, 3))
    check_function(lambda x: ccnet.upsample(x, (23, 33)), lambda x: torch_ccnet.upsample(x, (23, 33)), x)
    np.testing.assert_allclose(ccnet.upsample(x, (23, 33))[:, ::22, ::32], x[:, ::3, ::4], rtol=1e-12)


@pytest.mark.parametrize("layers", [(), (1,), (1, 0), (1, 1, 1, 1, 1)])
def test_there_are_two_to_four_stages(layers):
    check_refusal(lambda: ccnet.CCNet(19, layers), "CCNet: expected two to four stages of blocks, got")


def test_recurrence_is_not_negative():
    refuses = "CCNet: expected recurrence >= 0, got -1"
    check_refusal(lambda: ccnet.CCNet(19, recurrence=-1), refuses, lambda: torch_ccnet.CCNet(19, recurrence=-1))
