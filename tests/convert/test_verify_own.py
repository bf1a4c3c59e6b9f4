"""``flax-attn-convert verify --model package.module:Class --torch package.module:Class`` on classes of a user."""

import sys

import pytest

torch = pytest.importorskip("torch")

from convert.__main__ import main

FLAX = """
import flax.linen as nn
from flax_attn import layers

class Net(layers.Module):
    width: int
    eps: float = 1e-5

    @nn.compact
    def __call__(self, x, train=False):
        x = layers.Conv2d(3, self.width, 3, padding=1, name="conv")(x)
        return layers.relu(layers.BatchNorm2d(self.width, self.eps, name="bn")(x, train))

NOTHING = 1
"""

TORCH = """
from torch import nn

class Net(nn.Module):
    def __init__(self, width, eps=1e-5):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width, eps)

    def forward(self, x):
        return self.bn(self.conv(x)).relu()

class Other(Net):
    def __init__(self, width):
        super().__init__(width, 1e-3)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current directory, with a network in Flax and in PyTorch, and a file of its numbers."""
    (tmp_path / "own_net_flax.py").write_text(FLAX)
    (tmp_path / "own_net_torch.py").write_text(TORCH)
    (tmp_path / "own_net_broken.py").write_text("import a_package_that_is_not_there")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    sys.path.insert(0, str(tmp_path))
    state = __import__("own_net_torch").Net(5).state_dict()
    torch.save(state, tmp_path / "net.pth")
    yield tmp_path
    for name in ("own_net_flax", "own_net_torch"):
        sys.modules.pop(name, None)


FLAX_NET, TORCH_NET, OTHER = "own_net_flax:Net", "own_net_torch:Net", "own_net_torch:Other"


def verify(capsys, model, *arguments):
    status = main(["verify", "net.pth", "--model", model, *arguments])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def test_classes_of_a_user_are_compared(folder, capsys):
    arguments = ["--torch", TORCH_NET, "--arg", "width=5", "--input", "2,5,4,3"]
    status, out, err = verify(capsys, FLAX_NET, *arguments)
    assert status == 0, out + err
    lines = [line.split() for line in out.splitlines()]
    kinds = ["outputs", "gradients", "statistics"]
    assert [(line[0], line[-1]) for line in lines[1:-1]] == [(d, k) for d in ("float32", "float64") for k in kinds]
    assert out.count(" ok ") == 6
    assert lines[-1][:3] == ["The", "output", "moves"]


def test_a_difference_is_the_exit_status_and_a_report(folder, capsys):
    arguments = ["--torch", OTHER, "--arg", "width=5", "--input", "2,5,4,3"]
    status, out, _ = verify(capsys, FLAX_NET, *arguments)
    assert status == 1
    assert out.count("OUTSIDE") > 1
    assert "Net (Flax) and Other (torch):" in out
    assert "look at eps" in out


@pytest.mark.parametrize(
    ("model", "arguments", "sentence"),
    [
        (FLAX_NET, [], "verify needs --torch with own_net_flax:Net: its PyTorch class, as package.module:Class"),
        (FLAX_NET, ["--torch", TORCH_NET], "verify needs --input with --torch: the shape of each input"),
        ("nowhere:Net", ["--torch", TORCH_NET], "--model: there is no module nowhere in"),
        ("own_net_broken:Net", ["--torch", TORCH_NET], "--model: the import of own_net_broken failed: No module named"),
        ("own_net_flax:Nut", ["--torch", TORCH_NET], "--model: the module own_net_flax has no class Nut"),
        ("own_net_flax:NOTHING", ["--torch", TORCH_NET], "--model: the module own_net_flax has no class NOTHING"),
        (FLAX_NET, ["--torch", "own_net_torch"], "--torch: expected package.module:Class, got 'own_net_torch'"),
        (TORCH_NET, ["--torch", TORCH_NET], "--model: expected a class of flax.linen modules, got own_net_torch:Net"),
        (FLAX_NET, ["--torch", FLAX_NET], "--torch: expected a class of torch.nn modules, got own_net_flax:Net"),
        (FLAX_NET, ["--torch", TORCH_NET, "--arg", "depth=5"], "Net has no argument 'depth'; it takes width, eps"),
        (FLAX_NET, ["--torch", TORCH_NET], "Net needs a value for width"),
        (
            FLAX_NET,
            ["--torch", OTHER, "--arg", "width=5", "--arg", "eps=1"],
            "Other has no argument 'eps'",
        ),
        (FLAX_NET, ["--torch", TORCH_NET, "--arg", "width=4"], "the state dict does not fit Net: 6 differences"),
        ("DigitsNet", ["--input", "2,3"], "--input and --layouts need --torch"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(folder, capsys, model, arguments, sentence):
    needs_no_input = sentence.startswith(("verify needs", "--input"))
    more = [] if needs_no_input else ["--input", "2,5,4,3"]
    status, out, err = verify(capsys, model, *arguments, *more)
    assert (status, out) == (2, "")
    assert err.startswith(f"flax-attn-convert: {sentence}")


@pytest.mark.parametrize("shape", ["", "2,x", "2,0", "2,3:0", "2,3:x"])
def test_a_shape_that_is_none_is_refused(folder, capsys, shape):
    with pytest.raises(SystemExit):
        verify(capsys, FLAX_NET, "--torch", TORCH_NET, "--input", shape)
    assert "expected a shape such as 2,33,29,3, or 2,7:10 for integers" in capsys.readouterr().err
