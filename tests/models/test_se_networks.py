"""The networks with squeeze-and-excitation: what tells Cadene's and timm's from moskomule's, and dead weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from flax_attn.blocks import inception, se
from flax_attn.models import se_inception, se_resnet
from flax_attn.models.preprocess import IMAGENET_MEAN, IMAGENET_STD
from tests.helpers.layer import array, check_refusal, trace
from torch_ref.blocks import se as torch_se
from torch_ref.models import se_inception as torch_se_inception
from torch_ref.models import se_resnet as torch_se_resnet
from torch_ref.twins import twin


@pytest.mark.parametrize(
    ("make", "after"),
    [
        (se_resnet.se_resnet50, (8, 128)),
        (se_resnet.timm_seresnet50, (8, 128)),
        (se_resnet.legacy_seresnet50, (4, 128)),
        (se_resnet.legacy_seresnext50_32x4d, (8, 256)),
        (se_resnet.legacy_senet154, (8, 256)),
    ],
)
def test_width_and_size_after_the_first_convolution_of_a_bottleneck(make, after):
    network = make()
    arguments = (256, 128, 2, None, network.groups, network.width_per_group)
    ours, _ = trace(network.block(*arguments), 1, 8, 8, 256, method=lambda block, x: block.conv1(x))
    theirs = twin(network.block)(*arguments).conv1(torch.zeros(1, 256, 8, 8))
    assert (ours.shape[1], ours.shape[3]) == after == (theirs.shape[2], theirs.shape[1])


@pytest.mark.parametrize("name", ["SEResNetBottleneck", "SENetBottleneck"])
def test_widths_that_a_block_would_ignore_are_refused(name):
    refuses = f"{name}: expected base_width 64, got 4"
    ours, theirs = getattr(se, name), getattr(torch_se, name)
    check_refusal(lambda: ours(8, 8, base_width=4), refuses, lambda: theirs(8, 8, base_width=4))


def test_an_even_shortcut_is_refused():
    arguments = dict(layers=(1,), downsample_kernel_size=2)
    check_refusal(
        lambda: se_resnet.SENet(se.SEResNetBlock, **arguments),
        "SENet: expected an odd downsample_kernel_size, got 2",
        lambda: torch_se_resnet.SENet(torch_se.SEResNetBlock, **arguments),
    )


def test_the_stem_of_senet_keeps_an_incomplete_window():
    blocks = dict(block=se.SEResNetBlock, layers=(1,), num_classes=0)
    ours, torchvisions = (
        trace(cls(**blocks), 1, 35, 41, 3, method="features")[0][0] for cls in (se_resnet.SENet, se_resnet.SEResNet)
    )
    assert ours.shape == (1, 9, 10, 64)
    assert torchvisions.shape == (1, 9, 11, 64)


@pytest.mark.parametrize("make", [se_resnet.se_resnet18, se_resnet.cifar_se_resnet20])
def test_reduction_reaches_every_gate(make):
    state = getattr(torch_se_resnet, make.__name__)(reduction=4).state_dict()
    gates = {key: tensor.shape for key, tensor in state.items() if key.endswith("se.fc.0.weight")}
    assert gates
    assert all(hidden * 4 == channel for hidden, channel in gates.values())
    variables = trace(make(reduction=4), 1, 32, 32, 3)[1]
    stem, layer = variables["params"]["conv1"]["kernel"], variables["params"]["layer2"]["0"]["se"]["fc"]
    assert layer["0"]["kernel"].shape == gates["layer2.0.se.fc.0.weight"][::-1]
    assert stem.shape[-1] == state["conv1.weight"].shape[0]


@pytest.mark.parametrize("gated", [False, True])
def test_the_gate_of_an_inception_block_is_dead_unless_it_is_asked_for(gated):
    x = jnp.abs(array(2, 5, 7, 32, dtype="float32"))
    block = inception.InceptionA(32, 4, gated=gated)
    variables = jax.jit(block.init)(jax.random.key(0), x)
    gate = jax.tree.map(lambda w: w + 1, variables["params"]["SELayer"])
    moved = {**variables, "params": {**variables["params"], "SELayer": gate}}
    before, after = map(jax.jit(block.apply), (variables, moved), (x, x))
    assert bool(jnp.array_equal(before, after)) != gated


def test_auxiliary_scores_need_their_classifier():
    check_refusal(
        lambda: trace(se_inception.SEInception3(aux_logits=False), 1, 299, 299, 3, aux=True),
        "SEInception3: expected aux=True only with aux_logits, got aux_logits=False",
        lambda: torch_se_inception.SEInception3(aux_logits=False)(torch.zeros(1, 3, 299, 299), aux=True),
    )


@pytest.mark.slow
def test_inception_takes_75_pixels_and_no_less():
    network = se_inception.SEInception3(num_classes=5)
    assert trace(network, 1, 75, 75, 3)[0].shape == (1, 5)
    with pytest.raises(ValueError, match="expected an input that"):
        trace(network, 1, 74, 75, 3)


@pytest.mark.slow
def test_transform_input_turns_imagenets_normalisation_into_one_to_plus_minus_one():
    images = jax.random.uniform(jax.random.key(1), (1, 75, 75, 3))
    plain = se_inception.SEInception3(num_classes=5, aux_logits=False)
    transforming = plain.clone(transform_input=True)
    variables = jax.jit(plain.init)(jax.random.key(0), images)
    normalised = (images - jnp.float32(IMAGENET_MEAN)) / jnp.float32(IMAGENET_STD)
    got = jax.jit(transforming.apply)(variables, normalised)
    np.testing.assert_allclose(got, jax.jit(plain.apply)(variables, 2 * images - 1), rtol=1e-4, atol=1e-4)
