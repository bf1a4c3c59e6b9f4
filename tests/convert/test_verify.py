"""``verify`` says how much the output moves, and that a comparison of a constant output proves nothing; it also reads
what ``convert`` wrote, and needs no model where the file tells it."""

import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from convert import from_torch, load, module_of, plan, restore, save
from convert.__main__ import main, parser
from convert.commands.verifying import compare_with_twin
from convert.comparing.case import random_state
from convert.demo import FOLDER
from flax_attn import Bottleneck, ChannelGate, DigitsNet, PAM_Module, ResNet, SELayer
from flax_attn.catalog import CATALOG
from flax_attn.layers import FrozenBatchNorm2d
from tests.helpers.layer_cases import normal

DIGITS = FOLDER / "digits.pth"


def verify(capsys, *arguments):
    status = main(["verify", *map(str, arguments)])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def saved(path, state):
    torch.save({key: torch.tensor(np.asarray(value)) for key, value in state.items()}, path)
    return path


@pytest.fixture(scope="module")
def digits():
    return {key: np.array(value) for key, value in load(DIGITS).items()}


def test_a_checkpoint_moves_its_output(capsys):
    status, out, _ = verify(capsys, DIGITS, "--model", "DigitsNet")
    assert status == 0
    (line,) = [line for line in out.splitlines() if line.startswith("The output moves by ")]
    amounts = [float(word) for word in line.split() if word[0].isdigit()]
    assert len(amounts) == 2
    assert min(amounts) > 1e-3
    assert line.endswith("the parameters.")
    assert "The output moves" not in verify(capsys, DIGITS, "--model", "DigitsNet", "--quiet")[1]


def without_classifier(state):
    last = {key: np.zeros_like(value) for key, value in state.items() if key.startswith("fc.1.weight")}
    assert last
    return state | last


@pytest.mark.parametrize("quiet", [[], ["--quiet"]])
def test_a_classifier_of_zeros_proves_nothing(capsys, tmp_path, digits, quiet):
    path = saved(tmp_path / "zeros.pth", without_classifier(digits))
    status, out, _ = verify(capsys, path, "--model", "DigitsNet", *quiet)
    assert status == 2
    assert out.count("PROVES NOTHING") == 2
    assert " ok " not in out
    assert out.count("The output does not depend on its input, so the comparison shows nothing.") == 1
    assert ("The output moves by 0.0e+00 with its inputs" in out) == (not quiet)


def test_a_gamma_of_zero_proves_nothing(capsys, tmp_path):
    module = PAM_Module(8)
    state = random_state(plan(module, normal(1, 3, 4, 8)), np.random.default_rng(0), "float32")
    state["gamma"] = np.zeros_like(state["gamma"])
    path = saved(tmp_path / "gamma.pth", state)
    status, out, _ = verify(capsys, path, "--model", "PAM_Module", "--arg", "in_dim=8")
    assert status == 2
    assert "The output does not depend on the parameters" in out
    assert "a scale gamma that is 0" in out
    assert "does not depend on its input" not in out


def test_an_output_of_nan_proves_nothing(capsys, tmp_path, digits):
    path = saved(tmp_path / "nan.pth", {**digits, "fc.1.weight": np.full_like(digits["fc.1.weight"], np.nan)})
    status, out, _ = verify(capsys, path, "--model", "DigitsNet")
    assert status == 2
    assert "These results are NaN or infinite, so they were not compared: output 0." in out


def test_a_difference_is_1_even_where_nothing_moves(capsys, tmp_path, digits, monkeypatch):
    def half_a_bias(*args, **kwargs):
        return [(got + 0.5, expected) for got, expected in unchanged(*args, **kwargs)]

    verifying = __import__("convert.commands.verifying", fromlist=["in_eval_mode"])
    unchanged = verifying.in_eval_mode
    monkeypatch.setattr(verifying, "in_eval_mode", half_a_bias)
    status, out, _ = verify(capsys, saved(tmp_path / "z.pth", without_classifier(digits)), "--model", "DigitsNet")
    assert status == 1
    assert "OUTSIDE" in out


