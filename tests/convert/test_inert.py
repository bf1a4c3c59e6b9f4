"""What lies beside a state dict does not matter: unknown classes become inert objects, and nothing is imported."""

import argparse
import collections
import contextlib
import datetime
import enum
import functools
import pathlib
import pickle
import sys
import time
import tracemalloc
import types

import numpy as np
import pytest

from convert import CheckpointError, load, read
from convert.files.pickled import Inert
from convert.files.tree import WRAPPERS
from tests.helpers.handmade import STATE, bits, call, mapping, name, nothing_runs, refused, tensor, value, write_zip

torch = pytest.importorskip("torch")


@pytest.fixture
def foreign(monkeypatch):
    """Makes classes of packages that are gone when the file is read, as another project's are."""

    def make(dotted, base=object):
        package, _, last = dotted.rpartition(".")
        cls = type(last, (base,), {"__module__": package})
        parts = package.split(".")
        for i in range(1, len(parts) + 1):
            parent = ".".join(parts[:i])
            if parent not in sys.modules:
                monkeypatch.setitem(sys.modules, parent, types.ModuleType(parent))
        setattr(sys.modules[package], last, cls)
        return cls

    return make


def save(path, tree, *gone, **options):
    """Write ``tree``, and forget its classes."""
    torch.save(tree, path, **options)
    for cls in gone:
        delattr(sys.modules[cls.__module__], cls.__name__)
    return path


def opened(path, **options):
    with nothing_runs():
        checkpoint = read(path, **options)
        extras = checkpoint.extras
    return checkpoint, extras


def net():
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4))


def same(checkpoint, module):
    expected = module.state_dict()
    assert list(checkpoint.arrays) == list(expected)
    assert all(bits(checkpoint.arrays[key]) == bits(x.numpy()) for key, x in expected.items())


protocols = pytest.mark.parametrize("protocol", [2, 4, 5])


@protocols
def test_an_mmengine_checkpoint(tmp_path, foreign, protocol):
    buffer = foreign("mmengine.logging.history_buffer.HistoryBuffer")
    config = foreign("mmengine.config.config.ConfigDict", dict)
    history = buffer()
    history.__dict__ |= {"_log_history": np.ones(3), "_max_length": 10, "_statistics": {"mean": buffer}}
    hub = {"log_scalars": {"train/loss": history}, "runtime_info": collections.OrderedDict(epoch=2)}
    tree = {"meta": {"cfg": config(lr=0.1, steps=[1, 2]), "epoch": 2}, "state_dict": net().state_dict()}
    module = net()
    tree["state_dict"], tree["message_hub"] = module.state_dict(), hub
    file, extras = opened(save(tmp_path / "x.pth", tree, buffer, config, pickle_protocol=protocol))
    same(file, module)
    assert (file.wrapper, file.beside) == ("state_dict", ("meta", "message_hub"))
    assert extras["meta"] == {"cfg": {"lr": 0.1, "steps": [1, 2]}, "epoch": 2}
    inert = extras["message_hub"]["log_scalars"]["train/loss"]
    assert isinstance(inert, Inert)
    assert inert.name == "mmengine.logging.history_buffer.HistoryBuffer"
    np.testing.assert_array_equal(inert.state["_log_history"], np.ones(3))
    assert file.names["mmengine.logging.history_buffer.HistoryBuffer"] == ""


class Colour(enum.Enum):
    RED = 1


