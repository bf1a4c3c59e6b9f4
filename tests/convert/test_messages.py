"""What a newcomer passes by mistake is refused in one sentence that says what to pass."""

import time
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from convert import MismatchError, from_torch, load, plan, to_torch
from convert.dialects import find_dialect
from convert.prefix_hint import prefix_hint
from flax_attn import layers
from flax_attn.blocks.se import SEBasicBlock, SELayer
from flax_attn.nnx import to_nnx

MODULE = SELayer(6, 2)
X = jax.ShapeDtypeStruct((2, 7, 5, 6), jnp.float32)


def arrays(module=MODULE, x=X):
    return {key: np.ones(shape, np.float32) for key, shape in plan(module, x).shapes.items()}


def message(call, kind=ValueError):
    """The text of the error, which is one sentence."""
    with pytest.raises(kind) as caught:
        call()
    text = str(caught.value)
    assert caught.type is kind
    assert "\n" not in text
    return text


STATE = "from_torch: expected a state dict, a dict of arrays by PyTorch's keys, got "

WRONG_STATES = [
    ("a.pth", "the path 'a.pth'; pass load('a.pth')"),
    (None, "None; pass what torch's state_dict() or convert.load(path) gives"),
    (np.ones((2, 3)), "an array of shape (2, 3); the order is from_torch(module, state_dict, example input)"),
    ([("fc.0.weight", 1)], "a list; pass a dict, as torch's state_dict() gives it"),
    (iter([1]), "a list_iterator; pass a dict, as torch's state_dict() gives it"),
    (load, "the function load; call it: load()"),
    ({0: np.ones(3)}, "a dict with the key 0, which is no string"),
    (
        {"params": {"fc": {"0": np.ones(3)}}},
        "Flax variables; to_torch takes these, from_torch what torch's state_dict()",
    ),
    (
        {"state_dict": arrays(), "epoch": 1, "metrics": {"accuracy": np.float64(0.9)}},
        "a whole checkpoint with the keys 'state_dict', 'epoch', 'metrics'; pass checkpoint['state_dict']",
    ),
    (
        {"model": {"net": arrays(), "ema": arrays()}, "optimizer": {"state": {0: {"exp_avg": np.ones(3)}}}},
        "a whole checkpoint with the keys 'model', 'optimizer'; pass checkpoint['model']['net'] or "
        "checkpoint['model']['ema']",
    ),
    ({"params": arrays()}, "a whole checkpoint with the keys 'params'; pass checkpoint['params']"),
]


@pytest.mark.parametrize(("given", "expected"), WRONG_STATES, ids=lambda value: type(value).__name__)
def test_in_place_of_a_state_dict(given, expected):
    assert message(lambda: from_torch(MODULE, given, X)).startswith(STATE + expected)
    assert message(lambda: plan(MODULE, X).from_torch(given)).startswith(STATE + expected)
    assert message(lambda: plan(MODULE, X).leaves(given)).startswith(STATE + expected)


def test_a_path_in_place_of_a_state_dict(tmp_path):
    file = tmp_path / "a.pth"
    assert message(lambda: from_torch(MODULE, file, X)) == f"{STATE}the path {str(file)!r}; pass load({str(file)!r})"


def test_torch_modules_in_wrong_places():
    torch = pytest.importorskip("torch")
    net = torch.nn.Linear(3, 3)
    assert message(lambda: from_torch(MODULE, net, X)) == f"{STATE}the torch module Linear; pass its state_dict()"
    assert message(lambda: from_torch(MODULE, net.state_dict, X)).endswith("call it: state_dict()")
    assert message(lambda: from_torch(MODULE, net.named_parameters(), X)).endswith("as torch's state_dict() gives it")
    assert message(lambda: from_torch(MODULE, {"model": net, "epoch": 1}, X)).endswith(
        "pass checkpoint['model'].state_dict()"
    )
    expected = "expected a Flax module as the first argument, got the torch module Linear; pass the Flax module"
    assert message(lambda: from_torch(net, net.state_dict(), X)).startswith(f"from_torch: {expected}")
    assert message(lambda: to_torch(net, {}, X)).startswith(f"to_torch: {expected}")
    assert "a state_dict() of its own" in message(lambda: to_torch(MODULE, net, X))


