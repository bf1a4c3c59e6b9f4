"""The state of an optimizer of a module with other names, with joined parameters, or with shared ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convert import (
    MismatchError,
    from_torch_checkpoint,
    optimizer_from_torch,
    plan,
    restore_run,
    save_run,
    to_torch_checkpoint,
)
from convert.optimizers.names import names_of
from flax_attn import DotProductNonLocalBlock
from flax_attn.blocks.transformer import TransformerEncoderLayer
from flax_attn.models.ldnet import LDNet

torch = pytest.importorskip("torch")
LAYER, X = TransformerEncoderLayer(4, 2, 6), jnp.zeros((2, 3, 4))


def arrays_of(module, dialect, *inputs):
    """A state dict of the module, with the names of the dialect."""
    mapping = plan(module, *inputs)
    zeros = jax.tree.map(
        lambda leaf: np.zeros(leaf.shape, leaf.dtype), jax.eval_shape(module.init, jax.random.key(0), *inputs)
    )
    return mapping.to_torch(zeros, dialect)


def adam_of(arrays, keys, **options):
    """A state of Adam after 5 steps, for parameters in this order."""
    rng = np.random.default_rng(0)
    state = {
        i: {"step": np.float32(5)}
        | {slot: rng.uniform(size=arrays[key].shape).astype("f4") for slot in ("exp_avg", "exp_avg_sq")}
        for i, key in enumerate(keys)
    }
    group = dict(lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0, amsgrad=False, params=list(range(len(state))))
    return {"state": state, "param_groups": [group | options]}


@pytest.fixture(scope="module")
def layer():
    arrays = arrays_of(LAYER, "hf", X)
    return arrays, adam_of(arrays, list(arrays))


def assert_same_state(found, expected):
    for i, own in expected["state"].items():
        for slot, value in own.items():
            np.testing.assert_array_equal(found["state"][i][slot], value, err_msg=f"{slot} of {i}")


def test_joined_rows_go_there_and_back(layer):
    arrays, states = layer
    made, state = optimizer_from_torch(LAYER, states, arrays, X, dialect="hf")
    rows = [states["state"][i]["exp_avg"] for i, key in enumerate(arrays) if key.endswith("_proj.weight")][:3]
    np.testing.assert_array_equal(state[0].mu["self_attn"]["in_proj_weight"], np.concatenate(rows))
    assert_same_state(made.to_torch(state), states)


@pytest.mark.parametrize("change", [lambda own: own.clear(), lambda own: own.update(step=3)])
def test_joined_rows_must_be_trained_alike(layer, change):
    arrays, states = layer
    state = {i: dict(own) for i, own in states["state"].items()}
    change(state[1])
    with pytest.raises(MismatchError, match=r"in_proj_weight: self_attn\.q_proj\.weight, .* are not trained alike"):
        optimizer_from_torch(LAYER, {**states, "state": state}, arrays, X, dialect="hf")


def test_a_run_with_a_dialect_goes_through_both_files(tmp_path, layer):
    arrays, states = layer
    tensors = {i: {slot: torch.tensor(value) for slot, value in own.items()} for i, own in states["state"].items()}
    model = {key: torch.tensor(value) for key, value in arrays.items()}
    torch.save({"model": model, "optimizer": {**states, "state": tensors}}, tmp_path / "a.pth")
    save_run(tmp_path / "a.safetensors", from_torch_checkpoint(tmp_path / "a.pth", LAYER, X, dialect="hf"))
    to_torch_checkpoint(tmp_path / "b.pth", restore_run(tmp_path / "a.safetensors"))
    found = torch.load(tmp_path / "b.pth", weights_only=True)
    assert list(found["model"]) == list(arrays)
    assert_same_state(found["optimizer"], states)


def test_sorted_keys_of_another_module_do_not_tell_the_order(layer):
    """The three projections have one shape, so that a wrong order would not be noticed."""
    arrays, states = layer
    in_order = dict(sorted(arrays.items()))
    for groups in (None, [""], [lambda key: True]):
        with pytest.raises(ValueError, match="keys of the state dict are sorted, so that the order in which the optim"):
            optimizer_from_torch(LAYER, states, in_order, X, dialect="hf", groups=groups)
    _, expected = optimizer_from_torch(LAYER, states, arrays, X, dialect="hf")
    _, found = optimizer_from_torch(LAYER, states, in_order, X, dialect="hf", groups=[list(arrays)])
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    named = {**states, "param_groups": [{**states["param_groups"][0], "param_names": list(arrays)}]}
    _, found = optimizer_from_torch(LAYER, named, in_order, X, dialect="hf")
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_a_dialect_that_scales_parameters_is_refused():
    module, x = DotProductNonLocalBlock(8), jnp.zeros((1, 2, 4, 4, 8))
    arrays = arrays_of(module, "mmcv_nonlocal_scaled", x)
    keys = [key for key in arrays if "running" not in key]
    with pytest.raises(
        ValueError, match=r"the dialect mmcv_nonlocal_scaled computes the numbers of .* without the opt"
    ):
        optimizer_from_torch(module, adam_of(arrays, keys), arrays, x, dialect="mmcv_nonlocal_scaled")


def test_shared_parameters_are_counted_once_as_in_pytorch():
    from torch_ref.models.ldnet import LDNet as Twin

    arguments = dict(unified_channels=4, layers=(1, 1, 1, 1))
    twin, mapping = Twin(**arguments), plan(LDNet(**arguments), jnp.zeros((1, 64, 64, 3)))
    shapes = {key: tuple(value.shape) for key, value in twin.state_dict().items()}
    expected = [key for key, _ in twin.named_parameters()]
    assert mapping.aliases
    assert list(names_of(mapping, shapes).order) == expected
    assert list(names_of(mapping, dict(sorted(shapes.items()))).order) == expected