@protocols
def test_a_lightning_checkpoint(tmp_path, foreign, protocol):
    attributes = foreign("lightning.fabric.utilities.data.AttributeDict", dict)
    container = foreign("omegaconf.dictconfig.DictConfig")
    callback = foreign("pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint")
    config = container()
    config.__dict__ |= {"_content": {"lr": 0.1}, "_parent": None}
    module = net()
    tree = {
        "epoch": 3,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": module.state_dict(),
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 3}}}},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best": pathlib.PurePosixPath("/a/b"), "c": callback()}},
        "optimizer_states": [torch.optim.Adam(module.parameters()).state_dict()],
        "lr_schedulers": [{"_last_lr": [0.1], "milestones": collections.Counter({3: 1})}],
        "hyper_parameters": attributes(lr=0.1, opt=functools.partial(torch.optim.SGD, lr=0.1), cfg=config),
        "when": [datetime.datetime(2026, 1, 2), datetime.timedelta(3), Colour.RED, collections.deque([1, 2], maxlen=3)],
        "name_space": types.SimpleNamespace(a=1),
        "arguments": argparse.Namespace(b=[2]),
        ("tuple", 1): "key",
        2: {"three": slice(1, 2), "four": range(3), "five": {1, 2}, "six": frozenset({7})},
    }
    file, extras = opened(save(tmp_path / "x.ckpt", tree, attributes, container, callback, pickle_protocol=protocol))
    same(file, module)
    assert file.wrapper == "state_dict"
    assert extras["epoch"] == 3
    assert next(iter(extras["callbacks"].values()))["best"] == "/a/b"
    assert extras["hyper_parameters"]["lr"] == 0.1
    assert extras["hyper_parameters"]["opt"].name == "functools.partial"
    assert extras["hyper_parameters"]["cfg"].state["_content"] == {"lr": 0.1}
    assert (extras["name_space"], extras["arguments"]) == ({"a": 1}, {"b": [2]})
    assert extras["lr_schedulers"] == [{"_last_lr": [0.1], "milestones": {3: 1}}]
    assert extras["when"][3] == [1, 2]
    assert extras["when"][2].name.endswith("Colour")
    assert (extras["tuple", 1], extras[2]["five"], extras[2]["six"]) == ("key", [1, 2], [7])
    assert not [name for name, sentence in file.names.items() if sentence]


def test_the_names_of_python_2(tmp_path):
    numbers = collections.defaultdict(int, a=1)
    module = net()
    path = save(tmp_path / "x.pth", {"model": module.state_dict(), "counts": numbers}, pickle_protocol=2)
    file, extras = opened(path)
    same(file, module)
    assert extras == {"counts": {"a": 1}}
    odd = [call("collections.defaultdict", name(f"__builtin__.{kind}")) for kind in ("long", "unicode", "xrange")]
    body = mapping(state_dict=STATE, odd=b"](" + b"".join(odd) + call("__builtin__.xrange", value(3)) + b"e")
    assert list(load(write_zip(tmp_path / "y.pth", body))) == ["w", "b"]


def test_optimizers_and_schedulers_as_objects(tmp_path):
    module = net()
    optimizer = torch.optim.SGD(module.parameters(), 0.1, momentum=0.9)
    module(torch.ones(2, 3, 4, 4)).sum().backward()
    optimizer.step()
    tree = {"net": module.state_dict(), "optimizer": optimizer}
    tree["scheduler"] = torch.optim.lr_scheduler.StepLR(optimizer, 3)
    file, extras = opened(save(tmp_path / "x.pth", tree))
    same(file, module)
    assert extras["scheduler"].state["step_size"] == 3
    assert extras["optimizer"].state["param_groups"][0]["momentum"] == 0.9


def odd_tensors():
    quantized = torch.quantize_per_tensor(torch.ones(2, 2), 0.1, 0, torch.qint8)
    per_channel = torch.quantize_per_channel(torch.ones(2, 2), torch.ones(2), torch.zeros(2).long(), 0, torch.quint8)
    return {
        "sparse": torch.ones(2, 2).to_sparse(),
        "csr": torch.eye(2).to_sparse_csr(),
        "quantized": quantized,
        "per_channel": per_channel,
        "conjugated": torch.ones(2, dtype=torch.complex64).conj(),
        "meta": torch.empty(2, device="meta"),
    }


WORDS = {
    "sparse": "sparse tensor: save tensor.to_dense()",
    "csr": "sparse tensor",
    "quantized": "quantized tensor: save tensor.dequantize()",
    "per_channel": "quantized tensor",
    "conjugated": "resolve_conj",
    "meta": "meta tensor, which has a shape but no numbers",
}


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support", "ignore:.*quantiz")
@pytest.mark.parametrize("kind", WORDS)
@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
def test_tensors_without_plain_numbers_matter_only_in_the_state_dict(tmp_path, kind, is_zip):
    module, odd = net(), odd_tensors()[kind]
    path = tmp_path / "x.pth"
    torch.save({"state_dict": module.state_dict(), "odd": [odd]}, path, _use_new_zipfile_serialization=is_zip)
    file, extras = opened(path)
    same(file, module)
    assert isinstance(extras["odd"][0], Inert)
    torch.save({**module.state_dict(), "odd.weight": odd}, path, _use_new_zipfile_serialization=is_zip)
    refused(path, "odd.weight", WORDS[kind])


