"""The constructors of the published networks: their arguments, their names at the top, and what they say."""

import contextlib
import dataclasses
import inspect
import re
from typing import get_type_hints

import jax.numpy as jnp
import pytest

import flax_attn
from flax_attn import DETR, DETRsegm, detr_resnet50_panoptic, resnet50
from flax_attn.blocks.resnet import BasicBlock
from flax_attn.constructor import LINEN_ONLY, constructor
from flax_attn.models.resnet import ResNet
from tests.helpers.walk import walk_published

OTHER = {bool: lambda v: not v, int: lambda v: 2 * v, float: lambda v: v / 2 + 0.1, str: lambda v: "learned"}
OTHER |= {tuple: lambda v: v[::-1], type: lambda v: BasicBlock}
REFUSED = {("LDNet", "num_classes"), ("LDNetResNet34", "num_classes"), ("SENet", "downsample_kernel_size")}


def made_of(entry):
    """The class whose arguments the constructor takes."""
    made = get_type_hints(entry.cls)["return"]
    return DETR if made is DETRsegm else made


def holder(module):
    """The module that has the arguments of the constructor."""
    return module.detr if isinstance(module, DETRsegm) else module


@walk_published
def test_a_constructor_takes_every_argument_of_its_class_and_a_dtype(entry):
    fields = {f.name for f in dataclasses.fields(made_of(entry)) if f.init} - {*LINEN_ONLY}
    parameters = inspect.signature(entry.cls).parameters
    assert fields == parameters.keys() == get_type_hints(entry.cls).keys() - {"return"}
    assert {"dtype", "param_dtype"} <= fields
    positional = [name for name, p in parameters.items() if p.kind is not p.KEYWORD_ONLY]
    assert positional == [name for name in ("num_classes",) if name in fields]
    module = entry.cls(dtype=jnp.bfloat16, param_dtype=jnp.float16)
    assert isinstance(module, get_type_hints(entry.cls)["return"])
    assert (module.dtype, module.param_dtype) == (jnp.bfloat16, jnp.float16)


@walk_published
def test_an_argument_reaches_the_network_or_its_class_refuses_the_value(entry):
    plain, reached, given = holder(entry.cls()), set(), {}
    for name, parameter in inspect.signature(entry.cls).parameters.items():
        assert getattr(plain, name) == parameter.default
        if parameter.default is not None:
            given[name] = OTHER[type(parameter.default)](parameter.default)
    for name, value in given.items():
        with contextlib.suppress(ValueError, TypeError):
            assert getattr(holder(entry.cls(**{name: value})), name) == value
            reached.add(name)
    assert {(type(plain).__name__, name) for name in given.keys() - reached} <= REFUSED


@walk_published
def test_a_constructor_is_at_the_top_and_says_what_it_takes(entry):
    assert getattr(flax_attn, entry.cls.__name__) is entry.cls
    text = " ".join(entry.cls.__doc__.split())
    assert re.search(r"Input: (images|digits) \(n, \w+, \w+, [13]\)", text), "the shape"
    assert "from 0 to 1," in text or "from 0 to 255," in text, "the range"
    assert "normalised" in text, "the normalisation"


def test_the_number_of_classes_may_be_given_by_position():
    assert resnet50(10) == resnet50(num_classes=10) == ResNet(resnet50().block, (3, 4, 6, 3), 10)


@pytest.mark.parametrize("make", [lambda: resnet50(num_class=10), lambda: resnet50(10, BasicBlock)])
def test_an_unknown_argument_is_a_type_error_that_lists_the_arguments(make):
    with pytest.raises(TypeError, match=r"^resnet50: .*; it takes num_classes, block, layers, .*, dtype, param_dtype$"):
        make()


def test_the_twin_refuses_the_same_arguments():
    pytest.importorskip("torch")
    from torch_ref.models.resnet import resnet50 as theirs

    with pytest.raises(TypeError, match=r"^resnet50: .*; it takes num_classes, block, layers, .*, multi_grid$"):
        theirs(num_class=10)
    with pytest.raises(TypeError, match=r"^resnet50: .*; it takes "):
        theirs(dtype="bfloat16")


@pytest.mark.usefixtures("no_annotation_checks")
def test_a_bad_combination_is_refused_by_the_class():
    with pytest.raises(ValueError, match=r"^DANet: expected .* for multi_grid, got False"):
        flax_attn.danet_resnet50(multi_grid=False)
    with pytest.raises(ValueError, match=r"^DETRsegm: expected a detector of four stages, got 2"):
        detr_resnet50_panoptic(layers=(1, 1))


def test_a_constructor_has_no_defaults_for_arguments_that_its_class_lacks():
    with pytest.raises(TypeError, match="ResNet has no argument depth"):
        constructor(ResNet, len, depth=50)(test_a_bad_combination_is_refused_by_the_class)
