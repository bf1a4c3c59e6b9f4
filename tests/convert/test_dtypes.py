"""Dtypes are kept or cast, with a note on half precision. Values that are no numbers, or other numbers, are refused."""

import warnings

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

from convert import HalfPrecisionWarning, MismatchError, from_torch, plan, to_torch
from convert.tensors import Lazy, as_numpy
from flax_attn import layers

X = jax.ShapeDtypeStruct((2, 5, 6, 3), "float32")
F8 = ["float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"]


def net(**dtypes):
    return layers.Sequential([layers.Conv2d(3, 4, 3), layers.BatchNorm2d(4, momentum=None)], **dtypes)


def state_dict(dtype="float32", module=None):
    rng = np.random.default_rng(0)
    rows = plan(module or net(), X).rows
    floats = {row.key: rng.random(row.torch_shape).astype(dtype) for row in rows if row.dtype.kind == "f"}
    return floats | {row.key: np.int64(3) for row in rows if row.dtype.kind == "i"}


def dtypes_of(variables):
    """The dtypes of the parameters and of the statistics."""
    norm = variables["batch_stats"]["1"]
    params = {leaf.dtype.name for leaf in jax.tree.leaves(variables["params"])}
    return params, {norm["mean"].dtype.name, norm["var"].dtype.name}


def converted(state, dtype=None, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HalfPrecisionWarning)
        return from_torch(net(**kwargs), state, X, dtype=dtype)


CASES = [
    ("float16", None, "float16", "float32"),
    ("bfloat16", None, "bfloat16", "float32"),
    ("float64", None, "float64", "float64"),
    ("float16", "keep", "float16", "float16"),
    ("bfloat16", "keep", "bfloat16", "bfloat16"),
    ("float16", "float32", "float32", "float32"),
    ("float64", "float32", "float32", "float32"),
    ("float32", "bfloat16", "bfloat16", "float32"),
    ("float64", jnp.bfloat16, "bfloat16", "float32"),
    ("float32", np.float16, "float16", "float32"),
    ("bfloat16", np.dtype("float64"), "float64", "float64"),
    *((name, "float32", "float32", "float32") for name in F8),
]


@pytest.mark.parametrize(("found", "dtype", "params", "statistics"), CASES)
def test_what_a_dtype_does(found, dtype, params, statistics):
    state = state_dict(getattr(ml_dtypes, found, found))
    variables = converted(state, dtype)
    assert dtypes_of(variables) == ({params}, {statistics})
    assert variables["batch_stats"]["1"]["num_batches_tracked"].dtype == np.int64
    bias, expected = variables["params"]["0"]["bias"], state["0.bias"].astype(np.float64)
    np.testing.assert_array_equal(bias, expected.astype(bias.dtype))


def test_leaves_tell_their_dtype_before_they_are_made():
    for dtype in ("keep", "bfloat16", None):
        for leaf in plan(net(), X).leaves(state_dict("float16"), None, dtype).values():
            assert leaf.dtype == leaf.make().dtype


def test_a_torch_dtype_names_a_dtype():
    torch = pytest.importorskip("torch")
    assert dtypes_of(converted(state_dict(), torch.bfloat16)) == ({"bfloat16"}, {"float32"})


@pytest.mark.parametrize("dtype", ["int8", "float8_e4m3fn", "complex64", "flot32", 3, object(), "longdouble", bool])
def test_any_other_dtype_is_refused(dtype):
    with pytest.raises(ValueError, match="dtype: expected float32, bfloat16, float16, float64 or keep, got "):
        from_torch(net(), state_dict(), X, dtype=dtype)


def test_half_precision_is_noted_where_it_was_called():
    for convert in (
        lambda state, **kwargs: from_torch(net(), state, X, **kwargs),
        lambda state, **kwargs: plan(net(), X).from_torch(state, **kwargs),
    ):
        with pytest.warns(HalfPrecisionWarning) as caught:
            convert(state_dict("float16"))
        (note,) = caught
        assert note.filename == __file__
        assert str(note.message).startswith("4 of 4 parameters are float16 and will train in float16")
        assert "\n" not in str(note.message)
        assert "dtype='float32'" in str(note.message)
        convert(state_dict("float16"), dtype="keep")
        convert(state_dict("float16"), dtype="float16")
        convert(state_dict("float64"))


