"""What a PyTorch optimizer stores goes to the right parameters, and what does not fit is refused."""

import copy

import jax
import numpy as np
import optax
import pytest

from convert import MismatchError, optimizer_from_torch, torch_optimizer
from flax_attn import layers

torch = pytest.importorskip("torch")
optim = torch.optim
X = np.zeros((1, 3))
KEYS = ["body.weight", "body.bias", "head.weight", "head.bias"]
DATA = np.random.default_rng(0).normal(size=(20, 5, 3))


class Two(layers.Module):
    """Two layers."""

    def setup(self):
        self.body = layers.Linear(3, 4)
        self.head = layers.Linear(4, 2)

    def __call__(self, x, train=False):
        return self.head(self.body(x))


class TorchTwo(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.body(x))


def net():
    torch.manual_seed(0)
    return TorchTwo().double()


def torch_steps(network, optimizer, start, stop, frozen=None):
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(frozen is None or not name.startswith(frozen))
    for i in range(start, stop):
        optimizer.zero_grad()
        network(torch.tensor(DATA[i])).square().mean().backward()
        optimizer.step()


def flax_steps(made, state, params, start, stop):
    @jax.jit
    def step(params, state, x):
        gradients = jax.grad(lambda p: (Two().apply({"params": p}, x) ** 2).mean())(params)
        updates, state = made.transformation.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    for i in range(start, stop):
        params, state = step(params, state, DATA[i])
    return params, state


def params_of(network):
    own = {key: value.detach().numpy().copy() for key, value in network.state_dict().items()}
    return {name: {"kernel": own[f"{name}.weight"].T, "bias": own[f"{name}.bias"]} for name in ("body", "head")}


def assert_same(params, network):
    for name, leaf in jax.tree_util.tree_leaves_with_path(params_of(network)):
        np.testing.assert_allclose(params[name[0].key][name[1].key], leaf, rtol=1e-10, atol=1e-13)


MAKE = {
    "sgd": lambda p: optim.SGD(p, lr=0.05, momentum=0.9, dampening=0.4),
    "adam": lambda p: optim.Adam(p, lr=0.01),
    "adagrad": lambda p: optim.Adagrad(p, lr=0.05, initial_accumulator_value=0.1),
    "nadam": lambda p: optim.NAdam(p, lr=0.01),
}


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("unfrozen", ["before", "now", "later"])
def test_a_frozen_parameter(name, unfrozen):
    """It is trained from step 2 on; or only in JAX, with start_missing; or only in PyTorch, after JAX."""
    network = net()
    optimizer = MAKE[name](network.parameters())
    torch_steps(network, optimizer, 0, 2, frozen="body")
    if unfrozen == "before":
        torch_steps(network, optimizer, 2, 4)
    params = params_of(network)
    made, state = optimizer_from_torch(
        Two(), optimizer.state_dict(), network.state_dict(), X, start_missing=unfrozen == "now"
    )
    found, state = flax_steps(made, state, params, 4, 10)
    torch_steps(network, optimizer, 4, 10, frozen="body" if unfrozen == "later" else None)
    assert_same(found, network)
    moved = not np.array_equal(found["body"]["kernel"], params["body"]["kernel"])
    assert moved == (unfrozen != "later")
    other, again = net(), copy.deepcopy(made.to_torch(state))
    other.load_state_dict(network.state_dict())
    theirs = MAKE[name](other.parameters())
    tensors = {i: {slot: torch.tensor(value) for slot, value in own.items()} for i, own in again["state"].items()}
    theirs.load_state_dict({**again, "state": tensors})
    torch_steps(network, optimizer, 10, 14)
    torch_steps(other, theirs, 10, 14)
    assert_same(params_of(other), network)


def test_nothing_is_stored_before_the_first_step():
    """With a dampening, a buffer of zeros is another thing than none: PyTorch's first step is a whole gradient."""
    made = torch_optimizer(Two(), "SGD", X, lr=0.1, momentum=0.9, dampening=0.4)
    assert made.to_torch(made.transformation.init(params_of(net())))["state"] == {}
    adagrad = torch_optimizer(Two(), "Adagrad", X, initial_accumulator_value=0.5)
    stored = adagrad.to_torch(adagrad.transformation.init(params_of(net())))["state"]
    assert {(float(own["step"]), float(own["sum"].max())) for own in stored.values()} == {(0.0, 0.5)}


