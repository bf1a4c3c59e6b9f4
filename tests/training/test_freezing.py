"""What is frozen does not move by a bit, and its layers run in eval mode."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flax_attn.layers import BatchNorm2d, Dropout, Linear, Module
from flax_attn.training import TrainState, freeze, frozen_calls, frozen_leaves, train_step
from tests.training.networks import Small, Users, bits, compiled, data, loss, new_state, variables

SGD = optax.sgd(0.1)
DECAYED = optax.adamw(0.1, weight_decay=0.3)


def negative_zeros(tree):
    """The first number of each leaf is -0.0, whose bits an addition of +0.0 changes."""

    def changed(leaf):
        flat = np.array(leaf).reshape(-1)
        flat[0] = -0.0
        return jnp.asarray(flat.reshape(leaf.shape))

    return jax.tree.map(changed, tree)


def moved(before, after):
    old, new = bits(before), bits(after)
    return {path.replace("']['", ".").strip("[']") for path in old if old[path] != new[path]}


@pytest.mark.parametrize("wrapped", [True, False], ids=["freeze", "plain optimizer"])
def test_frozen_parts_stay_to_the_bit(wrapped):
    paths = ["stem", "layer1.0", "fc.bias"]
    start = negative_zeros(variables(Small())["params"])
    optimizer = freeze(DECAYED, start, paths) if wrapped else DECAYED
    state = new_state(Small(), optimizer).replace(params=start)
    step, after = train_step(Small(), loss, optimizer, frozen=paths, donate=False), state
    for number in range(3):
        after, _ = step(after, data(seed=number))
    assert moved(state.params, after.params) == {"layer1.1.scale", "layer1.1.bias", "fc.kernel"}
    assert moved(state.batch_stats, after.batch_stats) == {"layer1.1.mean", "layer1.1.var"}


def test_statistics_without_parameters_stay():
    class Net(Module):
        @nn.compact
        def __call__(self, x, train=False):
            x = BatchNorm2d(3, affine=False, name="norm")(x, train)
            return Linear(3, 3, name="fc")(x.mean((1, 2)))

    state = TrainState.create(Net().init(jax.random.key(0), data()["x"]), SGD)
    after, _ = train_step(Net(), loss, SGD, frozen=["norm"], donate=False)(state, data())
    assert moved(state.batch_stats, after.batch_stats) == set()
    assert moved(state.params, after.params) == {"fc.kernel", "fc.bias"}


def test_freeze_has_no_state_and_no_decay_for_what_is_frozen():
    params = negative_zeros(variables(Small())["params"])
    optimizer = freeze(DECAYED, params, ["stem", "layer1"])
    state = optimizer.init(params)
    assert sum(leaf.size for leaf in jax.tree.leaves(state)) == 1 + 2 * sum(p.size for p in params["fc"].values())
    grads = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), params)
    updates, _ = optimizer.update(grads | {"fc": params["fc"]}, state, params)
    assert moved(params, optax.apply_updates(params, updates)) == {"fc.kernel", "fc.bias"}


def test_frozen_and_unfrozen_steps_differ_only_in_what_is_frozen():
    state = new_state(Small(), SGD)
    plain, _ = compiled(Small(), SGD)(state, data())
    held, metrics = compiled(Small(), SGD, frozen=("fc",))(state, data())
    others = [(after.batch_stats, {**after.params, "fc": {}}) for after in (plain, held)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), *others)
    assert moved(state.params["fc"], held.params["fc"]) == set()
    fc = jax.tree.map(lambda a, b: (a - b) / 0.1, state.params, plain.params)
    fc["fc"] = jax.tree.map(jnp.zeros_like, fc["fc"])
    norm = np.sqrt(sum(np.square(leaf).sum() for leaf in jax.tree.leaves(fc)))
    np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-9)


@pytest.mark.parametrize("paths", [["net"], ["net.stem", "net.drop", "norm", "out"]])
def test_module_of_a_user_in_eval_mode(paths):
    state = variables(Users())
    x = data()["x"]
    rngs = {"dropout": jax.random.key(0)}

    def run(paths, **options):
        with frozen_calls(paths):
            return Users().apply(state, x, True, mutable=["batch_stats"], rngs=rngs, **options)

    _, free = run([])
    assert len(moved(state["batch_stats"], free["batch_stats"])) == 6
    _, held = run(paths)
    expected = {"norm.mean", "norm.var"} if paths == ["net"] else {"net.layer1.1.mean", "net.layer1.1.var"}
    assert moved(state["batch_stats"], held["batch_stats"]) == expected
    everything, _ = run(["net", "norm", "out"])
    np.testing.assert_array_equal(everything, Users().apply(state, x))
    assert bits(run([])[1]) == bits(free)


def test_linens_modules_of_a_setup_train_again_outside():
    class Net(nn.Module):
        def setup(self):
            self.drop = nn.Dropout(0.5, deterministic=False)
            self.ours = Dropout(0.5)
            self.fc = Linear(4, 4)

        def __call__(self, x, train=False):
            return self.drop(self.fc(x)), self.ours(jnp.ones(50), train=train)

    x = jnp.ones((3, 4))
    state = Net().init({"params": jax.random.key(0), "dropout": jax.random.key(1)}, x)

    def is_dropped(paths):
        with frozen_calls(paths):
            return [bool((out == 0).any()) for out in Net().apply(state, x, True, rngs={"dropout": jax.random.key(2)})]

    assert is_dropped([]) == [True, True]
    assert is_dropped(["drop"]) == [False, True]
    assert is_dropped(["ours"]) == [True, False]


def test_a_path_is_whole_names():
    params = {"layer1": {"w": 1}, "layer10": {"w": 1}, "layer1.0": {"w": 1}, "fc": {"0": {"w": 1}}}
    assert frozen_leaves(params, ["layer1", "fc.0"]) == {
        "layer1": {"w": True},
        "layer10": {"w": False},
        "layer1.0": {"w": True},
        "fc": {"0": {"w": True}},
    }


def test_pytorch_keys_name_parameters():
    params = {"fc": {"kernel": 1, "bias": 1}, "bn": {"scale": 1}, "e": {"embedding": 1}, "raw": {"weight": 1}}
    keys = ["fc.weight", "bn.weight", "e.weight", "raw.weight"]
    expected = {"fc": {"kernel": True, "bias": False}, "bn": {"scale": True}, "e": {"embedding": True}}
    assert frozen_leaves(params, keys) == {**expected, "raw": {"weight": True}}


@pytest.mark.parametrize("paths", [["layer"], ["fc", "stem.conv.weights"], [""], ["stem."]])
def test_a_path_of_nothing_is_refused(paths):
    params = variables(Small())["params"]
    words = f"got {paths[-1]!r}; the parameters begin with fc, layer1, stem"
    with pytest.raises(ValueError, match=words):
        freeze(DECAYED, params, paths)


def test_a_step_refuses_a_path_of_nothing():
    with pytest.raises(ValueError, match=r"got 'layer'; the parameters begin with fc, layer1, stem"):
        train_step(Small(), loss, DECAYED, frozen=["layer"])(new_state(Small(), DECAYED), data())


def test_one_text_is_refused():
    with pytest.raises(ValueError, match=r"expected a list of paths, got the text 'stem'; write \['stem'\]"):
        frozen_leaves(variables(Small())["params"], "stem")
