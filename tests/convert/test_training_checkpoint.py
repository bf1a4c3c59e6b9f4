"""A training checkpoint that save_torch wrote: torch and our own reader find in it what was given, bit for bit."""

import enum
import math
import struct
import zipfile
from collections import OrderedDict, defaultdict, namedtuple

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax.core import freeze

from convert import CheckpointError, Inert, read, save_torch
from convert.files.pickle_writer import STORAGES, UNTYPED
from convert.tensors import Lazy, as_numpy

PLAIN = [0, -1, 255, 2**31 - 1, 2**31, -(2**31), -(2**31) - 1, 2**63, -(2**63), 10**80, -(10**80), True, False, None]
PLAIN += [0.0, -0.0, math.inf, -math.inf, math.nan, 1e-320, 0.1, "", "ключ\n\t\\", "\ud800", "x" * 300]
KEYS = ["a", "a.b", "", "重", 3, -7, 2**40, 0.5, True, None, ("x", 1), (1, 0.5, None), ()]


def an_array(rng):
    name = str(rng.choice([*STORAGES, *UNTYPED]))
    shape = tuple(rng.integers(0, 4, rng.integers(0, 4)))
    dtype = np.dtype(getattr(ml_dtypes, name, name))
    count = int(np.prod(shape)) * dtype.itemsize
    return rng.integers(0, 2 if name == "bool" else 256, count, dtype=np.uint8).view(dtype).reshape(shape)


def a_value(rng, depth=4):
    """Random nested containers of random leaves."""
    kind = rng.integers(0, 6 if depth else 2)
    if kind == 0:
        return PLAIN[rng.integers(len(PLAIN))]
    if kind == 1:
        return an_array(rng)
    inside = [a_value(rng, depth - 1) for _ in range(rng.integers(0, 5))]
    if kind < 4:
        keys = [KEYS[i] for i in rng.permutation(len(KEYS))]
        return (dict, OrderedDict)[kind - 2](zip(keys, inside, strict=False))
    return (list, tuple)[kind - 4](inside)


def same(ours, theirs, exact):
    """Whether both are the same types, keys and bits. Our own reader knows no ordered dicts, and no tuples."""
    if hasattr(theirs, "detach"):
        assert str(theirs.dtype) == f"torch.{ours.dtype.name}"
        theirs = as_numpy(theirs)
    if isinstance(theirs, np.ndarray):
        assert (ours.dtype, ours.shape, ours.tobytes()) == (theirs.dtype, theirs.shape, theirs.tobytes())
        return
    kind = type(ours) if exact else {OrderedDict: dict, tuple: list}.get(type(ours), type(ours))
    assert type(theirs) is kind
    if isinstance(ours, dict):
        assert [(type(key), key) for key in ours] == [(type(key), key) for key in theirs]
        ours, theirs = list(ours.values()), list(theirs.values())
    if isinstance(ours, list | tuple):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            same(one, other, exact)
    elif isinstance(ours, float):
        assert struct.pack(">d", ours) == struct.pack(">d", theirs)
    else:
        assert ours == theirs


@pytest.mark.parametrize("seed", range(40))
def test_random_nested_values(tmp_path, seed):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    weights = {"w": np.ones((2, 3), np.float32), "b": np.zeros(2, np.float32)}
    value = {"model": weights, "epoch": 3, "other": [a_value(rng) for _ in range(6)], ("a", 1): a_value(rng)}
    save_torch(tmp_path / "run.pth", value)
    for mmap in (False, True):
        same(value, torch.load(tmp_path / "run.pth", weights_only=True, mmap=mmap), exact=True)
    found = read(tmp_path / "run.pth")
    same(weights, dict(found.arrays), exact=False)
    same({key: value[key] for key in list(value)[1:]}, found.extras, exact=False)


def optimizers(torch, parameters):
    yield torch.optim.SGD(parameters, lr=0.1)
    yield torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True)
    yield torch.optim.Adam([{"params": parameters[:1], "lr": 1e-5}, {"params": parameters[1:]}], amsgrad=True)
    yield torch.optim.NAdam(parameters)