def test_a_momentum_that_has_not_begun():
    """Old versions of PyTorch store None for each parameter that has had a gradient, if there is no momentum."""
    group = dict(lr=0.1, momentum=0.9, dampening=0.0, weight_decay=0, nesterov=False, params=[0, 1, 2, 3])
    state = {0: {"momentum_buffer": None}, 1: {"momentum_buffer": None}}
    made, _ = optimizer_from_torch(Two(), {"state": state, "param_groups": [group]}, net().state_dict(), X)
    assert [key for key, label in made.labels.items() if label is None] == KEYS[2:]
    plain = {"state": state, "param_groups": [{**group, "momentum": 0.0}]}
    made, _ = optimizer_from_torch(Two(), plain, net().state_dict(), X)
    assert [key for key, label in made.labels.items() if label is None] == KEYS[2:]


@pytest.fixture(scope="module")
def trained():
    network = net()
    optimizer = optim.Adam(network.parameters(), lr=torch.tensor(0.01), foreach=False)
    torch_steps(network, optimizer, 0, 3)
    return network.state_dict(), optimizer.state_dict()


def take(trained, groups=None, state=None, **arguments):
    arrays, found = trained
    changed = {"state": found["state"] if state is None else state}
    changed["param_groups"] = found["param_groups"] if groups is None else groups
    return optimizer_from_torch(Two(), changed, arrays, X, **arguments)


@pytest.mark.parametrize("step", [3, 3.0, np.int64(3), np.float32(3), torch.tensor(3), torch.tensor(3.0)])
def test_the_step_in_any_form(trained, step):
    state = {i: {**own, "step": step} for i, own in trained[1]["state"].items()}
    made, found = take(trained, state=state)
    assert (made.step, int(found[0].count)) == (3, 3)


@pytest.mark.parametrize("step", [None, "3", 2.5, -1, float("nan"), 1e30, torch.ones(2)])
def test_a_step_that_is_no_number_of_steps(trained, step):
    state = {**trained[1]["state"], 1: {**trained[1]["state"][1], "step": step}}
    with pytest.raises(MismatchError, match=r"step of body\.bias: expected a whole number"):
        take(trained, state=state)


@pytest.mark.parametrize("step", [-1, 2, 2.5, "x", 2**31])
def test_a_number_of_steps_that_the_state_denies(trained, step):
    with pytest.raises(ValueError, match="step: expected a whole number from 3, which the state shows, to"):
        take(trained, step=step)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_the_state_gets_the_dtype_of_the_parameters_as_in_pytorch(trained, dtype):
    state = {i: {**own, "exp_avg": own["exp_avg"].to(dtype)} for i, own in trained[1]["state"].items()}
    _, found = take(trained, state=state)
    assert {leaf.dtype.name for leaf in jax.tree.leaves((found[0].mu, found[0].nu))} == {"float64"}
    np.testing.assert_array_equal(found[0].mu["head"]["kernel"], state[2]["exp_avg"].T.double().numpy())


