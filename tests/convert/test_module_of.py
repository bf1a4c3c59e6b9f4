"""``save`` writes of which class a module is; ``module_of`` builds that very class, and imports nothing."""

import dataclasses
import json
import random
import sys
import time
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

import flax_attn
from convert import CheckpointError, module_of, restore, save
from convert.errors import RefusedError
from convert.variables_file import module_in
from flax_attn import Bottleneck, ResNet
from flax_attn.catalog.spelling import class_path, library, module_from_json, module_to_json
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


DEEP = '{"a":' * 5000 + "1" + "}" * 5000
ENDLESS = '{"channel": ' + "[" * 100_000 + "]" * 100_000 + "}"


def modules_inside(depth):
    """A module inside a module inside ..., as JSON."""
    value = {"module": "SELayer", "arguments": {"channel": 8}}
    for _ in range(depth):
        value = {"module": "SELayer", "arguments": {"channel": value}}
    return json.dumps(value["arguments"])


def with_metadata(path, **changes):
    """The file of an SELayer(8), with other metadata."""
    save(path, VARIABLES, flax_attn.SELayer(8))
    with safe_open(path, "np") as opened:
        metadata = opened.metadata()
    save_file({"params/x": VARIABLES["params"]["x"]}, path, {**metadata, **changes})
    return path


def refused(path, cls=()):
    started = time.monotonic()
    with pytest.raises(CheckpointError) as error:
        module_of(path, cls)
    assert time.monotonic() - started < 5
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1000
    return str(error.value)


@pytest.mark.parametrize(
    "name", ["load", "save", "int4", "array", "object", "float", "Float32", "", None, 3, ["float32"]]
)
def test_only_dtypes_are_dtypes(file, name):
    for key in ("dtype", "param_dtype"):
        path = with_metadata(file, arguments=json.dumps({"channel": 8, key: name}))
        assert "expected the name of a dtype, such as float32" in refused(path)


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float64", "int8", "float8_e4m3fn"])
def test_dtypes_are_read(file, name):
    path = with_metadata(file, arguments=json.dumps({"channel": 8, "dtype": name}))
    assert module_of(path) == flax_attn.SELayer(8, dtype=getattr(jnp, name))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("[]", "expected a dict of arguments in the metadata, got a list"),
        ("3", "expected a dict of arguments in the metadata, got a int"),
        ("null", "got a NoneType"),
        ("", "expected arguments in JSON in the metadata"),
        ("{", "expected arguments in JSON in the metadata"),
        ("\x00\x1b[31m", "expected arguments in JSON in the metadata"),
        (DEEP, "nested"),
        (ENDLESS, "nested"),
        (modules_inside(200), "nested"),
        ('{"channel": ' + "9" * 5000 + "}", "expected arguments in JSON in the metadata"),
        ('{"channel": ' + "9" * 4000 + "}", "expected integers of at most 16777216 in a file, got an integer of "),
        ('{"channel": 1000000000}', "expected integers of at most 16777216 in a file, got 1000000000"),
        ('{"channel": NaN}', "expected finite numbers in a file, got nan"),
        ('{"channel": Infinity}', "expected finite numbers"),
        ('{"channel": "16"}', "SELayer: expected int for channel, got '16'"),
        ('{"channel": 16.0}', "SELayer: expected int for channel, got 16.0"),
        ('{"channel": true}', "SELayer: expected int for channel, got True"),
        ('{"channel": {}}', "SELayer: expected int for channel, got {}"),
        ('{"channel": {"class": "SELayer"}}', "SELayer: expected int for channel, got <class"),
        ('{"channel": 8, "norm_layer": {"class": "os:system"}}', "the class os:system is none of the public classes"),
        ('{"channel": 8, "parent": 1}', "SELayer has no argument 'parent'"),
        ('{"channel": 8, "": 1}', "SELayer has no argument ''"),
        (json.dumps({"channel": 8, "x" * 10_000: 1}), "SELayer has no argument 'xxx"),
        (json.dumps({"channel": "x" * 10_000}), "SELayer: expected int for channel, got 'xxx"),
        (json.dumps({"channel": "x" * 10_000_000}), "expected arguments of at most 1000000 characters"),
    ],
)
def test_odd_arguments_are_one_sentence(file, arguments, words):
    assert words in refused(with_metadata(file, arguments=arguments))


@pytest.mark.parametrize(
    "name", ["", ":", "os", "SELayer:", "x" * 100_000, "\x1b[31m\nSELayer", "flax_attn.layers.conv:nn"]
)
def test_odd_names_are_one_sentence(file, name):
    assert "is none of the public classes of flax_attn" in refused(with_metadata(file, module=name))


def test_a_class_that_raises_anything_is_one_sentence(file):
    for error in (TypeError, AttributeError, KeyError, RecursionError, OverflowError, MemoryError, ZeroDivisionError):

        class Raising(SELayer):
            def __post_init__(self, error=error):
                super().__post_init__()
                if self.channel == 7:
                    raise error("on\npurpose")

        save(file, VARIABLES, Raising(8))
        path = with_metadata(file, module=class_path(Raising), arguments='{"channel": 7}')
        assert "Raising cannot be built from the" in refused(path, Raising)


VALUES = [
    None, True, -1, 0, 3, 10**9, 2**70, 0.5, float("nan"), "", "16", "load", "SELayer", [], [1], [[1, 2]], {}, {"a": 1},
    {"class": "SELayer"}, {"class": "os:system"}, {"class": 3}, {"module": "SELayer", "arguments": {"channel": 8}},
    {"module": "SELayer", "arguments": []}, {"module": 3, "arguments": {}},
]  # fmt: skip


def test_random_metadata_give_a_module_or_one_sentence():
    """Any class of the package, with random values for random arguments, in little time."""
    rng, built, sentences = random.Random(0), 0, []
    classes = sorted(library().items())
    started = time.monotonic()
    for _ in range(1500):
        path, cls = rng.choice(classes)
        fields = [field.name for field in dataclasses.fields(cls)]
        given = {name: rng.choice(VALUES) for name in rng.sample(fields, rng.randint(0, min(4, len(fields))))}
        text = json.dumps(given)
        if rng.random() < 0.2:
            at = rng.randrange(len(text))
            text = text[:at] + rng.choice('{}[]",:0\\e\x00') + text[at + rng.randint(0, 3) :]
        try:
            metadata = {"module": path, "arguments": text}
            built += isinstance(module_in(metadata, ()), nn.Module)
        except RefusedError as error:
            sentences.append(str(error))
    assert not [text for text in sentences if "\n" in text or len(text) > 600]
    assert built > 10
    assert time.monotonic() - started < 30
