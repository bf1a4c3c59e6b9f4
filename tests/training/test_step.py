"""What a step does besides the arithmetic that PyTorch shares: randomness, precision, memory, and refusals."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flax_attn.blocks.recurrent_attention import LocationNetwork
from flax_attn.layers import BatchNorm2d, Dropout, frozen
from flax_attn.training import TrainState, eval_step, new_ema, stream_key, train_step
from tests.training.networks import Plain, Small, bits, compiled, data, loss, new_state, variables

SGD = optax.sgd(0.1)
KEEP = optax.stateless(lambda updates, _: updates)


def first_loss(step, state, batch=None):
    return float(step(state, batch or data())[1]["loss"])


def test_dropout_depends_on_seed_and_step_only():
    step = train_step(Small(p=0.5), loss, SGD, donate=False)
    state = new_state(Small(p=0.5), SGD, rng=1)
    losses = [first_loss(step, each) for each in (state, state, state.replace(step=state.step + 1))]
    losses += [first_loss(step, new_state(Small(), SGD, rng=2)), first_loss(step, new_state(Small(), SGD))]
    assert losses[0] == losses[1]
    assert len(set(losses)) == 4


def test_dropout_differs_between_the_parts_of_a_batch():
    class Mask(nn.Module):
        @nn.compact
        def __call__(self, x, train: bool = False):
            scale = self.param("scale", nn.initializers.ones, (), x.dtype)
            return scale * Dropout(0.5)(jnp.ones_like(x), train)

    state = TrainState.create(Mask().init(jax.random.key(0), jnp.ones((3, 40))), SGD)
    step = train_step(Mask(), lambda out, batch: (out.sum(), {"mask": out}), SGD, accumulate=2, donate=False)
    _, metrics = step(state, {"x": jnp.ones((6, 40))})
    halves = np.asarray(metrics["mask"])
    assert set(np.unique(halves)) == {0.0, 1.0, 2.0}


def test_streams_have_keys_of_their_own():
    key = jax.random.key(0)
    keys = [stream_key(key, step, name) for step in (0, 1) for name in ("dropout", "sample")]
    assert len({jax.random.key_data(key).tobytes() for key in keys}) == 4


def test_evaluation_draws_from_the_streams():
    module, x = LocationNetwork(4, 2, 0.1), jnp.ones((3, 4))
    state = TrainState.create(module.init({"params": jax.random.key(0), "sample": jax.random.key(1)}, x), SGD)
    _, place = eval_step(module)(state, {"x": x})
    expected = module.apply(state.variables, x, rngs={"sample": stream_key(state.rng, 0, "sample")})[1]
    np.testing.assert_allclose(place, expected, rtol=1e-12)


def test_statistics_move_part_by_part():
    """PyTorch's loop over parts is compared in test_against_torch.py."""
    ends = [
        step(new_state(Small(), SGD), data())[0].batch_stats
        for step in (compiled(Small(), SGD), compiled(Small(), SGD, accumulate=2))
    ]
    assert bits(ends[0]) != bits(ends[1])


def test_module_without_statistics_and_without_train():
    step, state = train_step(Plain(), loss, SGD), new_state(Plain(), SGD)
    losses = []
    for _ in range(30):
        state, metrics = step(state, data())
        losses.append(float(metrics["loss"]))
    assert losses[-1] < losses[0]
    assert step._cache_size() == 1
    assert state.batch_stats == {}
    assert set(state.variables) == {"params"}


class Forgot(nn.Module):
    name_of_train: str = ""

    @nn.compact
    def __call__(self, x):
        return BatchNorm2d(3, name="bn")(x).mean((1, 2))


class Decided(nn.Module):
    @nn.compact
    def __call__(self, x):
        with frozen():
            return BatchNorm2d(3, name="bn")(x).mean((1, 2))


class Training(nn.Module):
    @nn.compact
    def __call__(self, x, training=False):
        return BatchNorm2d(3, name="bn")(x, training).mean((1, 2))