def test_numbers_of_parameters_as_json_has_them(trained):
    _, expected = take(trained)
    _, found = take(trained, state={str(i): own for i, own in trained[1]["state"].items()})
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def changed(trained, **options):
    return [{**trained[1]["param_groups"][0], **options}]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"params": None}, r"param_groups\[0\]\['params'\] of the optimizer: expected a list of the numbers"),
        ({"params": [0, 0, 1, 2]}, "param_groups of the optimizer: expected each parameter in one place"),
        ({"params": [4, 5, 6, 7]}, "state of the optimizer: expected only numbers of parameters that are in a group"),
        ({"param_names": None}, "expected a list of names, found None"),
        (
            {"param_names": ["a", *KEYS[1:]]},
            "param_names in the file: expected keys of the parameters of the mod.*got a",
        ),
        ({"param_names": KEYS[:3]}, "param_names in the file: expected 4 parameters"),
        ({"param_names": [KEYS[0]] * 4}, r"param_names in the file: .* in one group, found body\.weight twice"),
        ({"lr": None}, "Adam: expected numbers as lr of a group, found None"),
        ({"betas": ("x", 0.9)}, "Adam: expected numbers as betas of a group"),
        ({"amsgrad": True}, r"max_exp_avg_sq of body\.weight: expected shape \(4, 3\), found nothing"),
    ],
)
def test_groups_that_cannot_be_read(trained, options, message):
    with pytest.raises(ValueError, match=message):
        take(trained, groups=changed(trained, **options))


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_names_in_the_file_win_over_the_order(trained, prefix):
    mixed = [KEYS[i] for i in (2, 0, 3, 1)]
    numbers = [KEYS.index(key) for key in mixed]
    state = {i: trained[1]["state"][n] for i, n in enumerate(numbers)}
    _, expected = take(trained)
    made, found = take(trained, groups=changed(trained, param_names=[prefix + key for key in mixed]), state=state)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert made.groups[0].keys == tuple(mixed)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([], "groups: expected 4 parameters, as the groups of the optimizer have, got no"),
        ("body", "expected a list with an item for each group, got 'body'"),
        ([None], "groups: expected a regular expression, a list of keys or a function, got None"),
        ([[1, 2, 3, 4]], "groups: expected a regular expression, a list of keys or a function, got"),
        (["("], "groups: expected a regular expression, got"),
        ([["x"]], "groups: expected keys of the parameters of the module, got x"),
        (["body", "."], r"expected each parameter in one group, found body\.bias, body\.weight twice"),
    ],
)
def test_groups_that_the_user_says_wrongly(trained, groups, message):
    with pytest.raises(ValueError, match=message):
        optimizer_from_torch(Two(), trained[1], trained[0], X, groups=groups)


@pytest.mark.parametrize("said", [["^body", "^head"], [KEYS[:2], KEYS[2:]], [lambda k: "body" in k, "head"]])
def test_groups_that_the_user_says(trained, said):
    group = trained[1]["param_groups"][0]
    groups = [{**group, "params": [0, 1]}, {**group, "params": [2, 3], "lr": 0.5}]
    states = {"state": trained[1]["state"], "param_groups": groups}
    made, _ = optimizer_from_torch(Two(), states, trained[0], X, groups=said)
    assert [own.keys for own in made.groups] == [tuple(KEYS[:2]), tuple(KEYS[2:])]
    with pytest.raises(
        ValueError, match="2 groups, of 2 and 2 parameters, the module has 4, and the file does not say"
    ):
        optimizer_from_torch(Two(), states, trained[0], X)


def test_a_group_without_an_option_of_the_others(trained):
    group = trained[1]["param_groups"][0]
    bare = {name: value for name, value in group.items() if name != "weight_decay"}
    groups = [{**bare, "params": [0, 1]}, {**group, "params": [2, 3]}]
    with pytest.raises(ValueError, match="expected weight_decay in each group of the optimizer, found groups without"):
        optimizer_from_torch(Two(), {"state": {}, "param_groups": groups}, trained[0], X, groups=["body", "head"])


@pytest.mark.parametrize(
    "found", [None, {}, [1], {"state": {}, "param_groups": []}, {"state": {}, "param_groups": [1]}]
)
def test_what_is_no_state_of_an_optimizer(trained, found):
    with pytest.raises(ValueError, match=r"the optimizer: expected|expected the state dict of an optimizer"):
        optimizer_from_torch(Two(), found, trained[0], X)


@pytest.mark.parametrize("value", [torch.ones(4, 3, dtype=torch.complex64), torch.ones(3, 4), [1.0], None, "x"])
def test_arrays_that_do_not_fit(trained, value):
    state = {**trained[1]["state"], 0: {**trained[1]["state"][0], "exp_avg": value}}
    with pytest.raises(MismatchError, match=r"does not fit Adam on Two: 1 diff.*\n. exp_avg of body\.weight: expected"):
        take(trained, state=state)


def test_the_order_of_the_file_counts_and_a_sorted_file_has_that_of_the_module(trained):
    arrays, found = trained
    _, expected = take(trained)
    turned = {key: arrays[key] for key in [*KEYS[2:], *KEYS[:2]]}
    numbers = [2, 3, 0, 1]
    state = {"state": {i: found["state"][n] for i, n in enumerate(numbers)}, "param_groups": found["param_groups"]}
    _, got = optimizer_from_torch(Two(), state, turned, X)
    jax.tree.map(np.testing.assert_array_equal, got, expected)
    _, got = optimizer_from_torch(Two(), found, dict(sorted(arrays.items())), X)
    jax.tree.map(np.testing.assert_array_equal, got, expected)