def test_a_module_in_half_precision_is_not_noted():
    from_torch(net(param_dtype=jnp.bfloat16), state_dict("bfloat16"), X)
    with pytest.warns(HalfPrecisionWarning, match="4 of 4"):
        from_torch(net(param_dtype=jnp.bfloat16), state_dict("float16"), X)


def test_the_command_line_gets_the_note_in_its_own_words():
    mapping = plan(net(), X)
    state = state_dict() | {"0.bias": np.zeros(4, np.float16)}
    note = mapping.half_precision(mapping.leaves(state), "--dtype {}")
    assert note.startswith("1 of 4 parameters are float16")
    assert "--dtype float32 casts them" in note
    assert mapping.half_precision(mapping.leaves(state_dict())) == ""


def losses_of_torch(torch, state, x, y):
    module = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
    module.load_state_dict(state)
    optimizer, losses = torch.optim.Adam(module.parameters(), lr=0.01), []
    for _ in range(5):
        optimizer.zero_grad()
        loss = ((module(x) - y) ** 2).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def losses_of_flax(module, variables, x, y):
    optimizer, losses = optax.adam(0.01), []
    params, x, y = jax.tree.map(jnp.asarray, (variables["params"], x, y))
    memory = optimizer.init(params)
    step = jax.jit(jax.value_and_grad(lambda params: ((module.apply({"params": params}, x) - y) ** 2).mean()))
    for _ in range(5):
        loss, grads = step(params)
        updates, memory = optimizer.update(grads, memory)
        params = optax.apply_updates(params, updates)
        losses.append(float(loss))
    return losses


def test_a_float16_checkpoint_trains_in_float32_as_in_torch():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    module = layers.Sequential([layers.Linear(4, 8), layers.relu, layers.Linear(8, 1)])
    x, y = rng.random((6, 4), np.float32), rng.random((6, 1), np.float32)
    shapes = plan(module, x).shapes
    state = {k: torch.as_tensor(rng.normal(size=s), dtype=torch.float16) for k, s in shapes.items()}
    state["2.bias"] += 1000.0
    expected = losses_of_torch(torch, state, torch.as_tensor(x), torch.as_tensor(y))
    cast = from_torch(module, state, x, dtype="float32")
    np.testing.assert_allclose(losses_of_flax(module, cast, x, y), expected, rtol=1e-5)
    kept = from_torch(module, state, x, dtype="keep")
    assert not np.isfinite(losses_of_flax(module, kept, x.astype(np.float16), y.astype(np.float16))[-1])


def problems(state, module=None, **kwargs):
    with pytest.raises(MismatchError) as caught:
        from_torch(module or net(), state, X, **kwargs)
    return caught.value


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int64", "bool", "complex64", "complex128"])
@pytest.mark.parametrize("asked", [None, "float32", "keep"])
def test_other_kinds_of_numbers_are_refused_by_key(dtype, asked):
    state = state_dict()
    for key in ("0.weight", "1.running_var"):
        state[key] = state[key].astype(dtype)
    error = problems(state, dtype=asked)
    expected = f"expected floating point numbers, found {dtype}"
    assert sorted(error.problems) == [f"! 0.weight: {expected}", f"! 1.running_var: {expected}"]


@pytest.mark.parametrize("dtype", [*F8, "float8_e8m0fnu", "float8_e3m4", "longdouble"])
def test_float8_is_cast_only_when_asked(dtype):
    state = state_dict()
    state["0.weight"] = np.ones_like(state["0.weight"]).astype(getattr(ml_dtypes, dtype, dtype))
    for asked in (None, "keep"):
        (line,) = problems(state, dtype=asked).problems
        assert line.startswith("! 0.weight: expected one of float32, bfloat16, float16, float64, found ")
        assert "pass a dtype, such as dtype='float32'" in line
    for asked in ("float32", "bfloat16"):
        kernel = from_torch(net(), state, X, dtype=asked)["params"]["0"]["kernel"]
        assert kernel.dtype.name == asked
        assert np.all(kernel == 1)