def test_a_lost_train_is_refused():
    with pytest.raises(ValueError, match=r"Forgot: expected a call with the argument train.*BatchNorm2d at 'bn'"):
        first_loss(train_step(Forgot(), loss, SGD), new_state(Forgot(), SGD))
    first_loss(train_step(Decided(), loss, SGD), new_state(Decided(), SGD))
    with pytest.raises(ValueError, match="Training: expected a call with the argument train, got training"):
        train_step(Training(), loss, SGD)


def test_the_memory_of_the_state_is_reused():
    """The step with reused memory is another program to XLA, which rounds differently."""
    states, ends = [new_state(Small(), optax.adam(0.1), ema=True) for _ in range(2)], []
    for state, donate in zip(states, (True, False), strict=True):
        step = train_step(Small(), loss, optax.adam(0.1), ema_decay=0.9, donate=donate)
        end, metrics = step(state, data())
        ends.append(jax.tree.leaves((end.replace(rng=jax.random.key_data(end.rng)), metrics)))
    for reused, kept in zip(*ends, strict=True):
        np.testing.assert_allclose(reused, kept, rtol=1e-14, atol=1e-15)
    for leaves, gone in zip(map(jax.tree.leaves, states), (True, False), strict=True):
        assert {leaf.is_deleted() for leaf in leaves} == {gone}


def test_a_state_holds_copies():
    given = jax.tree.map(jnp.array, variables(Small()))
    key, average = jax.random.key(0), new_ema(given)
    state = TrainState.create(given, SGD, rng=key, ema=average)
    train_step(Small(), loss, SGD, ema_decay=0.9)(state, data())
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((given, key, average)))
    assert bits(key) == bits(jax.random.key(0))


def dtypes(tree):
    return {leaf.dtype.name for leaf in jax.tree.leaves(tree)}


@pytest.mark.parametrize("module", [Small(), Plain()], ids=["ours", "linen"])
@pytest.mark.parametrize(("dtype", "scale"), [(jnp.bfloat16, 1.0), (jnp.float16, 1024.0)])
def test_mixed_precision(module, dtype, scale):
    seen = []

    def watched(outputs, batch):
        seen.append(outputs.dtype)
        return loss(outputs, batch)

    state, batch = new_state(module, KEEP, np.float32), data(dtype=np.float32)
    exact, _ = compiled(module, KEEP)(state, batch)
    half, metrics = train_step(module, watched, KEEP, dtype=dtype, loss_scale=scale, donate=False)(state, batch)
    assert seen == [jnp.float32]
    assert dtypes((half.params, half.batch_stats, metrics)) == {"float32"}
    assert bits(exact.params) != bits(half.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-2), half.params, exact.params)


def test_computes_in_the_dtype():
    kinds = []

    def watch(call, args, kwargs, context):
        out = call(*args, **kwargs)
        if context.method_name == "__call__":
            kinds.append(out.dtype.name)
        return out

    state, batch = new_state(Small(), SGD, np.float32), data(dtype=np.float32)
    with nn.intercept_methods(watch):
        train_step(Small(), loss, SGD, dtype=jnp.bfloat16)(state, batch)
    assert set(kinds) == {"bfloat16"}
    assert len(kinds) > 5


def test_loss_scale_keeps_small_gradients():
    def tiny(outputs, batch):
        return 1e-6 * loss(outputs, batch)

    state, batch = new_state(Small(), KEEP, np.float32), data(dtype=np.float32)
    _, lost = train_step(Small(), tiny, KEEP, dtype=jnp.float16, donate=False)(state, batch)
    _, kept = train_step(Small(), tiny, KEEP, dtype=jnp.float16, loss_scale=2.0**16, donate=False)(state, batch)
    _, exact = train_step(Small(), tiny, KEEP, donate=False)(state, batch)
    assert abs(kept["grad_norm"] / exact["grad_norm"] - 1) < 2e-2 < abs(lost["grad_norm"] / exact["grad_norm"] - 1)