def test_a_file_handle_of_safetensors_in_place_of_a_state_dict(tmp_path):
    import safetensors.numpy

    safetensors.numpy.save_file(arrays(), tmp_path / "a")
    with safetensors.safe_open(tmp_path / "a", framework="numpy") as file:
        assert message(lambda: from_torch(MODULE, file, X)) == f"{STATE}an open safetensors file; pass load(path)"


@pytest.mark.parametrize("convert", [from_torch, to_torch])
def test_in_place_of_the_module(convert):
    expected = f"{convert.__name__}: expected a Flax module as the first argument, got "
    cases = [
        (SELayer, "the class SELayer; pass an instance, SELayer(...)"),
        (load, "the function load; call it: load(...)"),
        (nnx.Linear(3, 3, rngs=nnx.Rngs(0)), "an NNX module; pass the linen module"),
        (nnx.Linear, "an NNX module; pass the linen module"),
        (arrays(), f"a dict; the order is {convert.__name__}(module, "),
        (None, f"None; the order is {convert.__name__}(module, "),
    ]
    for given, text in cases:
        assert message(lambda given=given: convert(given, arrays(), X)).startswith(expected + text)
    assert message(lambda: plan(SELayer, X)).startswith("plan: expected a Flax module as the first argument, got the")


def test_a_torch_tensor_as_example_input():
    torch = pytest.importorskip("torch")
    image = message(lambda: from_torch(MODULE, arrays(), torch.zeros(2, 6, 7, 5)))
    assert image == (
        "SELayer: expected arrays as example inputs, got a torch tensor of shape (2, 6, 7, 5); pass a NumPy or JAX "
        "array with the channels last, such as jax.ShapeDtypeStruct((2, 7, 5, 6), 'float32')"
    )
    from_torch(MODULE, arrays(), eval(image.partition("such as ")[2]))
    tokens = message(lambda: from_torch(MODULE, arrays(), x=torch.zeros(2, 4, dtype=torch.int64)))
    assert tokens.endswith("pass a NumPy or JAX array, such as jax.ShapeDtypeStruct((2, 4), 'int64')")


def test_other_example_inputs(tmp_path):
    shape = message(lambda: from_torch(MODULE, arrays(), (2, 7, 5, 6)))
    assert shape.endswith("got the shape (2, 7, 5, 6); pass jax.ShapeDtypeStruct((2, 7, 5, 6), 'float32')")
    assert "an array of strings" in message(lambda: from_torch(MODULE, arrays(), np.array(["a"])))
    assert "got a PosixPath; pass" in message(lambda: from_torch(MODULE, arrays(), tmp_path))
    none = message(lambda: from_torch(MODULE, arrays()))
    assert none.startswith(
        "SELayer cannot be called with no example input: missing a required argument: 'x'; pass what "
    )
    assert "channels last, such as jax.ShapeDtypeStruct((1, 64, 64, 3), 'float32')" in none
    assert "too many positional arguments" in message(lambda: from_torch(MODULE, arrays(), X, X, X, X))
    assert "unexpected keyword argument 'y'" in message(lambda: to_torch(MODULE, {}, X, y=3))


def test_train_may_be_given_by_position():
    block = SEBasicBlock(6, 6, reduction=2)
    assert from_torch(block, arrays(block), X, True).keys() == {"params", "batch_stats"}


def test_an_example_input_with_its_channels_first():
    class Product(nn.Module):
        """Refuses with a message of JAX alone."""

        @nn.compact
        def __call__(self, x, mask=None):
            return x @ self.param("weight", nn.initializers.ones, (3, 4))

    class Flexible(nn.Module):
        """Takes any number of channels."""

        @nn.compact
        def __call__(self, x):
            return layers.Conv2d(x.shape[-1], 4, 3, name="conv")(x)

    first, last = np.zeros((2, 3, 8, 6), np.float32), np.zeros((2, 8, 6, 3), np.float32)
    state = arrays(Product(), last)
    remedy = "has its channels first; pass it with the channels last, as x.transpose(0, 2, 3, 1)"
    text = f"the example input of shape (2, 3, 8, 6) {remedy}"
    assert message(lambda: from_torch(Product(), state, first)) == f"Product: {text}"
    assert message(lambda: from_torch(Product(), state, first, None)) == f"Product: {text}"
    from_torch(Product(), state, first.transpose(0, 2, 3, 1))
    with pytest.raises(MismatchError) as caught:
        from_torch(Flexible(), arrays(Flexible(), last), first)
    assert caught.value.hint == text
    assert "x.transpose(0, 2, 3, 1)" in message(lambda: from_torch(MODULE, arrays(), np.zeros((2, 6, 7, 5))))
    with pytest.raises(TypeError):
        from_torch(Product(), state, np.zeros((2, 7, 8, 6)))


