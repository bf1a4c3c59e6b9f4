"""from_torch and to_torch: exact, strict both ways, and by structure alone."""

import functools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from convert import MismatchError, from_torch, plan, to_torch
from convert.precision import is_floating
from convert.rules import DROPPED
from flax_attn import layers
from flax_attn.blocks.se import SEBasicBlock, SELayer
from tests.helpers.walk import entry_plan, walk

DTYPES = [np.float64, np.float32, np.float16, ml_dtypes.bfloat16]


def state_dict(module, *inputs, dtype=np.float32, seed=0, **call):
    rng = np.random.default_rng(seed)
    rows = plan(module, *inputs, **call).rows
    return {row.key: drawn(row, rng, dtype) for row in rows}


def drawn(row, rng, dtype):
    """Random numbers of ``dtype`` for a row that holds floats, else of the dtype of the row."""
    numbers = np.asarray(rng.normal(size=row.torch_shape))
    return numbers.astype(dtype if is_floating(row.dtype) else row.dtype)


@walk
def test_round_trip_is_bit_exact_in_every_dtype(entry):
    mapping = entry_plan(entry)
    rng = np.random.default_rng(0)
    for dtype in DTYPES:
        state = {row.key: drawn(row, rng, dtype) for row in mapping.rows}
        state |= {key: state[row.key] for key, row in mapping.aliases.items()}
        back = mapping.to_torch(mapping.from_torch(state, dtype="keep"))
        assert list(back) == list(state)
        for key, value in state.items():
            assert (back[key].dtype, back[key].shape) == (value.dtype, value.shape)
            assert back[key].tobytes() == value.tobytes()


@walk
def test_twin_accepts_what_to_torch_gives(entry):
    pytest.importorskip("torch")
    from tests.helpers.parity import randomise, torch
    from torch_ref.twins import build_twin

    twin, fresh = (build_twin(entry.cls, entry.kwargs) for _ in range(2))
    mapping = entry_plan(entry)
    randomise(twin, np.random.default_rng(0))
    state = mapping.to_torch(mapping.from_torch(twin.state_dict()))
    fresh.load_state_dict({key: torch.as_tensor(value) for key, value in state.items()}, strict=True)
    for key, value in twin.state_dict().items():
        if key.rpartition(".")[2] not in DROPPED:
            assert torch.equal(fresh.state_dict()[key], value), key


def test_torch_tensors_of_any_dtype_are_taken_as_they_are():
    torch = pytest.importorskip("torch")
    x = jax.ShapeDtypeStruct((2, 7, 5, 6), jnp.float32)
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        state = {k: torch.randn(v.shape).to(dtype) for k, v in state_dict(SELayer(6, 2), x).items()}
        kernel = from_torch(SELayer(6, 2), state, x, dtype="keep")["params"]["fc"]["0"]["kernel"]
        assert str(kernel.dtype) == str(dtype).removeprefix("torch.")
        np.testing.assert_array_equal(kernel.T.astype(np.float64), state["fc.0.weight"].double().numpy())


def test_every_problem_is_listed_at_once():
    x = jax.ShapeDtypeStruct((2, 7, 5, 6), jnp.float32)
    block = SEBasicBlock(6, 6, reduction=2)
    state = state_dict(block, x)
    del state["bn1.weight"], state["se.fc.0.weight"]
    state |= {"fc.bias": np.zeros(3), "conv1.weight": np.zeros((6, 6, 5, 5), np.float32)}
    with pytest.raises(MismatchError) as error:
        from_torch(block, state, x)
    assert str(error.value).splitlines() == [
        "the state dict does not fit SEBasicBlock: 4 differences",
        "- bn1.weight: expected shape (6,), found nothing",
        "- se.fc.0.weight: expected shape (3, 6), found nothing",
        "+ fc.bias: found shape (3,), expected nothing",
        "~ conv1.weight: expected shape (6, 6, 3, 3), found (6, 6, 5, 5)",
    ]


def test_variables_are_checked_as_strictly():
    x = jax.ShapeDtypeStruct((2, 7, 5, 6), jnp.float32)
    variables = from_torch(SELayer(6, 2), state_dict(SELayer(6, 2), x), x)
    variables["params"]["fc"]["0"] = {"weight": np.zeros((6, 3))}
    variables["params"]["fc"]["2"]["kernel"] = np.zeros((6, 3))
    with pytest.raises(MismatchError) as error:
        to_torch(SELayer(6, 2), variables, x)
    assert str(error.value).splitlines() == [
        "the variables do not fit SELayer: 3 differences",
        "- params/fc/0/kernel: expected shape (6, 3), found nothing",
        "+ params/fc/0/weight: found shape (6, 3), expected nothing",
        "~ params/fc/2/kernel: expected shape (3, 6), found (6, 3)",
    ]


def test_a_square_weight_is_transposed_not_matched_by_shape():
    x = jax.ShapeDtypeStruct((2, 4), jnp.float32)
    weight = np.arange(16, dtype=np.float32).reshape(4, 4)
    variables = from_torch(layers.Linear(4, 4, bias=False), {"weight": weight}, x)
    np.testing.assert_array_equal(variables["params"]["kernel"], weight.T)