def test_a_step_that_is_not_finite_can_be_skipped():
    optimizer = optax.adam(0.1)
    step = train_step(Small(), loss, optimizer, ema_decay=0.9, skip_nonfinite=True, donate=False)
    state, _ = step(new_state(Small(), optimizer, ema=True), data())
    bad = data() | {"x": np.full((6, 6, 5, 3), np.inf)}
    after, metrics = step(state, bad)
    assert metrics["skipped"] == 1
    assert int(after.step) == 2
    assert bits(after.replace(step=state.step)) == bits(state)
    after, metrics = step(after, data())
    assert metrics["skipped"] == 0
    assert bits(after.params) != bits(state.params)
    broken, _ = compiled(Small(), SGD)(new_state(Small(), SGD), bad)
    assert any(np.isnan(leaf).any() for leaf in jax.tree.leaves(broken.params))


def test_metrics_and_keywords():
    def counted(outputs, batch):
        return loss(outputs, batch), {"correct": (outputs.argmax(-1) == batch["y"]).sum()}

    def inputs(batch):
        return {"x": batch["image"]}

    batch = {"image": data()["x"], "y": data()["y"]}
    state = new_state(Small(), SGD)
    whole = train_step(Plain(), counted, SGD, inputs=inputs)(new_state(Plain(), SGD), batch)[1]
    parts = train_step(Plain(), counted, SGD, inputs=inputs, accumulate=2)(new_state(Plain(), SGD), batch)[1]
    assert set(whole) == {"loss", "grad_norm", "correct"}
    assert whole["correct"] == 2 * parts["correct"]
    np.testing.assert_allclose(whole["loss"], parts["loss"], rtol=1e-14)
    np.testing.assert_array_equal(
        eval_step(Small(), inputs=inputs)(state, batch), jax.jit(Small().apply)(state.variables, batch["image"])
    )


def test_evaluation_of_the_average():
    state = new_state(Small(), SGD, ema=True)
    step = train_step(Small(), loss, SGD, ema_decay=0.5)
    state, _ = step(step(state, data())[0], data())
    plain, average = (eval_step(Small(), ema=ema)(state, data()) for ema in (False, True))
    np.testing.assert_allclose(
        average,
        eval_step(Small())(state.replace(params=state.ema["params"], batch_stats=state.ema["batch_stats"]), data()),
        rtol=1e-12,
    )
    assert abs(plain - average).max() > 1e-6


OPTIONS = [
    (dict(accumulate=0), "expected accumulate to be an integer >= 1, got 0"),
    (dict(accumulate=2.0), "expected accumulate to be an integer >= 1, got 2.0"),
    (dict(streams="dropout"), r"streams: expected a list of names, got the text 'dropout'; write \['dropout'\]"),
    (dict(optimizer=optax.sgd), "train_step: expected an optax transformation, got function; call it"),
    (dict(module=Small), "module: expected an instance of a linen module, got type"),
    (dict(clip_norm=0.0), "expected a positive clip_norm, got 0.0"),
    (dict(clip_norm=1.0, clip_value=1.0), "leave out one"),
    (dict(ema_decay=1.5), r"expected ema_decay in \[0, 1\], got 1.5"),
    (dict(loss_scale=0.0), "expected a positive loss_scale"),
]


@pytest.mark.parametrize(("options", "words"), OPTIONS)
def test_options_out_of_range(options, words, no_annotation_checks):
    with pytest.raises(ValueError, match=words):
        train_step(**(dict(module=Small(), loss=loss, optimizer=SGD) | options))