def test_counters_must_be_integers():
    for value in (np.float32(3), np.bool_(True), np.complex64(3)):
        (line,) = problems(state_dict() | {"1.num_batches_tracked": value}).problems
        assert line == f"! 1.num_batches_tracked: expected integers, found {value.dtype}"
    (line,) = problems(state_dict() | {"1.num_batches_tracked": None}).problems
    assert line == "! 1.num_batches_tracked: expected an array of numbers, found None"


class Masked(layers.Module):
    def setup(self):
        self.weight = self.parameter("weight", layers.init.zeros, (3,))
        self.mask = self.buffer("mask", np.ones(3, bool))

    def __call__(self, x, train=False):
        return jnp.where(self.mask.value, x * self.weight, 0)


def test_booleans_stay_booleans():
    state = {"weight": np.ones(3, np.float32), "mask": np.array([True, False, True])}
    assert from_torch(Masked(), state, X, dtype="bfloat16")["batch_stats"]["mask"].dtype == bool
    (line,) = problems(state | {"mask": np.ones(3, np.uint8)}, Masked()).problems
    assert line == "! mask: expected booleans, found uint8"


NO_NUMBERS = {
    "None": None,
    "a Python float": 3.0,
    "a Python int": 3,
    "a Python bool": True,
    "a list": [1.0, 2.0],
    "a dict": {"a": 1},
    "a str": "a",
    "a bytes": b"a",
    "a object": object(),
    "an array of Python objects": np.array([1, None], object),
    "an array of strings": np.array(["a"]),
    "an array of bytes": np.array([b"a"]),
    "an array of dates": np.zeros(3, "datetime64[s]"),
    "an array of time spans": np.zeros(3, "timedelta64[s]"),
    "an array of records": np.zeros(3, [("a", "f4")]),
    "a masked array": np.ma.masked_array(np.zeros(3), [True, False, False]),
    "a shape without numbers": jax.ShapeDtypeStruct((3,), "float32"),
    "an array of key<fry>": jax.random.key(0),
}


def test_what_is_no_array_of_numbers_is_refused_by_key():
    state = state_dict() | {f"{i}.odd": value for i, value in enumerate(NO_NUMBERS.values())} | {"0.weight": None}
    lines = problems(state).problems
    assert [line.partition(",")[0].partition(":")[0] for line in lines] == [
        "! 0.weight",
        *(f"! {i}.odd" for i in range(len(NO_NUMBERS))),
    ]
    for line, kind in zip(lines[1:], NO_NUMBERS, strict=True):
        assert f": expected an array of numbers, found {kind}" in line


def test_a_traced_and_a_deleted_array_are_refused():
    deleted = jnp.ones(4)
    deleted.delete()
    assert "found an array that was deleted" in problems(state_dict() | {"0.bias": deleted}).problems[0]

    def inside(bias):
        assert "found a traced array" in problems(state_dict() | {"0.bias": bias}).problems[0]
        return bias

    jax.jit(inside)(jnp.ones(4))


def test_odd_torch_tensors_are_refused_by_key():
    torch = pytest.importorskip("torch")
    fake = pytest.importorskip("torch._subclasses.fake_tensor")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with fake.FakeTensorMode():
            invented = torch.ones(4)
        odd = {
            "a tensor on the meta device": torch.empty(4, device="meta"),
            "a tensor on the meta device, which": invented,
            "a sparse tensor, torch.sparse_coo": torch.eye(4).to_sparse(),
            "a sparse tensor, torch.sparse_csr": torch.eye(4).to_sparse_csr(),
            "a nested tensor": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
            "a quantized tensor, torch.qint8": torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8),
            "a parameter of a lazy layer": torch.nn.LazyLinear(3).weight,
            "an array of torch.complex32": torch.zeros(4, dtype=torch.complex32),
        }
    lines = problems(state_dict() | {f"{i}.odd": value for i, value in enumerate(odd.values())}).problems
    assert len(lines) == len(odd)
    for line, kind in zip(lines, odd, strict=True):
        assert f": expected an array of numbers, found {kind}" in line


