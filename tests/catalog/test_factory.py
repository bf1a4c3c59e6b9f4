"""Networks and attention blocks by their names."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from flax_attn import (
    PUBLISHED,
    SELayer,
    create_attention,
    create_model,
    list_attentions,
    list_models,
    non_local_net,
    resnet18,
)
from flax_attn.factory import ATTENTIONS

X = jnp.zeros((2, 7, 5, 16))


def test_every_published_network_is_listed_and_made():
    names = list_models()
    assert names == sorted(set(names))
    assert {entry.name for entry in PUBLISHED} <= set(names)
    assert all(create_model(entry.name) == entry.cls() for entry in PUBLISHED)


def test_models_take_arguments():
    assert create_model("resnet18", num_classes=7, dtype=jnp.bfloat16) == resnet18(7, dtype=jnp.bfloat16)
    assert create_model("ResNet", block=resnet18().block, layers=(2, 2, 2, 2)) == resnet18()
    with pytest.raises(TypeError, match="resnet18: got an unexpected keyword argument 'classes'; it takes num_classes"):
        create_model("resnet18", classes=7)


def test_a_filter_knows_wildcards_and_no_case():
    found = list_models("*se*")
    assert {"SEResNet", "se_resnet50", "legacy_senet154"} <= set(found)
    assert all("se" in name.lower() for name in found)
    assert list_models("resnet?8") == ["resnet18"]
    assert list_models("nothing") == list_attentions("nothing") == []
    assert list_attentions("polarized*") == ["polarized", "polarized_sequential"]


def test_a_class_and_its_constructor_are_listed_once():
    assert list_models("*non*local*") == ["non_local_net"]
    assert create_model("NonLocalNet") == non_local_net()


@pytest.mark.parametrize("name", list_attentions())
def test_an_attention_keeps_the_shape_in_a_users_module(name):
    class Network(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            x = nn.relu(x)
            return create_attention(name, 16, dtype=jnp.float16)(x, train=train)

    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    y, variables = jax.eval_shape(lambda: Network().init_with_output(rngs, X, train=False))
    assert (y.shape, y.dtype) == (X.shape, jnp.float16)
    trained = jax.eval_shape(lambda v: Network().apply(v, X, train=True, rngs=rngs, mutable=["batch_stats"]), variables)
    assert trained[0].shape == X.shape


def test_an_attention_may_be_named_by_its_class():
    assert create_attention("se", 16, reduction=4) == create_attention("SELayer", 16, reduction=4) == SELayer(16, 4)
    for name, (cls, _) in ATTENTIONS.items():
        assert create_attention(cls.__name__, 16) == create_attention(name, 16)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (
            lambda: create_model("resnet55"),
            r"no network is called 'resnet55'; did you mean .*resnet50.*; list_models",
        ),
        (lambda: create_model("qqq"), r"no network is called 'qqq'; list_models\(\) lists the names"),
        (
            lambda: create_attention("CBMA", 8),
            r"no attention block is called 'CBMA'; did you mean .*cbam.*; list_att",
        ),
        (lambda: create_attention("pam", 4), "PAM_Module: expected in_dim >= 8, got 4"),
    ],
)
def test_unknown_names_and_bad_values_are_one_sentence(make, sentence):
    with pytest.raises(ValueError, match=sentence) as error:
        make()
    assert "\n" not in str(error.value)