def test_the_script_goes_on_from_our_file(tmp_path):
    torch = pytest.importorskip("torch")
    for index in range(4):
        net, other = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
        first, second = (list(optimizers(torch, list(n.parameters())))[index] for n in (net, other))
        schedules = [torch.optim.lr_scheduler.StepLR(o, 2, 0.5) for o in (first, second)]

        def step(module, optimizer, schedule):
            optimizer.zero_grad()
            module(torch.ones(4, 3)).square().sum().backward()
            optimizer.step()
            schedule.step()

        for _ in range(3):
            step(net, first, schedules[0])
        value = {"model": net.state_dict(), "optimizer": first.state_dict(), "lr_scheduler": schedules[0].state_dict()}
        save_torch(tmp_path / "run.pth", value)
        loaded = torch.load(tmp_path / "run.pth", weights_only=True)
        assert all(type(key) is int for key in loaded["optimizer"]["state"])
        other.load_state_dict(loaded["model"])
        second.load_state_dict(loaded["optimizer"])
        schedules[1].load_state_dict(loaded["lr_scheduler"])
        for module, optimizer, schedule in ((net, first, schedules[0]), (other, second, schedules[1])):
            step(module, optimizer, schedule)
        assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))
        assert first.param_groups[0]["lr"] == second.param_groups[0]["lr"]


def test_arrays_of_every_library(tmp_path):
    torch = pytest.importorskip("torch")
    base = torch.arange(6.0).reshape(2, 3)
    value = {
        "step": np.int64(7),
        "arrays": [
            jnp.full((2,), 1.5, jnp.bfloat16),
            Lazy((2,), np.dtype("int8"), lambda: np.ones(2, np.int8)),
            base.T,
            torch.nn.Parameter(base.to(torch.bfloat16)),
            torch.tensor(3.0),
            (base + 1j * base).conj(),
        ],
    }
    save_torch(tmp_path / "run.pth", value)
    read_back = torch.load(tmp_path / "run.pth", weights_only=True)
    assert read_back["step"] == 7
    found = read_back["arrays"]
    assert found[0].tolist() == [1.5, 1.5]
    assert found[0].dtype == found[3].dtype == torch.bfloat16
    assert found[1].tolist() == [1, 1]
    assert torch.equal(found[2], base.T)
    assert found[4].shape == ()
    assert torch.equal(found[5], (base - 1j * base))


def test_scalars_of_numpy_become_numbers(tmp_path):
    torch = pytest.importorskip("torch")
    scalars = [np.float32(0.5), np.float64(0.1), np.int8(-3), np.uint64(2**64 - 1), np.bool_(True), np.str_("a")]
    scalars.append(ml_dtypes.bfloat16(1.5))
    save_torch(tmp_path / "run.pth", {"scalars": scalars, np.int64(3): 1})
    found = torch.load(tmp_path / "run.pth", weights_only=True)
    assert found["scalars"] == [0.5, 0.1, -3, 2**64 - 1, True, "a", 1.5]
    assert [type(x) for x in found["scalars"]] == [float, float, int, int, bool, str, float]
    assert [type(key) for key in found] == [str, int]


def test_a_dict_of_arrays_alone_is_an_ordered_dict(tmp_path):
    torch = pytest.importorskip("torch")
    save_torch(tmp_path / "run.pth", {"a": np.ones(2), "b": np.float32(3)})
    found = torch.load(tmp_path / "run.pth", weights_only=True)
    assert type(found) is OrderedDict
    assert found["b"].shape == ()
    nested = freeze({"model": {"a": np.ones(2)}, "more": defaultdict(list, {"x": [1]})})
    save_torch(tmp_path / "run.pth", nested)
    found = torch.load(tmp_path / "run.pth", weights_only=True)
    assert (type(found), type(found["model"]), found["more"]) == (dict, dict, {"x": [1]})


def test_what_is_the_same_in_memory_is_stored_once(tmp_path):
    torch = pytest.importorskip("torch")
    array, weight = np.arange(6.0), torch.ones(5, 2)
    shared = [1, 2]
    value = {"a": array, "b": {"c": [array[:]]}, "t": weight, "u": weight.detach(), "v": weight.T, "x": [shared] * 2}
    save_torch(tmp_path / "run.pth", value)
    found = torch.load(tmp_path / "run.pth", weights_only=True)
    assert found["a"].data_ptr() == found["b"]["c"][0].data_ptr()
    assert found["t"].data_ptr() == found["u"].data_ptr() != found["v"].data_ptr()
    assert found["x"] == [[1, 2], [1, 2]]
    names = zipfile.ZipFile(tmp_path / "run.pth").namelist()
    assert sum(name.startswith("archive/data/") for name in names) == 3