VARIABLES = 'to_torch: expected variables {"params": ..., "batch_stats": ...}, got '


def test_in_place_of_variables(tmp_path):
    variables = from_torch(MODULE, arrays(), X)

    class TrainState:
        params, batch_stats = variables["params"], {}

    wrapped = to_nnx(MODULE, variables)
    nnx_remedy = "pass from_nnx(module) for a module that to_nnx made"
    cases = [
        (variables["params"], 'the parameters alone; pass {"params": params}, and with "batch_stats"'),
        (arrays(), "a PyTorch state dict; from_torch makes variables of it"),
        (TrainState(), 'a TrainState; pass {"params": state.params, "batch_stats": state.batch_stats}'),
        (wrapped, f"an NNX NNXModule; {nnx_remedy}"),
        (nnx.state(wrapped), f"an NNX State; {nnx_remedy}"),
        ("a.safetensors", "the path 'a.safetensors'; pass restore('a.safetensors')"),
        (MODULE, "the module SELayer; pass its variables, such as module.init(key, x)"),
        ((0, variables), "a tuple; init_with_output and apply with mutable return the variables second"),
        (np.ones(3), "an array of shape (3,); the order is to_torch(module, variables, example input)"),
        (None, "None"),
    ]
    for given, text in cases:
        assert message(lambda given=given: to_torch(MODULE, given, X)).startswith(VARIABLES + text)
    assert to_torch(MODULE, {"params": variables["params"]}, X).keys() == arrays().keys()


def test_hints_on_variables():
    block = SEBasicBlock(6, 6, reduction=2)
    variables = from_torch(block, arrays(block), X)
    with pytest.raises(MismatchError) as caught:
        to_torch(block, {"params": variables["params"]}, X)
    assert caught.value.hint.startswith("the variables have no batch_stats; pass all collections")
    with pytest.raises(MismatchError) as caught:
        to_torch(block, jax.tree.map(lambda leaf: np.stack([leaf] * 4), variables), X)
    assert caught.value.hint.endswith("pass jax.tree.map(lambda x: x[0], variables)")
    boxed = {"params": jax.tree.map(lambda leaf: nn.Partitioned(leaf, (None,) * leaf.ndim), variables["params"])}
    with pytest.raises(MismatchError) as caught:
        to_torch(block, {**variables, **boxed}, X)
    assert all(line.endswith("pass flax.linen.unbox(variables)") for line in caught.value.problems)
    to_torch(block, {**variables, **nn.unbox(boxed)}, X)


def mismatch(module, state, **kwargs):
    with pytest.raises(MismatchError) as caught:
        from_torch(module, state, X, **kwargs)
    return caught.value


def test_the_hint_comes_first_and_the_list_can_be_shortened():
    block = SEBasicBlock(6, 6, reduction=2)
    error = mismatch(block, {f"model.{key}": value for key, value in arrays(block).items()})
    lines = str(error).splitlines()
    assert lines[0] == "the state dict does not fit SEBasicBlock: 24 differences"
    assert lines[1] == f"hint: {error.hint}"
    assert error.hint.startswith(
        "every key would match below 'model.'; pass load(path, prefix='model.'), --prefix model."
    )
    assert lines[2:] == error.problems
    assert len(error.problems) == 24
    assert error.text() == str(error)
    assert error.text(20).splitlines() == [*lines[:22], "... and 4 more"]
    assert error.text(24) == str(error)
    assert error.text(0).splitlines() == [*lines[:2], "... and 24 more"]
    assert str(MismatchError("one sentence")) == "one sentence"


