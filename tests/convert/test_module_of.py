"""``save`` writes of which class a module is; ``module_of`` builds that very class, and imports nothing."""

import json
import sys
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

import flax_attn
from convert import CheckpointError, module_of, restore, save
from flax_attn import Bottleneck, ResNet
from flax_attn.catalog.spelling import class_path, module_from_json, module_to_json
from flax_attn.layers import BatchNorm2d, Conv2d, FrozenBatchNorm2d, Linear, Module

VARIABLES = {"params": {"x": np.zeros(3)}}


class SELayer(Module):
    """A class of a user, with the name of another one of this package."""

    channel: int
    reduction: int = 16

    @nn.compact
    def __call__(self, x, train=False):
        return Linear(self.channel, self.channel)(x)


class Plain(nn.Module):
    width: int = 4
    gate: Any = None
    norm: type = BatchNorm2d
    sizes: tuple = (1, 2)
    gates: Any = ()
    options: Any = None

    @nn.compact
    def __call__(self, x):
        return x


@pytest.fixture
def file(tmp_path):
    return tmp_path / "net.safetensors"


def test_a_class_of_a_user_is_never_taken_for_one_of_this_package(file):
    save(file, VARIABLES, SELayer(8))
    with pytest.raises(CheckpointError, match=r"test_module_of:SELayer is none of the public classes .* cls=SELayer"):
        module_of(file)
    own = module_of(file, cls=SELayer)
    assert type(own) is SELayer
    assert own == SELayer(8)
    assert restore(file).keys() == restore(file, cls=SELayer).keys() == {"params"}


def test_a_class_of_this_package_is_never_taken_for_one_of_a_user(file):
    save(file, VARIABLES, flax_attn.SELayer(8))
    assert module_of(file) == flax_attn.SELayer(8)
    words = r"expected a module of the class tests.convert.test_module_of:SELayer, got flax_attn.blocks.se:SELayer"
    for read in (module_of, restore):
        with pytest.raises(CheckpointError, match=words):
            read(file, cls=SELayer)
    assert module_of(file, cls=flax_attn.SELayer) == flax_attn.SELayer(8)


def test_layers_have_a_path_too(file):
    save(file, VARIABLES, Conv2d(3, 4, (3, 1), padding=1, dtype=jnp.bfloat16))
    assert module_of(file) == Conv2d(3, 4, (3, 1), padding=1, dtype=jnp.bfloat16)


NESTED = Plain(
    width=5, gate=SELayer(3), norm=FrozenBatchNorm2d, sizes=(4, (5, 6)), gates=(flax_attn.SELayer(4), SELayer(2)),
)  # fmt: skip


def test_modules_and_classes_in_arguments(file):
    save(file, VARIABLES, NESTED)
    assert module_of(file, cls=[Plain, SELayer]) == NESTED
    with pytest.raises(CheckpointError, match=r"the class tests\.convert\.test_module_of:SELayer is none of"):
        module_of(file, cls=Plain)
    save(file, VARIABLES, Plain(norm=SELayer, options={"gate": SELayer(2)}))
    again = module_of(file, cls=(SELayer, Plain))
    assert again.norm is SELayer
    assert again.options["gate"] == SELayer(2)


def test_a_module_of_this_package_may_hold_classes_of_a_user(file):
    class Norm(BatchNorm2d):
        pass

    net = ResNet(Bottleneck, (1, 2), norm_layer=Norm)
    save(file, VARIABLES, net)
    assert module_of(file, cls=Norm) == net


def spelled(**changes):
    return {**module_to_json(flax_attn.SELayer(8)), **changes}


def test_files_with_bare_names_still_open():
    assert module_from_json(spelled(module="SELayer")) == flax_attn.SELayer(8)
    assert module_from_json(spelled(module="SELayer"), [SELayer]) == SELayer(8)
    old = {"block": "Bottleneck", "layers": [1, 2], "norm_layer": "FrozenBatchNorm2d"}
    again = module_from_json({"module": "ResNet", "arguments": old})
    assert again == ResNet(Bottleneck, (1, 2), norm_layer=FrozenBatchNorm2d)


def test_the_class_of_a_started_script_may_be_imported_later():
    assert module_from_json(spelled(module="__main__:SELayer"), [SELayer]) == SELayer(8)
    with pytest.raises(ValueError, match="__main__:Other is none of"):
        module_from_json(spelled(module="__main__:Other"), [SELayer])
    with pytest.raises(ValueError, match="elsewhere:SELayer is none of"):
        module_from_json(spelled(module="elsewhere:SELayer"), [SELayer])


def test_a_file_imports_nothing(tmp_path, monkeypatch):
    (tmp_path / "trap_of_a_file.py").write_text("raise AssertionError")
    monkeypatch.syspath_prepend(tmp_path)
    for path in ("trap_of_a_file:SELayer", "flax_attn.trap:SELayer", "os:system", "flax_attn.layers.conv:jnp"):
        with pytest.raises(ValueError, match="is none of the public classes of flax_attn"):
            module_from_json(spelled(module=path))
    assert "trap_of_a_file" not in sys.modules


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"chanel": 8}, "SELayer has no argument 'chanel'; it takes channel, reduction"),
        ({}, "SELayer needs a value for channel"),
    ],
)
def test_arguments_that_the_class_does_not_take(arguments, sentence):
    for own in ((), [SELayer]):
        with pytest.raises(ValueError, match=sentence):
            module_from_json(spelled(module="SELayer", arguments=arguments), own)


def test_what_is_written_is_plain_json():
    written = json.loads(json.dumps(module_to_json(NESTED)))["arguments"]
    assert written["norm"] == {"class": class_path(FrozenBatchNorm2d)}
