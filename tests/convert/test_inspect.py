"""What ``inspect`` says of files of every kind: the most important first."""

import collections
import functools
import json
import os
import pathlib
import sys
import types
import warnings

import numpy as np
import pytest
import safetensors.numpy

from convert import save
from convert.__main__ import main
from flax_attn import SELayer
from tests.convert.test_recognition import block, state_of

FITS = "fits --model cifar_resnet20 --arg num_classes=7"


def inspect(capsys, path, *more):
    assert main(["inspect", str(path), *more]) == 0
    return capsys.readouterr().out.splitlines()


@pytest.fixture(scope="module")
def network():
    return state_of("cifar_resnet20", num_classes=7)


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def tensors(torch, state, prefix=""):
    return {f"{prefix}{key}": torch.tensor(x) for key, x in state.items()}


def foreign(monkeypatch, module, name):
    """A class that is importable while the test writes it to a file."""
    parts = module.split(".")
    for path in [".".join(parts[: i + 1]) for i in range(len(parts))]:
        monkeypatch.setitem(sys.modules, path, types.ModuleType(path))
    cls = type(name, (), {"__module__": module})
    monkeypatch.setattr(sys.modules[module], name, cls, raising=False)
    return cls


def test_a_lightning_file(capsys, tmp_path, torch, monkeypatch, network):
    inside = foreign(monkeypatch, "lightning.fabric.utilities.data", "AttributeDict")()
    state = tensors(torch, network, "model.") | {"loss.weight": torch.ones(3)}
    hyper = {"path": pathlib.PurePosixPath("/x"), "make": functools.partial(print), "more": inside}
    torch.save({"epoch": 3, "state_dict": state, "hyper_parameters": hyper}, tmp_path / "a.ckpt")
    lines = inspect(capsys, tmp_path / "a.ckpt")
    assert lines[0].endswith("a.ckpt: zip pickle, 108 arrays, 273,850 numbers")
    assert lines[1] == f"{FITS} --prefix model."
    assert "found under 'state_dict', beside epoch, hyper_parameters" in lines
    (named,) = (line for line in lines if line.startswith("also named in the pickle"))
    assert "lightning.fabric.utilities.data.AttributeDict" in named
    assert not any("DANGER" in line for line in lines)


def test_an_mmengine_file_with_an_average(capsys, tmp_path, torch, monkeypatch, network):
    history = foreign(monkeypatch, "mmengine.logging.history_buffer", "HistoryBuffer")()
    content = {
        "meta": {"epoch": 3},
        "message_hub": {"loss": history},
        "state_dict": tensors(torch, network, "backbone."),
        "ema_state_dict": tensors(torch, network, "module.backbone."),
    }
    torch.save(content, tmp_path / "a.pth")
    lines = inspect(capsys, tmp_path / "a.pth")
    assert lines[1] == f"{FITS} --prefix backbone."
    average = "an exponential moving average of the weights is under ema_state_dict: pass --wrapper ema_state_dict"
    assert average in lines
    wrappers = "state dicts in the file: state_dict (107 tensors), ema_state_dict (107 tensors); --wrapper chooses one"
    assert wrappers in lines
    assert any("mmengine.logging.history_buffer.HistoryBuffer" in line for line in lines)
    lines = inspect(capsys, tmp_path / "a.pth", "--wrapper", "ema_state_dict", "--prefix", "backbone")
    assert lines[1] == FITS
    assert average not in lines
    assert "the weights under 'ema_state_dict' are an exponential moving average" in lines


def test_an_average_below_a_prefix(capsys, tmp_path, network):
    state = {f"{name}.{key}": x for name in ("model", "ema_model") for key, x in network.items()}
    safetensors.numpy.save_file(state, tmp_path / "a")
    lines = inspect(capsys, tmp_path / "a")
    assert f"{FITS} --prefix ema_model." in lines
    assert "an exponential moving average of the weights is under ema_model.: pass --prefix ema_model." in lines
    safetensors.numpy.save_file({"schema.weight": np.zeros(3), "semantic.w": np.zeros(3)}, tmp_path / "b")
    assert not any("moving average" in line for line in inspect(capsys, tmp_path / "b"))


def test_a_whole_module_and_a_torchscript_archive(capsys, tmp_path, torch):
    net = torch.nn.Sequential(collections.OrderedDict(first=torch.nn.Linear(3, 4), act=torch.nn.ReLU()))
    torch.save(net, tmp_path / "a.pth")
    with warnings.catch_warnings(action="ignore"):
        torch.jit.trace(net, torch.zeros(1, 3)).save(tmp_path / "b.pt")
    for name, form in (("a.pth", "zip pickle"), ("b.pt", "TorchScript archive")):
        lines = inspect(capsys, tmp_path / name)
        assert lines[0].endswith(f"{name}: {form}, 2 arrays, 16 numbers")
        assert lines[1].startswith("a whole module, ")
        assert "Sequential; its state dict was read" in lines[1]
        assert [line.split() for line in lines[-2:]] == [
            ["first.weight", "(4,", "3)", "float32"],
            ["first.bias", "(4,)", "float32"],
        ]