def test_containers_that_are_shared_do_not_multiply(tmp_path):
    torch = pytest.importorskip("torch")
    value = {"epoch": 1}
    for _ in range(60):
        value = {"a": value, "b": (value, value)}
    save_torch(tmp_path / "run.pth", value)
    assert (tmp_path / "run.pth").stat().st_size < 20_000
    found = torch.load(tmp_path / "run.pth", weights_only=True)
    for _ in range(60):
        found = found["b"][1]
    assert found == {"epoch": 1}


def test_one_tensor_is_copied_at_a_time(tmp_path):
    torch = pytest.importorskip("torch")
    import tracemalloc

    import convert.files.pickle_writer as writer

    tensors = [torch.ones(1000, 500).T for _ in range(8)]
    made = []
    original = writer.as_numpy
    writer.as_numpy = lambda x: made.append(x.numel()) or original(x)
    tracemalloc.start()
    try:
        save_torch(tmp_path / "run.pth", {"tensors": tensors})
    finally:
        writer.as_numpy = original
        tracemalloc.stop()
    assert made.count(500_000) == 8
    assert made[:8] == [0] * 8


Pair = namedtuple("Pair", "a b")


class Kind(enum.IntEnum):
    A = 1


def cyclic():
    value = {"epoch": 1, "inner": [{}]}
    value["inner"][0]["outer"] = value
    return value


def deep():
    value = []
    for _ in range(5000):
        value = [value]
    return value


OPTIMIZER = {"optimizer": {"param_groups": [{"lr": 0.1, "lambda": print}]}}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (OPTIMIZER, r"got builtin_function_or_method at optimizer\.param_groups\.0\.lambda; leave it out"),
        ({"a": {1, 2}}, "got set at a;"),
        ({"a": b"x"}, "got bytes at a;"),
        ({"a": 1j}, "got complex at a;"),
        ({"a": [np.complex64(1)]}, r"got complex64 at a\.0;"),
        ({"a": [np.datetime64(3, "ns")]}, r"got datetime64 at a\.0;"),
        ({"a": [np.longdouble(3)]}, r"got longdouble at a\.0;"),
        ({"a": object()}, "got object at a;"),
        ({"a": Inert("argparse.Namespace")}, "got an object of argparse.Namespace at a;"),
        ({"a": (1, Pair(1, 2))}, r"got Pair at a\.1;"),
        ({"a": Kind.A}, "got Kind at a;"),
        ({"a": 2**2040}, "integers of at most 255 bytes, got one of 256 at a"),
        ({"a": {"b": np.array([None])}}, r"dtypes that PyTorch has, got object at a\.b"),
        ({"a": {"b": np.zeros(2, ml_dtypes.int4)}}, r"got int4 at a\.b"),
        ({"a": {frozenset(): 1}}, r"as keys, got frozenset at a\.frozenset"),
        ({"a": {b"x": 1}}, "as keys, got bytes at a"),
        ({("a", Kind.A): 1}, "as keys, got Kind"),
        (cyclic(), r"that do not hold themselves, got one that does at inner\.0\.outer"),
        ({"a": deep()}, r"at most 100 containers in one another, got more at a\.0\.0"),
        (3, "a dict of arrays, got int"),
    ],
)
def test_what_cannot_be_written_is_one_sentence(tmp_path, value, words):
    with pytest.raises(CheckpointError, match=words) as caught:
        save_torch(tmp_path / "run.pth", value)
    assert str(caught.value).startswith(f"{tmp_path / 'run.pth'}: ")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore")
def test_tensors_without_plain_numbers_are_refused(tmp_path):
    torch = pytest.importorskip("torch")
    tensors = {
        "sparse": torch.eye(3).to_sparse(),
        "csr": torch.eye(3).to_sparse_csr(),
        "meta": torch.ones(3, device="meta"),
        "quantized": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
        "complex32": torch.zeros(3, dtype=torch.complex32),
    }
    for name, tensor in tensors.items():
        with pytest.raises(CheckpointError, match=rf"at a\.{name}"):
            save_torch(tmp_path / "run.pth", {"a": {name: tensor}})
        with pytest.raises(CheckpointError, match=f"at {name}"):
            save_torch(tmp_path / "run.pth", {name: tensor})
    assert list(tmp_path.iterdir()) == []


def test_a_refused_value_leaves_the_old_file(tmp_path):
    save_torch(tmp_path / "run.pth", {"epoch": 1})
    before = (tmp_path / "run.pth").read_bytes()
    with pytest.raises(CheckpointError):
        save_torch(tmp_path / "run.pth", {"epoch": print})
    assert (tmp_path / "run.pth").read_bytes() == before