def test_the_report_is_not_ok_where_nothing_moves():
    entry = next(entry for entry in CATALOG if entry.cls is SELayer)
    module = entry.module()
    mapping = plan(module, *entry.structs(module))
    state = random_state(mapping, np.random.default_rng(0), "float32")
    good = compare_with_twin(entry, module, mapping, state_dict=state, arguments=entry.kwargs)
    assert good.ok
    assert good.moves_with_input > 1e-3
    assert good.moves_with_parameters > 1e-3
    zeros = {key: np.zeros_like(value) for key, value in state.items()}
    bad = compare_with_twin(entry, module, mapping, state_dict=zeros, arguments=entry.kwargs)
    assert not bad.ok
    assert not bad.wrong
    assert bad.moves_with_parameters == 0


def test_the_help_has_the_exit_statuses(capsys):
    with pytest.raises(SystemExit):
        parser().parse_args(["verify", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "2 if the input cannot be used, or if the comparison proves nothing" in text


def test_what_convert_wrote_is_verified_without_a_model(capsys, tmp_path):
    out = tmp_path / "flax.safetensors"
    assert main(["convert", str(DIGITS), "--model", "DigitsNet", "--out", str(out)]) == 0
    capsys.readouterr()
    status, printed, err = verify(capsys, out)
    assert status == 0, printed + err
    assert printed.count(" ok ") == 2
    assert "The output moves by" in printed
    assert verify(capsys, out, "--model", "DigitsNet")[0] == 0


def test_numbers_that_do_not_fit_the_module_of_our_file_are_refused(capsys, tmp_path):
    path = tmp_path / "flax.safetensors"
    variables = from_torch(DigitsNet(), load(DIGITS), normal(1, 8, 8, 1))
    save(path, {"params": variables["params"]}, DigitsNet())
    status, out, err = verify(capsys, path)
    assert (status, out) == (2, "")
    assert "batch_stats" in err


def test_our_file_of_a_class_with_arguments(capsys, tmp_path):
    """Arguments that are classes, and a dtype, reach both sides."""
    path = tmp_path / "net.safetensors"
    net = ResNet(Bottleneck, (1, 1), norm_layer=FrozenBatchNorm2d, num_classes=3, dtype=jnp.bfloat16)
    mapping = plan(net, normal(1, 33, 29, 3))
    state = random_state(mapping, np.random.default_rng(0), "float32")
    save(path, mapping.from_torch(state), net)
    assert module_of(path) == net
    status, out, err = verify(capsys, path)
    assert status == 0, out + err
    assert restore(path).keys() == {"params", "batch_stats"}


def test_our_file_of_a_module_that_verify_cannot_know(capsys, tmp_path):
    path = tmp_path / "net.safetensors"
    save(path, {"params": {"x": np.zeros(3)}})
    status, _, err = verify(capsys, path)
    assert (status, err.splitlines()) == (
        2, [f"flax-attn-convert: {path}: its metadata name no module; say what it is with --model"],
    )  # fmt: skip
    save(path, {"params": {"x": np.zeros(3)}}, FrozenBatchNorm2d(3))
    status, _, err = verify(capsys, path)
    assert status == 2
    assert "the catalog has no example inputs that fit this FrozenBatchNorm2d" in err


def test_a_file_that_fits_no_published_network_needs_a_model(capsys, tmp_path):
    module = ChannelGate(8)
    state = random_state(plan(module, normal(1, 3, 4, 8)), np.random.default_rng(0), "float32")
    status, out, err = verify(capsys, saved(tmp_path / "x.pth", state))
    assert (status, out) == (2, "")
    assert "fits no published network; say what it is with --model" in err
    status, out, err = verify(capsys, saved(tmp_path / "x.pth", state), "--torch", "a:B")
    assert "verify needs --model with --torch" in err


def test_a_published_network_is_recognised(capsys, tmp_path, recognisable):
    path = saved(tmp_path / "net.pth", recognisable)
    status, out, err = verify(capsys, path)
    assert status == 0, out + err
    assert out.count(" ok ") == 2


@pytest.fixture
def recognisable():
    """The state dict of a small published network."""
    from flax_attn import cifar_resnet20

    mapping = plan(cifar_resnet20(), normal(1, 32, 32, 3))
    return random_state(mapping, np.random.default_rng(0), "float32")
