"""Glimpses are where they should be, choices are one-hot and random where they should be, and REINFORCE learns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.errors import InvalidRngError

import flax_attn as fa
from flax_attn.blocks.recurrent_attention import patch
from tests.helpers.tolerances import assert_close


def test_patch_is_centred_on_the_place_and_zero_beyond_the_edge():
    x = jnp.arange(1.0, 37.0).reshape(1, 6, 6, 1)
    centre = patch(x, jnp.zeros((1, 2)), 2)[0, :, :, 0]
    np.testing.assert_array_equal(centre, x[0, 2:4, 2:4, 0])
    right = patch(x, jnp.array([[1.0, 0.0]]), 2)[0, :, :, 0]
    np.testing.assert_array_equal(right, np.stack([x[0, 2:4, 5, 0], np.zeros(2)], 1))
    for size in (3, 4, 5, 8):
        corner = patch(x, jnp.ones((1, 2)), size)[0, :, :, 0]
        assert corner.shape == (size, size)
        half = size // 2
        np.testing.assert_array_equal(corner[:half, :half], x[0, 6 - half :, 6 - half :, 0])
        assert float(corner.sum()) == float(corner[:half, :half].sum())


@pytest.mark.parametrize("size", [2, 3, 4, 7])
def test_patch_is_the_twins_at_random_places(size):
    torch = pytest.importorskip("torch")
    from torch_ref.blocks.recurrent_attention import patch as twin

    rng = np.random.default_rng(0)
    x, place = rng.normal(size=(50, 7, 9, 2)), rng.uniform(-1, 1, (50, 2))
    expected = twin(torch.tensor(np.moveaxis(x, -1, 1).copy()), torch.tensor(place), size)
    assert_close(patch(jnp.asarray(x), jnp.asarray(place), size), np.moveaxis(expected.numpy(), 1, -1))


def upstream_patch(image, place, size):
    """Pad by half a patch, crop from trunc(0.5 (l + 1) H) on."""
    padded = np.pad(image, [(size // 2, size // 2)] * 2 + [(0, 0)])
    column, row = (0.5 * ((place + 1.0) * image.shape[0])).astype(int)
    return padded[row : row + size, column : column + size]


@pytest.mark.parametrize(("size", "far"), [(2, 1.0), (8, 1.0), (3, 0.999), (7, 0.999)])
def test_patch_is_upstreams_pad_and_crop_wherever_that_does_not_fall_short(size, far):
    rng = np.random.default_rng(0)
    x, place = rng.normal(size=(60, 9, 9, 2)), np.clip(1.5 * rng.uniform(-1, 1, (60, 2)), -1, far)
    expected = np.stack([upstream_patch(*pair, size) for pair in zip(x, place, strict=True)])
    np.testing.assert_array_equal(patch(jnp.asarray(x), jnp.asarray(place), size), expected)


def test_a_place_outside_counts_as_the_edge_and_gets_no_gradient():
    x = jnp.arange(1.0, 37.0).reshape(1, 6, 6, 1)
    for outside, edge in [([-7.0, 0.3], [-1.0, 0.3]), ([0.1, 3.0], [0.1, 1.0])]:
        np.testing.assert_array_equal(patch(x, jnp.array([outside]), 4), patch(x, jnp.array([edge]), 4))
    assert not jax.grad(lambda place: patch(x, place, 4).sum())(jnp.zeros((1, 2))).any()


def test_a_location_is_drawn_around_its_mean_and_its_density_is_exact_in_half_precision():
    h = jnp.broadcast_to(jax.random.normal(jax.random.key(0), (1, 6)), (4000, 6))
    module = fa.LocationNetwork(6, 2, 0.05)
    variables = module.init(jax.random.key(1), h)
    _, mean = module.apply(variables, h, jnp.zeros((4000, 2)))
    _, places = module.apply(variables, h, rngs={"sample": jax.random.key(2)})
    np.testing.assert_allclose(places.mean(0), mean[0], atol=0.005)
    np.testing.assert_allclose(places.std(0), 0.05, atol=0.005)
    with pytest.raises(InvalidRngError, match="sample"):
        module.apply(variables, h)
    noise = jax.random.normal(jax.random.key(3), (4000, 2))
    exact = -0.5 * (noise**2).sum(-1) - 2 * np.log(0.05 * np.sqrt(2 * np.pi))
    half, _ = fa.LocationNetwork(6, 2, 0.05, dtype=jnp.bfloat16).apply(variables, h, noise)
    np.testing.assert_allclose(half.astype(float), exact, rtol=2**-8, atol=2**-8)


def test_gumbel_choice_is_torchs():
    torch = pytest.importorskip("torch")
    from torch_ref.blocks.gumbel_attention import GumbelHardAttention

    twin = GumbelHardAttention(4, 8, 0.7).double()
    x = torch.randn(5, 4, 3, 6, dtype=torch.float64)
    logits, _ = twin.eval().scores(x, None)
    torch.manual_seed(0)
    expected = torch.nn.functional.gumbel_softmax(logits, 0.7, hard=True)
    torch.manual_seed(0)
    _, weights = twin.train()(x)
    (a,), (b,) = (torch.autograd.grad((w * logits.detach()).sum(), twin.fc1.weight) for w in (weights, expected))
    assert_close(weights.detach(), expected.detach())
    assert_close(a, b)


def setup(module, shape=(64, 3, 5, 4)):
    x = jax.random.normal(jax.random.key(1), shape)
    return x, module.init(jax.random.key(0), x)


def test_hard_attention_chooses_one_pixel_as_often_as_its_probability():
    module = fa.HardAttention(4, 8)
    x, variables = setup(module, (1, 1, 3, 4))
    x = jnp.broadcast_to(x, (4000, 1, 3, 4))
    run = jax.jit(lambda key: module.apply(variables, x, train=True, rngs={"sample": key}))
    glimpse, log_p, entropy = run(jax.random.key(2))
    matches = (glimpse[:, None] == x[:, 0]).all(-1)
    assert (matches.sum(1) == 1).all()
    p = np.exp([float(log_p[np.argmax(matches[:, i])]) for i in range(3)])
    np.testing.assert_allclose(matches.mean(0), p, atol=0.03)
    np.testing.assert_allclose(entropy[0], -(p * np.log(p)).sum(), atol=1e-6)


def test_eval_mode_takes_the_likeliest_and_needs_no_rng():
    module = fa.HardAttention(4, 8)
    x, variables = setup(module)
    _, log_p, _ = module.apply(variables, x)
    _, noisy, _ = module.apply(variables, x, train=True, rngs={"sample": jax.random.key(3)})
    assert (log_p >= noisy).all()
    assert (log_p > noisy).any()


def test_gumbel_weights_are_one_hot_with_the_gradient_of_the_softmax():
    module = fa.GumbelHardAttention(4, 8, temperature=0.5)
    x, variables = setup(module)
    noise = jax.random.gumbel(jax.random.key(4), (64, 15))
    _, weights = module.apply(variables, x, noise)
    np.testing.assert_array_equal(jnp.sort(weights, -1)[:, -2:], np.tile([0, 1], (64, 1)))
    grads = jax.grad(lambda v: (module.apply(v, x, noise)[0] ** 2).sum())(variables)
    assert all(jnp.abs(leaf).max() > 0 for leaf in jax.tree.leaves(grads["params"]["fc1"]))


def test_reinforce_loss_is_the_twins_and_detaches_the_advantage():
    torch = pytest.importorskip("torch")
    from torch_ref.blocks.recurrent_attention import reinforce_loss

    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(5, 6)) for _ in range(3)]
    tensors = [torch.tensor(a, requires_grad=True) for a in arrays]
    expected = reinforce_loss(*tensors)
    expected.backward()
    loss, grads = jax.value_and_grad(fa.reinforce_loss, (0, 1, 2))(*map(jnp.asarray, arrays))
    assert_close(loss, expected.detach())
    for got, tensor in zip(grads, tensors, strict=True):
        assert_close(got, tensor.grad)


def test_reinforce_learns_where_to_look():
    module = fa.HardAttention(2, 8)
    x = jnp.zeros((32, 1, 6, 2)).at[:, 0, 4, 0].set(1)  # one pixel differs: looking at it is rewarded
    variables = module.init(jax.random.key(0), x)

    @jax.jit
    def step(variables, key):
        def loss(v):
            glimpse, log_p, _ = module.apply(v, x, train=True, rngs={"sample": key})
            reward = glimpse[:, :1]
            return fa.reinforce_loss(log_p[:, None], reward, jnp.full_like(reward, 1 / 6), 1.0), reward.mean()

        grads, reward = jax.grad(loss, has_aux=True)(variables)
        return jax.tree.map(lambda v, g: v - 0.5 * g, variables, grads), reward

    rewards = []
    for key in jax.random.split(jax.random.key(1), 150):
        variables, reward = step(variables, key)
        rewards.append(float(reward))
    assert np.mean(rewards[:5]) < 0.4
    assert np.mean(rewards[-5:]) > 0.9


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: fa.Retina(0, 1, 1.0), "Retina: expected g, k, s >= 1, got (0, 1, 1.0)"),
        (
            lambda: fa.Retina(8, 2, 1.5),
            "Retina: expected sizes that a pooling by size // g shrinks to g=8, got [8, 12]",
        ),
        (
            lambda: fa.LocationNetwork(4, 2, 0.1).init(jax.random.key(0), jnp.zeros((3, 4)), jnp.zeros(2)),
            "LocationNetwork: expected noise of shape (3, 2), got (2,)",
        ),
        (
            lambda: fa.reinforce_loss(jnp.zeros((3, 3)), jnp.zeros(3), jnp.zeros((3, 3))),
            "reinforce_loss: expected log_pi, reward and baseline of one shape (n, t), got [(3, 3), (3,), (3, 3)]",
        ),
        (lambda: fa.LocationNetwork(4, 2, 0.0), "LocationNetwork: expected std > 0, got 0.0"),
        (lambda: fa.HardAttention(0, 4), "HardAttention: expected dim, hidden_dim >= 1, got (0, 4)"),
        (lambda: fa.GumbelHardAttention(4, 4, 0.0), "GumbelHardAttention: expected temperature > 0, got 0.0"),
        (
            lambda: fa.Retina(2, 1, 1.0).apply({}, jnp.zeros((2, 4, 4, 1)), jnp.zeros((2, 3))),
            "Retina: expected places of shape (2, 2), got (2, 3)",
        ),
    ],
)
@pytest.mark.usefixtures("no_annotation_checks")
def test_what_does_not_fit_is_refused_in_one_sentence(call, sentence):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        call()
    assert str(error.value) == sentence


@pytest.mark.parametrize("arguments", [(0, 1, 1.0), (8, 2, 1.5), (8, 2, 0.5), (4, 0, 2.0)])
def test_patches_that_do_not_fit_are_refused_on_both_sides(arguments):
    torch = pytest.importorskip("torch")
    from torch_ref.blocks.recurrent_attention import Retina

    with pytest.raises(ValueError, match="Retina: expected"):
        fa.Retina(*arguments)
    with pytest.raises((RuntimeError, ValueError, ZeroDivisionError)):
        Retina(*arguments)(torch.zeros(2, 1, 9, 9), torch.zeros(2, 2))