def test_quantized_tensors_come_with_the_line_that_dequantizes():
    torch = pytest.importorskip("torch")
    state = {key: torch.as_tensor(value) for key, value in state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state["0.weight"] = torch.quantize_per_tensor(state["0.weight"], 0.1, 0, torch.qint8)
    state |= {"0.scale": torch.tensor(0.1), "0.zero_point": torch.tensor(0)}
    hint = problems(state).hint
    assert hint.startswith("the tensors are quantized; pass {")
    variables = from_torch(net(), eval(hint.partition("pass ")[2], {"state_dict": state}), X)
    expected = state["0.weight"].dequantize().numpy()
    np.testing.assert_array_equal(variables["params"]["0"]["kernel"].transpose(3, 2, 0, 1), expected)


def test_other_quantized_checkpoints_come_with_what_to_do():
    state = state_dict()
    integers = state | {"0.weight": state["0.weight"].astype(np.int8)}
    assert "dequantize each weight with the library that wrote it, in torch" in problems(integers).hint
    beside = integers | {"0.weight_scale": np.float32(0.1), "0.weight_zero_point": np.int32(0)}
    line = "(state_dict['0.weight'].float() - state_dict['0.weight_zero_point']) * state_dict['0.weight_scale']"
    assert line in problems(beside).hint
    assert "by bitsandbytes" in problems(integers | {"0.SCB": np.ones(4)}).hint
    gptq = state | {"0.qweight": state["0.weight"].astype(np.int32)}
    del gptq["0.weight"]
    assert "by GPTQ or AWQ" in problems(gptq).hint
    packed = {"0._packed_params._packed_params": (1, 2), "0._packed_params.dtype": "qint8"}
    assert "weight.dequantize()" in problems(state | packed).hint


@pytest.mark.parametrize("name", [*F8, "float8_e8m0fnu", "bfloat16", "uint16", "uint32", "uint64", "float16", "bool"])
@pytest.mark.parametrize("shape", [(), (3, 5), (0, 2)])
def test_torch_tensors_become_numpy_bit_for_bit(name, shape):
    torch = pytest.importorskip("torch")
    dtype = getattr(torch, name)
    raw = np.random.default_rng(0).integers(0, 2, (*shape, dtype.itemsize), np.uint8)
    tensor = torch.as_tensor(raw).view(dtype).reshape(shape) if raw.size else torch.empty(shape, dtype=dtype)
    array = as_numpy(tensor)
    assert (array.dtype.name, array.shape) == (name, shape)
    assert array.tobytes() == raw.tobytes()


def test_views_parameters_and_subclasses_of_torch_are_taken():
    torch = pytest.importorskip("torch")

    class Named(torch.Tensor):
        pass

    z = torch.tensor([1 + 2j, 3 - 4j])
    np.testing.assert_array_equal(as_numpy(z.conj()), [1 - 2j, 3 + 4j])
    np.testing.assert_array_equal(as_numpy(z.conj().imag), [-2, 4])
    np.testing.assert_array_equal(as_numpy(torch.arange(6.0).reshape(2, 3).T), [[0, 3], [1, 4], [2, 5]])
    np.testing.assert_array_equal(as_numpy(torch.arange(2.0).expand(2, 2)), [[0, 1], [0, 1]])
    state = {key: torch.as_tensor(value) for key, value in state_dict().items()}
    odd = state | {
        "0.weight": torch.nn.Parameter(state["0.weight"]),
        "0.bias": state["0.bias"].as_subclass(Named),
        "1.weight": state["1.weight"].clone().requires_grad_() * 1,
    }
    jax.tree.map(np.testing.assert_array_equal, from_torch(net(), odd, X), from_torch(net(), state, X))


def test_a_lazy_array_is_checked_before_it_is_made():
    state = state_dict()
    make = pytest.fail
    state["0.weight"] = Lazy(state["0.weight"].shape, np.dtype("int8"), lambda: make("made"))
    assert problems(state).problems == ["! 0.weight: expected floating point numbers, found int8"]


def test_variables_must_be_arrays_of_numbers():
    variables = converted(state_dict())
    variables["params"]["0"] = {"kernel": None, "bias": np.array(["a"] * 4)}
    variables["params"]["1"]["scale"] = 1.0
    with pytest.raises(MismatchError) as caught:
        to_torch(net(), variables, X)
    assert caught.value.problems == [
        "! params/0/kernel: expected an array of numbers, found None",
        "! params/0/bias: expected an array of numbers, found an array of strings (<U1)",
        "! params/1/scale: expected an array of numbers, found a Python float; pass an array, such as np.asarray(1.0)",
    ]