class Evil:
    def __reduce__(self):
        return os.system, ("true",)


def test_names_that_run_code_are_red(capsys, tmp_path, torch, network, monkeypatch):
    torch.save({"state_dict": tensors(torch, network), "x": Evil()}, tmp_path / "a.pth")
    lines = inspect(capsys, tmp_path / "a.pth")
    danger = f"DANGER: pickle.load would run code of this file through {os.system.__module__}.system"
    assert lines[1].startswith(danger)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    (line,) = (line for line in inspect(capsys, tmp_path / "a.pth", "--all") if "DANGER" in line)
    assert line.startswith(f"\x1b[1;31m{danger}")


def test_our_own_file(capsys, tmp_path):
    save(tmp_path / "a b.safetensors", {"params": {"x": np.zeros(3, np.float32)}}, SELayer(16))
    lines = inspect(capsys, tmp_path / "a b.safetensors")
    text = "\n".join(lines)
    assert lines[1].startswith("Flax variables of SELayer")
    assert f"flax-attn-convert verify '{tmp_path}/a b.safetensors'" in text
    assert f"flax-attn-convert export '{tmp_path}/a b.safetensors' --out net.pth" in text
    assert 'arguments: {"channel": 16}' in lines
    assert "fits no" not in text
    assert "dialect" not in text
    save(tmp_path / "b.safetensors", {"params": {"x": np.zeros(3, np.float32)}})
    assert inspect(capsys, tmp_path / "b.safetensors")[1].startswith("Flax variables without the name of their module")


def test_a_network_of_a_user(capsys, tmp_path):
    safetensors.numpy.save_file({"w": np.zeros(3)}, tmp_path / "a")
    lines = inspect(capsys, tmp_path / "a")
    assert lines[0].endswith("safetensors, 1 array, 3 numbers")
    assert lines[1].startswith("fits no published network, and no block of the catalog")
    assert "no known dialect" in lines
    text = "\n".join(lines)
    assert "native" not in text
    assert "--model NAME" in text
    assert "convert.from_torch(module, convert.load(file), *inputs)" in text
    assert "convert.compare(module, torch_module, *inputs)" in text


def test_blocks_inside_a_file(capsys, tmp_path):
    se = block("SELayer", channel=64)
    state = {f"net.{i}.gate.{key}": x for i in range(3) for key, x in se.items()} | {"head.w": np.zeros(3)}
    safetensors.numpy.save_file(state, tmp_path / "a")
    lines = inspect(capsys, tmp_path / "a")
    found = "may be --model SELayer --arg channel=64 --prefix net.0.gate. (and 2 more parts with the same names)"
    assert lines[1] == found
    assert lines[2].startswith("a block may have other arguments too")
    assert "?" not in lines[2]
    assert "dialect: native" in lines
    safetensors.numpy.save_file(block("CAM_Module", in_dim=6), tmp_path / "b")
    assert inspect(capsys, tmp_path / "b")[2].endswith("; ? stands for one that the file does not tell")


def test_json(capsys, tmp_path, network):
    state = {f"model.{key}": x for key, x in network.items()} | {"loss\n[/b]": np.zeros((2, 3), np.float16)}
    safetensors.numpy.save_file(state, tmp_path / "a", {"format": "pt"})
    for more in ([], ["--quiet"]):
        (line,) = inspect(capsys, tmp_path / "a", "--json", *more)
        told = json.loads(line)
        assert told["arrays"]["loss\n[/b]"] == {"shape": [2, 3], "dtype": "float16"}
        assert told["numbers"] == 273_853
        assert told["metadata"] == {"format": "pt"}
        assert (told["dialects"], told["may_be"], told["names"], told["wrappers"]) == (["native"], [], {}, {})
        (fit,) = told["fits"]
        assert (fit["model"], fit["arguments"], fit["prefix"]) == ("cifar_resnet20", {"num_classes": 7}, "model.")


def test_quiet_prints_the_keys_alone(capsys, tmp_path):
    safetensors.numpy.save_file({"w": np.zeros(3, np.float32)}, tmp_path / "a")
    assert [line.split() for line in inspect(capsys, tmp_path / "a", "--quiet")] == [
        ["key", "shape", "dtype"],
        ["w", "(3,)", "float32"],
    ]
