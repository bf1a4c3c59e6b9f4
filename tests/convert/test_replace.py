"""``from_torch(..., replace=("fc",))`` takes all but what is named from a state dict, and is strict with the rest."""

import dataclasses
import json
import re
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from convert import Checkpoint, MismatchError, from_torch, from_torch_checkpoint, plan, restore, save_torch, to_torch
from convert.__main__ import main
from convert.comparing.case import random_state
from convert.forms import ROWS
from convert.renaming import Dialect, Rule
from convert.replacing import Replaced, no_initial
from flax_attn import layers
from flax_attn.models.cifar_resnet import CifarResNet
from tests.helpers.layer_cases import normal

X = normal(2, 5, 4, 3)


class Net(layers.Module):
    """A convolution, and a head whose name begins like that of the next layer."""

    num_classes: int = 5
    deep: bool = False

    @nn.compact
    def __call__(self, x, train=False):
        x = layers.BatchNorm2d(6, name="bn")(layers.Conv2d(3, 6, 3, name="conv")(x), train)
        x = layers.Linear(6, 6, name="fc2")(x.mean((1, 2)))
        if not self.deep:
            return layers.Linear(6, self.num_classes, name="fc")(x)
        head = [layers.Linear(6, 6), layers.BatchNorm1d(6), layers.Linear(6, self.num_classes)]
        return layers.Sequential(head, name="fc")(x, train)


def state_of(module, seed=0, dtype="float32"):
    return random_state(plan(module, X), np.random.default_rng(seed), dtype)


def flat(variables):
    return traverse_util.flatten_dict(variables, sep="/")


def same(a, b):
    return a.dtype == b.dtype and np.array_equal(a, b)


def check(module, state, variables, prefix, key, inputs=X):
    """What is below ``prefix`` is that of ``module.init``, all else that of ``state``."""
    initial, found = flat(module.init(key, inputs)), flat(variables)
    names = tuple(f"{name}." for name in (prefix, *(second for second, first in module.aliases if first == prefix)))
    kept = {k: v for k, v in state.items() if not k.startswith(names)}
    assert found.keys() == initial.keys()
    new = {path for path in found if f"/{prefix}/" in f"/{path}/"}
    assert new
    assert all(same(found[path], np.asarray(initial[path])) for path in new)
    back = to_torch(module, variables, inputs)
    assert all(np.array_equal(back[key], value) for key, value in kept.items() if key in back)
    assert {key for key in back if not key.startswith(names)} <= kept.keys()


def test_another_number_of_classes():
    state, module = state_of(Net()), Net(num_classes=7)
    variables = from_torch(module, state, X, replace=("fc",))
    assert variables["params"]["fc"]["kernel"].shape == (6, 7)
    check(module, state, variables, "fc", jax.random.key(0))
    assert flat(variables).keys() == flat(from_torch(module, state, X, replace="fc.")).keys()


@pytest.mark.parametrize("rng", [3, np.int64(3), jax.random.key(3), jax.random.PRNGKey(3)])
def test_the_new_leaves_follow_the_key(rng):
    state, module = state_of(Net()), Net(7)
    variables = from_torch(module, state, X, replace=("fc",), rng=rng)
    check(module, state, variables, "fc", rng if hasattr(rng, "shape") and rng.shape != () else jax.random.key(3))
    again = from_torch(module, state, X, replace=("fc",), rng=rng)
    other = from_torch(module, state, X, replace=("fc",), rng=4)
    assert all(same(a, b) for a, b in zip(flat(variables).values(), flat(again).values(), strict=True))
    assert not np.array_equal(variables["params"]["fc"]["kernel"], other["params"]["fc"]["kernel"])
    assert np.array_equal(variables["params"]["fc2"]["kernel"], other["params"]["fc2"]["kernel"])


@pytest.mark.parametrize(
    "old", [{}, {"fc.weight": np.zeros((2, 9), np.float32)}, {"fc.0.more": np.zeros(3), "fc": None}]
)
def test_below_the_prefix_a_file_may_have_anything(old):
    state = {key: value for key, value in state_of(Net()).items() if not key.startswith("fc.")} | old
    module = Net(7)
    check(module, state, from_torch(module, state, X, replace=("fc",)), "fc", jax.random.key(0))