def test_some_keys_match_below_a_prefix():
    block = SEBasicBlock(6, 6, reduction=2)
    state = {f"detr.{key}": value for key, value in arrays(block).items()} | {"mask.weight": np.ones(3)}
    error = mismatch(block, state)
    assert error.hint.startswith("every key would match below 'detr.'")
    from_torch(block, eval(error.hint.partition(", or ")[2], {"state_dict": state}), X)
    del state["detr.conv1.weight"]
    assert mismatch(block, state).hint.startswith("11 of 12 keys would match below 'detr.'")
    few = {key: value for key, value in state.items() if "bn1" in key}
    assert "below" not in mismatch(block, few).hint


def test_the_prefix_that_fits_best_is_named():
    state = arrays()
    wrong = {f"teacher.{key}": np.ones(3) for key in state}
    good = {f"student.{key}": value for key, value in state.items()}
    assert mismatch(MODULE, wrong | good).hint.startswith("every key would match below 'student.'; pass")
    both = {f"ema.{key}": value for key, value in state.items()} | good
    assert mismatch(MODULE, both).hint.startswith("every key would match below 'ema.' (and below 'student.'); pass")


def test_a_prefix_in_place_of_another():
    net = layers.Sequential([MODULE])
    state = {f"net.{key}": value for key, value in arrays().items()}
    hint = mismatch(net, state).hint
    assert hint.startswith("every key would match with '0.' in place of 'net.'; pass {")
    from_torch(net, eval(hint.partition("pass ")[2], {"state_dict": state}), X)


def test_a_prefix_is_found_in_bounded_time():
    count = 20_000
    keys = {f"layer{i}.conv.weight": (i,) for i in range(count)}
    hostile = [
        {"module." * 60_000 + "weight": (1,)},
        {"." * 60_000 + str(i): (1,) for i in range(20)},
        {f"{i}." * 100 + "weight": (1,) for i in range(count)},
        {f"a.b.{key}": shape for key, shape in keys.items()},
    ]
    start = time.perf_counter()
    hints = [prefix_hint(*pair) for other in hostile for pair in ((keys, other), (other, keys))]
    assert time.perf_counter() - start < 20
    assert hints[-2].startswith("every key would match below 'a.b.'")
    assert hints[-1].startswith("every key would match with 'a.b.' in front")


def test_the_dialect_of_the_keys_is_named():
    block = SEBasicBlock(6, 6, reduction=2)
    state = find_dialect("timm").write(arrays(block))
    hint = mismatch(block, state).hint
    assert hint.startswith("the keys are those of another project, timm's SE networks; pass dialect='timm'")
    from_torch(block, state, X, dialect="timm")


def test_keys_of_a_file_cannot_break_the_lines():
    error = mismatch(MODULE, {**arrays(), "a\n- b\x1b[31m": np.ones(3), "é": np.ones(3)})
    assert error.problems == [
        r"+ a\n- b\x1b[31m: found shape (3,), expected nothing",
        "+ é: found shape (3,), expected nothing",
    ]


def test_all_kinds_of_problems_are_listed_at_once():
    block = SEBasicBlock(6, 6, reduction=2)
    state = arrays(block)
    del state["bn1.weight"]
    state |= {"extra": np.ones(3), "conv1.weight": np.ones((1, 2)), "bn1.bias": None, "bn2.bias": np.ones(6, int)}
    assert [line.partition(":")[0] for line in mismatch(block, state).problems] == [
        "- bn1.weight",
        "+ extra",
        "~ conv1.weight",
        "! bn1.bias",
        "! bn2.bias",
    ]


def test_problems_with_values_are_listed_in_a_dialect_too():
    block = SEBasicBlock(6, 6, reduction=2)
    state = find_dialect("timm").write(arrays(block)) | {"conv1.weight": None, "bn2.bias": np.ones(6, int)}
    lines = mismatch(block, state, dialect="timm").problems
    assert "! conv1.weight: expected an array of numbers, found None" in lines
    assert "! bn2.bias: expected floating point numbers, found int64" in lines


def test_any_mapping_is_a_state_dict():
    class Custom(Mapping):
        def __getitem__(self, key):
            return arrays()[key]

        def __iter__(self):
            return iter(arrays())

        def __len__(self):
            return len(arrays())

    jax.tree.map(np.testing.assert_array_equal, from_torch(MODULE, Custom(), X), from_torch(MODULE, arrays(), X))
