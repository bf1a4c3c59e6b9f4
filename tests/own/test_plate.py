"""A network of a user agrees with his PyTorch network, is converted, and trains."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

torch = pytest.importorskip("torch")

from convert import compare, from_torch, plan, to_torch
from convert.__main__ import main
from tests.own.plate_flax import PlateReader
from tests.own.plate_torch import PlateReader as TorchPlateReader

IMAGES = np.random.default_rng(0).normal(size=(3, 20, 28, 3)).astype(np.float32)
PLATES = np.random.default_rng(1).integers(0, 11, (3, 5))


def test_both_sides_agree():
    report = compare(PlateReader(), TorchPlateReader(), IMAGES)
    report.check()
    found = {row.name for row in report.rows}
    assert {"eval: output logits", "eval: output theta", "step 2: gradient of lstm.weight_hh_l0_reverse"} < found
    assert "step 2: straighten.features.0.1.running_var" in found
    assert report.moves_with_input > 1e-2
    assert report.moves_with_parameters > 1e-2


def test_a_state_dict_goes_both_ways():
    state = TorchPlateReader().state_dict()
    variables = from_torch(PlateReader(), state, IMAGES)
    again = to_torch(PlateReader(), variables, IMAGES)
    assert [key for key in state if not key.endswith("num_batches_tracked")] == list(again)
    assert [name for name, _ in TorchPlateReader().named_parameters()] == list(plan(PlateReader(), IMAGES).parameters)
    assert all(np.array_equal(again[key], state[key].numpy()) for key in again)


def test_a_training_step_lowers_the_loss():
    reader, optimizer = PlateReader(dropout=0.0), optax.adam(1e-2)
    variables = from_torch(reader, TorchPlateReader().state_dict(), IMAGES)

    def loss(params, statistics):
        given = {"params": params, "batch_stats": statistics}
        out, updated = reader.apply(given, jnp.asarray(IMAGES), train=True, mutable=["batch_stats"])
        return optax.softmax_cross_entropy_with_integer_labels(out["logits"], PLATES).mean(), updated["batch_stats"]

    @jax.jit
    def step(params, statistics, state):
        (value, statistics), gradient = jax.value_and_grad(loss, has_aux=True)(params, statistics)
        change, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, change), statistics, state, value

    params, statistics = variables["params"], variables["batch_stats"]
    state, values = optimizer.init(params), []
    for _ in range(5):
        params, statistics, state, value = step(params, statistics, state)
        values.append(float(value))
    assert values[-1] < values[0] - 0.05


@pytest.mark.slow
def test_the_command_line_agrees(tmp_path, capsys):
    reader = TorchPlateReader(classes=7)
    with torch.no_grad():
        reader.straighten.fc2.weight.normal_(std=0.1)
        reader.straighten.fc2.bias.add_(0.1 * torch.randn(6))
    torch.save(reader.state_dict(), tmp_path / "plate.pth")
    classes = ["--model", "tests.own.plate_flax:PlateReader", "--torch", "tests.own.plate_torch:PlateReader"]
    arguments = ["--arg", "classes=7", "--input", "2,20,28,3"]
    assert main(["verify", str(tmp_path / "plate.pth"), *classes, *arguments]) == 0
    assert capsys.readouterr().out.count(" ok ") == 6