def test_packed_weights_of_a_quantized_model_are_named(tmp_path):
    packed = b"(" + call("torch._utils._rebuild_qtensor", value(1)) + tensor() + b"t"
    body = mapping(**{"fc.scale": tensor(), "fc._packed_params._packed_params": packed})
    refused(write_zip(tmp_path / "x.pth", body), "fc._packed_params._packed_params a packed quantized weight")


def test_shards_are_named_with_what_to_do(tmp_path, foreign):
    for dotted in (
        "torch.distributed.tensor._api.DTensor",
        "torch.distributed._shard.sharded_tensor.api.ShardedTensor",
    ):
        body = mapping(**{"fc.weight": call(dotted, tensor()), "fc.bias": tensor()})
        refused(write_zip(tmp_path / "x.pth", body), "fc.weight", "shard of a distributed tensor", "full_state_dict")
    wrapped = (name("torch._utils._rebuild_wrapper_subclass"), name("torch.distributed.tensor.DTensor"))
    body = mapping(w=call("torch._tensor._rebuild_from_type_v2", *wrapped, value(()), value({})))
    refused(write_zip(tmp_path / "x.pth", body), "shard of a distributed tensor")


def test_flat_parameters_are_named_with_what_to_do(tmp_path):
    flat = {"_flat_param": torch.ones(10), "layer._fsdp_wrapped_module._flat_param": torch.ones(5)}
    refused(
        save(tmp_path / "x.pth", flat), "_flat_param (and 1 more) a shard of a distributed tensor", "full_state_dict"
    )


class Mixed(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 1, bias=False)
        self.bn = torch.nn.BatchNorm2d(4)
        self.blocks = torch.nn.ModuleList([torch.nn.Linear(4, 4), None, torch.nn.Linear(4, 2)])
        self.tied = self.blocks[0]
        self.free = torch.nn.Parameter(torch.randn(3, 2))
        self.register_buffer("kept", torch.randn(2))
        self.register_buffer("hidden", torch.randn(2), persistent=False)
        self.register_parameter("nothing", None)
        self.hook = functools.partial(print, 1)


WRAPS = {
    "bare": lambda module: module,
    "wrapped": lambda module: {"model": module, "epoch": 3},
    "parallel": torch.nn.DataParallel,
}


@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("wrap", WRAPS)
def test_whole_modules_are_read_as_their_state_dict(tmp_path, foreign, wrap, is_zip):
    cls = foreign("project.networks.Net", Mixed)
    module = cls().eval()
    path = save(tmp_path / "x.pth", WRAPS[wrap](module), cls, _use_new_zipfile_serialization=is_zip)
    file, extras = opened(path)
    same(file, module)
    assert file.whole.endswith("DataParallel" if wrap == "parallel" else "project.networks.Net")
    assert extras == ({"epoch": 3} if wrap == "wrapped" else {})


def test_a_graph_module_is_read_too(tmp_path):
    module = torch.fx.symbolic_trace(net())
    torch.save(module, tmp_path / "x.pth")
    file, _ = opened(tmp_path / "x.pth")
    assert {key: bits(x) for key, x in file.arrays.items()} == {k: bits(x.numpy()) for k, x in net_of(module).items()}
    assert any(file.names.values())


def net_of(module):
    return dict(module.state_dict())


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize("make", [torch.jit.script, lambda m: torch.jit.trace(m, torch.ones(1, 3, 5, 5))])
def test_torchscript_is_read_by_attribute_path(tmp_path, make):
    module = net().eval()
    make(module).save(tmp_path / "x.pt")
    file, _ = opened(tmp_path / "x.pt")
    expected = module.state_dict()
    assert set(file.arrays) == set(expected)
    assert all(bits(file.arrays[key]) == bits(x.numpy()) for key, x in expected.items())
    assert file.format == "TorchScript archive"


@protocols
@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
def test_numpy_arrays_as_values(tmp_path, protocol, is_zip):
    import ml_dtypes

    rng = np.random.default_rng(0)
    arrays = {
        "a": rng.normal(size=(2, 3)),
        "b": np.asfortranarray(rng.normal(size=(3, 4)).astype("float32")),
        "c": rng.integers(0, 9, 5),
        "d": np.array(2.0, "float32"),
        "e": np.ones((0, 2), "float16"),
        "f": np.arange(4).astype(">i4"),
        "g": np.array([True, False]),
        "h": rng.normal(size=3).astype(ml_dtypes.bfloat16),
        "i": np.ones(2, "complex64"),
    }
    options = {"pickle_protocol": protocol, "_use_new_zipfile_serialization": is_zip}
    file, extras = opened(save(tmp_path / "x.pth", {"model": arrays, "best": np.float64(0.5)}, **options))
    assert extras == {"best": 0.5}
    for key, x in arrays.items():
        native = x.astype(x.dtype.newbyteorder("="))
        assert bits(file.arrays[key]) == bits(native)
        assert file.arrays[key].flags.writeable