def test_everything_else_stays_strict():
    state = state_of(Net())
    spoiled = {key: value for key, value in state.items() if key not in ("fc2.bias", "bn.running_var")}
    spoiled |= {"fc3.weight": np.zeros(3), "conv.weight": np.zeros((6, 3, 1, 1)), "fc2": np.zeros(1)}
    with pytest.raises(MismatchError) as caught:
        from_torch(Net(7), spoiled, X, replace=("fc",))
    marks = {"- fc2.bias", "- bn.running_var", "+ fc3.weight", "+ fc2", "~ conv.weight"}
    assert {line.partition(":")[0] for line in caught.value.problems} == marks
    with pytest.raises(MismatchError) as caught:
        from_torch(Net(7), state, X, replace=("fc2",))
    assert {line.partition(":")[0] for line in caught.value.problems} == {"~ fc.weight", "~ fc.bias"}


def test_one_leaf_alone():
    state, module = state_of(Net()), Net()
    del state["fc2.bias"]
    variables = from_torch(module, state, X, replace=["fc2.bias"])
    assert same(
        variables["params"]["fc2"]["bias"], np.asarray(module.init(jax.random.key(0), X)["params"]["fc2"]["bias"])
    )
    assert np.array_equal(variables["params"]["fc2"]["kernel"], state["fc2.weight"].T)


def test_statistics_below_the_prefix():
    state, module = state_of(Net(deep=True)), Net(7, deep=True)
    variables = from_torch(module, state, X, replace=("fc",))
    check(module, state, variables, "fc", jax.random.key(0))
    assert np.array_equal(variables["batch_stats"]["fc"]["1"]["var"], np.ones(6))
    assert np.array_equal(variables["batch_stats"]["bn"]["var"], state["bn.running_var"])
    only = from_torch(module, {**state, "fc.2.weight": None}, X, replace=("fc.2",))
    assert np.array_equal(only["batch_stats"]["fc"]["1"]["var"], state["fc.1.running_var"])