def test_two_leaves_with_one_key_are_refused():
    class NoClash(layers.Module):
        def setup(self):
            self.weight = self.parameter("weight", layers.init.zeros, (3,))
            self.norm = layers.LayerNorm(3)

        def __call__(self, x, train=False):
            return self.norm(x) + self.weight

    class Dotted(layers.Module):
        def setup(self):
            setattr(self, "a.b", layers.LayerNorm(3))
            self.a = layers.Sequential([layers.relu])
            self.weight = self.parameter("a.b.weight", layers.init.zeros, (3,))

        def __call__(self, x, train=False):
            return getattr(self, "a.b")(x) + self.weight

    x = jax.ShapeDtypeStruct((2, 3), jnp.float32)
    assert {row.key for row in plan(NoClash(), x).rows} == {"weight", "norm.weight", "norm.bias"}
    with pytest.raises(MismatchError, match=r"\* a.b.weight: 2 leaves have this key"):
        plan(Dotted(), x)


class Twice(layers.Module):
    aliases = (("heads.1", "last"), ("heads.0", "first"))

    def setup(self):
        self.first, self.last = layers.Linear(3, 3), layers.Linear(3, 3)

    def __call__(self, x, train=False):
        return self.last(self.first(x))


def test_second_names_are_asked_for_and_given_back():
    x = jax.ShapeDtypeStruct((2, 3), jnp.float32)
    net = layers.Sequential([layers.relu, Twice()])
    state = state_dict(net, x)
    twice = {
        **state,
        **{
            f"1.heads.{i}.{leaf}": state[f"1.{name}.{leaf}"]
            for i, name in enumerate(("first", "last"))
            for leaf in ("weight", "bias")
        },
    }
    variables = from_torch(net, twice, x)
    back = to_torch(net, variables, x)
    assert back.keys() == twice.keys()
    assert all(np.array_equal(back[key], twice[key]) for key in twice)
    with pytest.raises(MismatchError, match=r"- 1.heads.1.weight: expected shape"):
        from_torch(net, state, x)
    with pytest.raises(MismatchError, match=r"! 1.heads.0.bias: differs from 1.first.bias"):
        from_torch(net, {**twice, "1.heads.0.bias": twice["1.heads.0.bias"] + 1}, x)


def test_num_batches_tracked_is_the_only_thing_dropped():
    x = jax.ShapeDtypeStruct((2, 7, 5, 6), jnp.float32)
    norm = layers.BatchNorm2d(6)
    state = state_dict(norm, x)
    assert from_torch(norm, state | {"num_batches_tracked": np.int64(3)}, x).keys() == {"params", "batch_stats"}
    with pytest.raises(MismatchError, match=r"\+ num_batches: "):
        from_torch(norm, state | {"num_batches": np.int64(3)}, x)


def test_the_counter_of_a_mean_over_all_batches_is_read():
    x = jax.ShapeDtypeStruct((2, 7, 5, 6), jnp.float32)
    net = layers.Sequential([layers.BatchNorm2d(6, momentum=None), layers.BatchNorm2d(6)])
    state = state_dict(net, x)
    assert state.pop("0.num_batches_tracked").shape == ()
    both = state | {"0.num_batches_tracked": np.int64(3), "1.num_batches_tracked": np.int64(4)}
    for dialect in (None, "auto"):
        variables = from_torch(net, both, x, dialect=dialect)
        assert variables["batch_stats"]["0"]["num_batches_tracked"] == 3
        assert "num_batches_tracked" not in variables["batch_stats"]["1"]
        assert from_torch(net, state, x, dialect=dialect)["batch_stats"]["0"]["num_batches_tracked"] == 0
    back = to_torch(net, variables, x)
    assert back.keys() == state.keys() | {"0.num_batches_tracked"}
    assert back["0.num_batches_tracked"] == 3
    with pytest.raises(MismatchError, match=r"~ 0.num_batches_tracked: expected shape \(\), found \(2,\)"):
        from_torch(net, both | {"0.num_batches_tracked": np.zeros(2)}, x)


def test_rematerialised_and_jitted_modules_keep_their_keys():
    import flax.linen as nn

    x = jax.ShapeDtypeStruct((2, 7, 5, 6), jnp.float32)
    plain = plan(SEBasicBlock(6, 6, reduction=2), x).rows
    assert plan(nn.remat(SEBasicBlock)(6, 6, reduction=2), x).rows == plain
    assert plan(nn.jit(SEBasicBlock)(6, 6, reduction=2), x).rows == plain


def test_nothing_is_computed(monkeypatch):
    monkeypatch.setattr(jax.random, "normal", functools.partial(pytest.fail, "drew numbers"))
    module = layers.Linear(30_000, 30_000)
    assert len(plan(module, jax.ShapeDtypeStruct((1, 30_000), jnp.float32)).rows) == 2