def test_objects_are_no_arrays(tmp_path):
    for odd in (np.array(["a"]), np.array([{}], object), np.array([(1, 2.0)], [("x", "i4"), ("y", "f4")])):
        refused(save(tmp_path / "x.pth", {"w": torch.ones(1), "v": odd}), "dtype")


def test_a_plain_pickle_of_arrays(tmp_path):
    arrays = {"conv.weight": np.ones((2, 3), "float32"), "conv.bias": np.zeros(2)}
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"model": arrays, "__author__": "someone"}, 2))
    file, extras = opened(tmp_path / "x.pkl")
    assert {key: bits(x) for key, x in file.arrays.items()} == {key: bits(x) for key, x in arrays.items()}
    assert extras == {"__author__": "someone"}


XLA = "torch._utils._rebuild_device_tensor_from_numpy"


def test_tensors_of_torch_xla(tmp_path):
    array = np.arange(6, dtype="float32").reshape(2, 3)
    as_numpy = call(XLA, value(array), name("torch.float32"), value("xla:0"), value(False))
    as_cpu = call(
        "torch._utils._rebuild_device_tensor_from_cpu_tensor",
        tensor(),
        name("torch.float32"),
        value("xla:0"),
        value(False),
    )
    got = load(write_zip(tmp_path / "x.pth", mapping(w=as_numpy, b=as_cpu)))
    for key in ("w", "b"):
        np.testing.assert_array_equal(got[key], array)


def test_a_torch_size_beside_the_weights(tmp_path):
    module = net()
    tree = {**module.state_dict(), "shape": torch.Size([2, 3]), "epoch": 3, "device": torch.device("cuda", 1)}
    file, extras = opened(save(tmp_path / "x.pth", tree))
    same(file, module)
    assert extras == {"shape": [2, 3], "epoch": 3, "device": "cuda:1"}


def test_what_lies_beside_is_reached_by_number(tmp_path):
    module = net()
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.ones(2, 3, 4, 4)).sum().backward()
    optimizer.step()
    tree = {"state_dict": module.state_dict(), "optimizer": optimizer.state_dict(), "list": [1, {"w": torch.ones(2)}]}
    path = save(tmp_path / "x.pth", {**tree, "a.b": {"c": {"w": torch.zeros(1)}}})
    state = load(path, "optimizer.state.0")
    np.testing.assert_array_equal(state["exp_avg"], optimizer.state_dict()["state"][0]["exp_avg"].numpy())
    assert list(load(path, "list.1")) == list(load(path, "a.b.c")) == ["w"]
    extras = read(path).extras
    np.testing.assert_array_equal(extras["optimizer"]["state"][0]["exp_avg"], state["exp_avg"])
    assert extras["optimizer"]["param_groups"][0]["betas"] == [0.9, 0.999]
    assert extras["optimizer"]["param_groups"][0]["lr"] == 1e-3
    refused(path, "expected a state dict under optimizer.state.9", wrapper="optimizer.state.9")
    refused(path, "did you mean optimizer?", wrapper="optimiser.state")
    for wrapper in (3, b"x", ["state_dict"]):
        with pytest.raises(CheckpointError, match="expected wrapper to be a string"):
            read(path, wrapper)


def test_every_state_dict_is_listed(tmp_path):
    module = net()
    tree = {"state_dict": module.state_dict(), "state_dict_ema": module.state_dict(), "model": module}
    tree["teacher"] = {"backbone": module.state_dict()}
    file, _ = opened(save(tmp_path / "x.pth", tree))
    count = len(module.state_dict())
    assert file.wrappers == dict.fromkeys(("state_dict", "state_dict_ema", "model", "teacher.backbone"), count)
    torch.save({"g": module.state_dict(), "d": module.state_dict(), "epoch": 1}, tmp_path / "x.pth")
    refused(tmp_path / "x.pth", "pass one of these as wrapper: g, d")