@pytest.mark.parametrize(
    ("replace", "words"),
    [
        (("fcc",), "expected replace to name leaves of Net, got 'fcc'; did you mean fc or fc2?"),
        (("fc", "head"), "got 'head'; the keys begin with conv, bn, fc2, fc"),
        (("weight",), "got 'weight'; did you mean conv.weight or bn.weight or fc2.weight or fc.weight?"),
        (("module.fc",), "got 'module.fc'; did you mean fc?"),
        (("",), "got ''"),
        (("f",), "got 'f'"),
        (("fc.weight.0",), "got 'fc.weight.0'"),
        (("fc/kernel",), "got 'fc/kernel'"),
        (None, "expected replace to be a list of prefixes of keys, such as ['fc'], got None"),
        ((1,), "got (1,)"),
    ],
)
def test_a_prefix_that_names_nothing(replace, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        from_torch(Net(), state_of(Net()), X, replace=replace)


@pytest.mark.parametrize("rng", ["0", 0.5, None, jnp.zeros(2), jax.random.split(jax.random.key(0), 3)])
def test_what_is_no_key(rng):
    with pytest.raises(ValueError, match=re.escape("expected rng to be an int or a key of jax.random, got ")):
        from_torch(Net(), state_of(Net()), X, replace=("fc",), rng=rng)


def test_a_plan_and_a_checkpoint():
    state, module = state_of(Net()), Net(7)
    mapping = plan(module, jax.ShapeDtypeStruct(X.shape, X.dtype))
    expected = flat(from_torch(module, state, X, replace=("fc",), rng=2))
    checkpoint = Checkpoint(arrays=state, format="zip pickle")
    for found in (
        mapping.from_torch(state, replace=("fc",), rng=2),
        mapping.from_torch(checkpoint, replace=("fc",), rng=2),
        from_torch(module, checkpoint, X, replace=("fc",), rng=2),
    ):
        assert all(same(a, b) for a, b in zip(flat(found).values(), expected.values(), strict=True))
    with pytest.raises(ValueError, match="got one without a module"):
        dataclasses.replace(mapping, initial=no_initial).from_torch(state, replace=("fc",))


def test_the_state_of_an_optimizer_does_not_fit_a_new_head(tmp_path):
    with pytest.raises(ValueError, match=r"expected no replace, .* pass it to from_torch\(module, read\(path\), ...\)"):
        from_torch_checkpoint(tmp_path / "none.pth", Net(7), X, replace=("fc",))


def test_memory_of_the_callers_own():
    state, module = state_of(Net()), Net(7)
    mapping = plan(module, X)
    first, second = (mapping.from_torch(state, replace=("fc",)) for _ in range(2))
    for leaf in jax.tree.leaves(first):
        assert type(leaf) is np.ndarray
        assert leaf.flags.writeable
        assert leaf.flags.owndata
        leaf[...] = 0
    assert np.abs(second["params"]["fc"]["kernel"]).max() > 0
    assert np.abs(state["conv.weight"]).max() > 0


@pytest.mark.parametrize(
    ("stored", "asked", "kept", "new"),
    [
        ("float32", None, "float32", "float32"),
        ("float16", "keep", "float16", "float32"),
        ("float32", "bfloat16", "bfloat16", "bfloat16"),
        ("float64", "float32", "float32", "float32"),
    ],
)
def test_dtypes(stored, asked, kept, new):
    variables = from_torch(Net(7), state_of(Net(), dtype=stored), X, dtype=asked, replace=("fc",))
    assert variables["params"]["conv"]["kernel"].dtype == kept
    assert variables["params"]["fc"]["kernel"].dtype == new


def test_a_dialect_is_read_and_the_prefix_is_a_name_here():
    old, module = CifarResNet(1), CifarResNet(1, num_classes=7)
    x = normal(1, 32, 32, 3)
    state = random_state(plan(old, x), np.random.default_rng(0), "float32")
    foreign = {key.replace("fc.", "linear.").replace("downsample", "shortcut"): v for key, v in state.items()}
    assert {"linear.weight", "linear.bias"} < foreign.keys()
    mapping = plan(module, x)
    expected = flat(mapping.from_torch(state, replace=("fc",)))
    for dialect in ("auto", "akamaster"):
        found = flat(mapping.from_torch(foreign, dialect, replace=("fc",)))
        assert all(same(found[path], leaf) for path, leaf in expected.items())
    assert flat(mapping.from_torch(state, "auto", replace=("fc",))).keys() == expected.keys()
    spoiled = foreign | {"linear.weight": "text", "linear.bias": None}
    assert flat(mapping.from_torch(spoiled, "akamaster", replace=("fc",))).keys() == expected.keys()
    with pytest.raises(MismatchError) as caught:
        mapping.from_torch(spoiled | {"conv1.weight": "text"}, "akamaster", replace=("fc",))
    assert caught.value.problems == ["! conv1.weight: expected an array of numbers, found a str"]
    headless = {key: value for key, value in foreign.items() if not key.startswith("linear.")}
    assert flat(mapping.from_torch(headless, "akamaster", replace=("fc",))).keys() == expected.keys()
    with pytest.raises(MismatchError, match=r"linear.weight \(here fc.weight\)"):
        mapping.from_torch(foreign, "akamaster")
    with pytest.raises(ValueError, match="got 'linear'"):
        mapping.from_torch(foreign, "akamaster", replace=("linear",))
    del foreign["conv1.weight"]
    with pytest.raises(MismatchError) as caught:
        mapping.from_torch(foreign, "akamaster", replace=("fc",))
    assert [line.partition(":")[0] for line in caught.value.problems] == ["- conv1.weight"]


def test_problems_of_a_dialect_count_only_outside_the_prefix():
    rules = (Rule(("**q", "**k"), "**in", ROWS), Rule("**old", "**new"), Rule("**older", "**new"))
    dialect = Dialect("toy", "a toy", (rules,))
    parts = {"q": np.zeros((2, 3)), "old": np.zeros(2), "older": np.zeros(2)}
    state = {f"{place}.{key}": value for place in ("fc", "body") for key, value in parts.items()}
    state |= {f"{place}.k": np.zeros((2, 9)) for place in ("fc.0", "body.0")}
    state |= {f"{place}.q": np.zeros((2, 3)) for place in ("fc.0", "body.0")}
    state |= {"fc.in": np.zeros(2), "body.more.in": np.zeros(2)}
    read = dialect.read(state)
    left = Replaced(("fc",)).untouched(read)
    assert {key.partition(".")[0] for key in left.entries} == {"body"}
    assert left.problems == [line for line in read.problems if "body" in line]
    assert len(read.problems) > len(left.problems) > 2


def test_a_leaf_with_two_names_is_named_by_both():
    mapping = plan(TwoNames(), X)
    assert {"fc.weight", "classifier.weight", "fc.bias", "classifier.bias"} < mapping.shapes.keys()
    state = {name: value for name, value in state_of(Net()).items() if not name.startswith("fc.")}
    for one in ("fc", "classifier", "classifier.bias"):
        with pytest.raises(ValueError, match="which are one leaf of TwoNames, got one of them"):
            mapping.leaves(state, replace=(one,))
    check(TwoNames(), state, mapping.from_torch(state, replace=("fc", "classifier")), "fc", jax.random.key(0))
    with pytest.raises(MismatchError, match=re.escape("- classifier.weight")):
        mapping.from_torch(state_of(Net()), replace=("fc2",))


class TwoNames(Net):
    """A network whose state dict has the head twice."""

    aliases: ClassVar = (("classifier", "fc"),)


def test_the_command_line(tmp_path, capsys):
    state = random_state(plan(CifarResNet(1), normal(1, 32, 32, 3)), np.random.default_rng(0), "float32")
    save_torch(tmp_path / "net.pth", state)
    command = ["convert", str(tmp_path / "net.pth"), "--model", "CifarResNet", "--arg", "n_size=1"]
    command += ["--arg", "num_classes=7", "--out", str(tmp_path / "net.safetensors")]
    assert main(command) == 2
    assert "~ fc.weight" in capsys.readouterr().err
    assert main([*command, "--replace", "fc", "--seed", "3"]) == 0
    assert "replaced 2 by initial values: fc.weight, fc.bias" in sorted_keys(capsys.readouterr().out)
    variables = restore(tmp_path / "net.safetensors")
    module = CifarResNet(1, num_classes=7)
    check(module, state, variables, "fc", jax.random.key(3), normal(1, 32, 32, 3))
    assert main([*command, "--replace", "fc", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert sorted(facts["replaced"]) == ["fc.bias", "fc.weight"]
    assert facts["dialect"] == "native"
    assert facts["arrays"] == len(plan(module, normal(1, 32, 32, 3)).rows) - 2
    assert main([*command, "--replace", "head"]) == 2
    error = "flax-attn-convert: expected --replace to name leaves of CifarResNet, got 'head'; the keys begin with "
    assert capsys.readouterr().err.startswith(error)
    for seed in ("-1", "x", "4294967296"):
        with pytest.raises(SystemExit):
            main([*command, "--replace", "fc", "--seed", seed])
        assert f"expected an integer from 0 to 4294967295, got '{seed}'" in capsys.readouterr().err


def sorted_keys(text):
    return text.replace("fc.bias, fc.weight", "fc.weight, fc.bias")


class Scaled(Net):
    """An example input of zeros would become NaN in the forward pass."""

    @nn.compact
    def __call__(self, x, train=False):
        return layers.Linear(3, self.num_classes, name="fc")(jnp.divide(x, jnp.max(x)))


def test_the_forward_pass_is_not_computed():
    shape = jax.ShapeDtypeStruct((2, 3), jnp.float32)
    state = random_state(plan(Scaled(), shape), np.random.default_rng(0), "float32")
    with jax.debug_nans(True):
        assert from_torch(Scaled(7), state, shape, replace="fc")["params"]["fc"]["kernel"].shape == (3, 7)


def test_nothing_is_initialised_where_nothing_is_replaced(monkeypatch):
    state, module = state_of(DigitsLike()), DigitsLike()
    mapping = plan(module, X)
    monkeypatch.setattr(DigitsLike, "init", None)
    assert mapping.from_torch(state).keys() == {"params", "batch_stats"}


class DigitsLike(Net):
    """A class whose ``init`` a test may take away."""