CALLS = [
    (dict(accumulate=4), {}, data(), r"batch\['x'\]: expected a first axis that 4 divides.*\(6, 6, 5, 3\)"),
    ({}, {}, {"image": 1.0}, 'expected a dict with the input as "x", got the keys image'),
    (dict(inputs=lambda batch: batch["x"]), {}, data(), "inputs: expected a tuple of arguments"),
    (dict(ema_decay=0.9), {}, data(), "expected a state with an average, got ema=None"),
    ({}, dict(ema=True), data(), "expected ema_decay for a state with an average"),
    (dict(loss=lambda out, _: out[:, 0]), {}, data(), r"expected one floating point number, got float64 \(6,\)"),
    (dict(loss=lambda out, _: (out.sum(), {"loss": 1})), {}, data(), "other names for its metrics"),
    (dict(loss=lambda out, _: None), {}, data(), "loss: expected a number and a dict of metrics.*got NoneType"),
    (dict(loss=lambda out, _: {"ce": out.sum()}), {}, data(), "got dict, dict; sum the losses of a dict"),
    (dict(loss=lambda out, _: (out.sum(), [1])), {}, data(), "got .*, list"),
    (dict(loss=lambda out, _: (out.sum(), {}, 1)), {}, data(), "got .*, dict, int"),
    (dict(optimizer=optax.adam(1.0)), {}, data(), "expected an opt_state of its optimizer"),
]


@pytest.mark.parametrize(("options", "state", "batch", "words"), CALLS)
def test_what_does_not_fit_is_refused(options, state, batch, words):
    step = train_step(Small(), **(dict(loss=loss, optimizer=SGD) | options))
    with pytest.raises(ValueError, match=words):
        step(new_state(Small(), SGD, **state), batch)


def test_statistics_must_be_complete():
    state = new_state(Small(), SGD)
    for stats in ({}, {"stem": state.batch_stats["stem"]}):
        with pytest.raises(ValueError, match=r"Small: expected all its statistics in .*, layer1.1.mean.*missing"):
            train_step(Small(), loss, SGD)(state.replace(batch_stats=stats), data())


CREATIONS = [
    ({"batch_stats": {}}, 0, "got the keys"),
    ({"fc": {"kernel": jnp.ones(3)}}, 0, "got the keys \\['fc'\\]"),
    ([1], 0, "got list"),
    ({"params": {"w": jnp.ones(3)}, "cache": {}}, 0, "got also cache"),
    ({"params": {"w": jnp.ones(3)}}, jax.random.split(jax.random.key(0)), "expected a seed or one key as rng"),
    ({"params": {"w": jnp.ones(3)}}, jnp.ones(2), r"got float64 \(2,\)"),
]


def test_the_optimizer_is_made(no_annotation_checks):
    with pytest.raises(ValueError, match="TrainState: expected an optax transformation, got function; call it"):
        TrainState.create(variables(Small()), optax.sgd)


@pytest.mark.parametrize(("variables", "rng", "words"), CREATIONS)
def test_a_state_of_other_things_is_refused(variables, rng, words, no_annotation_checks):
    with pytest.raises(ValueError, match=words):
        TrainState.create(variables, SGD, rng=rng)


def test_seeds_and_keys():
    made = [TrainState.create(variables(Small()), SGD, rng=rng).rng for rng in (7, np.int64(7), jax.random.key(7))]
    made.append(TrainState.create(variables(Small()), SGD, rng=jax.random.PRNGKey(7)).rng)
    assert len({str(bits(key)) for key in made}) == 1
    assert TrainState.create(variables(Small()), SGD, rng=jax.random.key(7, impl="rbg")).rng.dtype.name == "key<rbg>"


def test_an_average_of_parameters_alone():
    """The statistics join it with the first step, and an average without a count never copies the parameters."""
    given = new_state(Small(), SGD)
    state = given.replace(ema={"params": jax.tree.map(jnp.zeros_like, given.params)})
    assert set(state.ema_variables) == {"params"}
    state, _ = train_step(Small(), loss, SGD, ema_decay=0.75, donate=False)(state, data())
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, 0.25 * b, rtol=1e-14), state.ema["params"], state.params)
    assert bits(state.ema["batch_stats"]) == bits(state.batch_stats)
    skip = train_step(Small(), loss, SGD, ema_decay=0.75, skip_nonfinite=True, donate=False)
    alone = given.replace(ema={"params": given.params})
    after, metrics = skip(alone, data() | {"x": np.full((6, 6, 5, 3), np.inf)})
    assert metrics["skipped"] == 1
    assert bits(after.ema) == bits({"params": given.params, "batch_stats": given.batch_stats})