def test_strict_pickle_refuses_every_other_name(tmp_path, foreign):
    config = foreign("project.config.Config")
    module = net()
    path = save(tmp_path / "x.pth", {"state_dict": module.state_dict(), "cfg": config()}, config)
    same(read(path), module)
    with pytest.raises(CheckpointError, match=r"refuses project.config.Config, which is not on the list"):
        read(path, strict_pickle=True)
    plain = save(
        tmp_path / "y.pth",
        {"state_dict": module.state_dict(), "optimizer": torch.optim.Adam(module.parameters()).state_dict()},
    )
    same(read(plain, strict_pickle=True), module)


def test_modules_nested_without_end_are_refused(tmp_path):
    def module(inside):
        return call("project.Net") + mapping(_parameters=mapping(w=tensor()), _modules=inside) + b"b"

    loop = (
        b"c"
        + b"project\nNet\n"
        + b")\x81q\x01"
        + mapping(_parameters=mapping(w=tensor()), _modules=mapping(a=b"h\x01"))
        + b"b"
    )
    refused(write_zip(tmp_path / "x.pth", loop), "nested at most")
    doubled = module(value({}))
    for i in range(2, 40):
        twice = b"}(" + value("a") + b"h" + bytes([i]) + value("b") + b"h" + bytes([i]) + b"u"
        doubled += b"q" + bytes([i]) + b"0" + module(twice)
    refused(write_zip(tmp_path / "x.pth", doubled), "expected a module of at most")


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_frozen_torchscript_has_lost_its_names(tmp_path):
    module = net().eval()
    torch.jit.freeze(torch.jit.script(module)).save(tmp_path / "x.pt")
    refused(tmp_path / "x.pt", "torch.jit.freeze moves them into constants")
    got = read(tmp_path / "x.pt", "constants")
    assert [x.shape for x in got.arrays.values()] == [(4, 3, 1, 1), (4,)]
    assert (got.wrapper, got.format) == ("constants", "TorchScript archive")


BOMBS = {
    "one array in many names": lambda: mapping(
        **{f"k{i}": (value(np.ones(50_000)) + b"q\xff" if i == 0 else b"h\xff") for i in range(3000)}
    ),
    "the same bytes in many arrays": lambda: (
        mapping(a=value(b"x" * 400_000) + b"q\xff0N")[:-1]
        + b"".join(value(f"k{i}") + b"".join(BUFFER) for i in range(2000))
        + b"u"
    ),
    "wrappers in wrappers": lambda: (
        b"}q\xff("
        + b"".join(value(key) + b"h\xff" for key in WRAPPERS)
        + b"".join(value(i) + b"N" for i in range(100_000))
        + b"u"
    ),
    "one dict in many names": lambda: (
        b"}("
        + b"".join(value(f"a{i}") + b"N" for i in range(20_000))
        + b"uq\xff0}("
        + b"".join(value(f"b{i}") + b"h\xff" for i in range(20_000))
        + b"u"
    ),
    "keys of one hash": lambda: b"}(" + b"".join(value(i << 44) + b"N" for i in range(1, 20_000)) + b"u",
    "floats as keys": lambda: b"}(" + b"".join(value(i + 0.5) + b"N" for i in range(30_000)) + b"u",
    "a long name": lambda: mapping(**{"module." * 60_000: tensor(), "x": tensor()}),
    "many opcodes": lambda: b"N0" * 200_000 + STATE,
    "a long key in a deep module": lambda: long_keys(),
}
BUFFER = [
    name("numpy.core.numeric._frombuffer"),
    b"(h\xff",
    call("numpy.dtype", value("f4")),
    value((100_000,)) + value("C") + b"tR",
]


def long_keys():
    key = value("x" * 100_000) + b"q\xfe0"
    inside = b"}"
    for _ in range(90):
        inside = (
            call("project.Net") + b"}(" + value("_parameters") + b"}" + value("_modules") + b"}h\xfe" + inside + b"sub"
        )
    return key + inside


@pytest.mark.parametrize("kind", BOMBS)
def test_bombs_cost_little_time_and_memory(tmp_path, monkeypatch, kind):
    monkeypatch.setattr("convert.files.pickles.OPCODES_AT_MOST", 300_000)
    path = write_zip(tmp_path / "x.pth", BOMBS[kind]())
    tracemalloc.start()
    started = time.perf_counter()
    try:
        with nothing_runs(), contextlib.suppress(CheckpointError):
            assert read(path).extras is not None
        taken = time.perf_counter() - started
        assert tracemalloc.get_traced_memory()[1] < 20 * path.stat().st_size + 100_000_000
    finally:
        tracemalloc.stop()
    assert taken < 20
