"""Padding, and the layers that only move numbers, refuse what torch refuses and order pixels as torch does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
functional = torch.nn.functional

from flax_attn import layers
from tests.helpers.layer import array, channels_first, channels_last, check_refusal, normal, trace
from tests.helpers.layer_cases import SPACES

PADDINGS = [(0, 0), (2, 1), (-1, 2), (3, 0, 1, 2), (-2, 1, 0, -1), (4, 4, 3, 3), (5, 6, 6, 5), (9, 0), (-6, 1)]


def outcome(call):
    try:
        return call()
    except (ValueError, RuntimeError, NotImplementedError) as error:
        return error


@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate", "circular"])
def test_pad_gives_torchs_pixels_or_both_refuse(mode):
    """Where torch's other modes leave no pixels at all, ours refuse."""
    for spatial, shape in SPACES.items():
        x = normal(*shape)
        for padding in (pair * spatial if len(pair) < 3 else pair + (1, 0) * (spatial - 2) for pair in PADDINGS):
            if len(padding) != 2 * spatial:
                continue
            ours = outcome(lambda x=x, padding=padding: np.asarray(layers.pad(jnp.asarray(x), padding, mode)))
            theirs = outcome(
                lambda x=x, padding=padding: functional.pad(torch.tensor(channels_first(x)), padding, mode)
            )
            refused = isinstance(theirs, Exception) or (mode != "constant" and theirs.numel() == 0)
            assert isinstance(ours, ValueError) == refused, (mode, shape, padding, ours, theirs)
            if not isinstance(ours, ValueError):
                np.testing.assert_array_equal(ours, channels_last(theirs), str((mode, shape, padding)))


def test_a_constant_beyond_space():
    x, padding = normal(2, 5, 6, 4), (1, 0, 0, 2, 3, -1, 0, 1)
    expected = functional.pad(torch.tensor(channels_first(x)), padding, value=2.5)
    np.testing.assert_array_equal(layers.pad(jnp.asarray(x), padding, value=2.5), channels_last(expected))
    integers = jnp.arange(6).reshape(1, 6, 1)
    assert layers.pad(integers, (1, 1), value=7).dtype == integers.dtype


def test_an_axis_may_keep_its_edges():
    x = array(2, 5, 6, 4)
    np.testing.assert_array_equal(layers.pad(x, (1, 1), "reflect"), layers.pad(x, (1, 1, 0, 0), "reflect"))


def test_bad_paddings():
    x, t = jnp.zeros((2, 5, 6, 4)), torch.zeros(2, 4, 5, 6)
    for args, match in (
        (((1, 1), "mirror"), "expected a mode of constant, reflect, replicate, circular, got 'mirror'"),
        (((1, 1, 1),), "two numbers for each of at most 4 axes, got"),
        (((1,) * 10,), "two numbers for each of at most 4 axes, got"),
        (((6, 0, 0, 0), "reflect"), r"at most 5 pixels for mode 'reflect', got \(6, 0\)"),
        (((0, 0, 6, 0), "circular"), r"at most 5 pixels for mode 'circular', got \(6, 0\)"),
        (((-3, -3, 0, 0), "replicate"), r"expected pixels to be left, got \(-3, -3\)"),
        (((1, 1, 0, 0), "reflect", 1.0), "expected no value for mode 'reflect', got 1.0"),
    ):
        theirs = None if "to be left" in match else lambda args=args: functional.pad(t, *args)
        check_refusal(lambda args=args: layers.pad(x, *args), match, theirs)


def test_layers_refuse_another_rank_and_another_number_of_sides():
    for name in ("ConstantPad", "ZeroPad", "ReflectionPad", "ReplicationPad", "CircularPad"):
        more = {"value": 1.0} if name == "ConstantPad" else {}
        for n, shape in SPACES.items():
            cls = getattr(layers, f"{name}{n}d")
            match = f"{name}{n}d: expected padding to be an int or {2 * n} ints"
            check_refusal(lambda cls=cls, more=more: cls((1, 1, 1), **more), match)
            match = f"{name}{n}d: expected a channels-last input of rank {n + 2}"
            layer = cls(1, **more)
            check_refusal(lambda layer=layer, shape=shape: trace(layer, *shape[:-2], shape[-1]), match)


def test_convolutions_refuse_another_padding_mode():
    check_refusal(
        lambda: layers.Conv2d(3, 4, 3, padding_mode="mirror"),
        "Conv2d: expected a padding_mode of zeros, reflect, replicate, circular, got 'mirror'",
        lambda: torch.nn.Conv2d(3, 4, 3, padding_mode="mirror"),
    )
    check_refusal(
        lambda: layers.Conv2d(3, 4, 3, padding="full"),
        "Conv2d: expected padding to be ints, 'same' or 'valid', got 'full'",
        lambda: torch.nn.Conv2d(3, 4, 3, padding="full"),
    )
    check_refusal(
        lambda: layers.Conv2d(3, 4, 3, stride=(1, 2), padding="same"),
        r"Conv2d: expected stride=1 with padding='same', got \(1, 2\)",
        lambda: torch.nn.Conv2d(3, 4, 3, stride=(1, 2), padding="same"),
    )
    check_refusal(
        lambda: layers.ConvTranspose1d(3, 4, 3, padding_mode="reflect"),
        "ConvTranspose1d: expected padding_mode 'zeros', got 'reflect'",
        lambda: torch.nn.ConvTranspose1d(3, 4, 3, padding_mode="reflect"),
    )


def test_pixel_shuffle_and_its_inverse():
    x = normal(2, 3, 5, 18)
    shuffled = layers.pixel_shuffle(jnp.asarray(x), 3)
    expected = functional.pixel_shuffle(torch.tensor(channels_first(x)), 3)
    np.testing.assert_array_equal(shuffled, channels_last(expected))
    np.testing.assert_array_equal(layers.pixel_unshuffle(shuffled, 3), x)


def test_bad_pixel_shuffles():
    zeros = torch.zeros
    for ours, match, theirs in (
        (
            lambda: layers.pixel_shuffle(jnp.zeros((2, 3, 5, 6)), 2),
            r"pixel_shuffle: expected channels divisible by 2\*2",
            lambda: functional.pixel_shuffle(zeros(2, 6, 3, 5), 2),
        ),
        (
            lambda: layers.pixel_unshuffle(jnp.zeros((2, 4, 5, 6)), 2),
            "pixel_unshuffle: expected height and width divisible by 2",
            lambda: functional.pixel_unshuffle(zeros(2, 6, 4, 5), 2),
        ),
        (lambda: layers.pixel_shuffle(jnp.zeros((2, 5, 4)), 2), r"expected an input \(n, h, w, c\)", None),
        (lambda: layers.PixelShuffle(0), "PixelShuffle: expected upscale_factor >= 1, got 0", None),
        (lambda: layers.PixelUnshuffle(0), "PixelUnshuffle: expected downscale_factor >= 1, got 0", None),
        (lambda: layers.pixel_shuffle(jnp.zeros((2, 3, 5, 4)), 0), "upscale_factor >= 1, got 0", None),
        (lambda: layers.pixel_unshuffle(jnp.zeros((2, 3, 5, 4)), 0), "downscale_factor >= 1, got 0", None),
        (lambda: trace(layers.Flatten(3), 2, 3, 4), "Flatten: expected axes 3 to -1 in the input", None),
        (lambda: trace(layers.Flatten(2, 1), 2, 3, 4), "Flatten: expected axes 2 to 1", None),
    ):
        check_refusal(ours, match, theirs)


@pytest.mark.parametrize("axes", [(0, -1), (0, 1), (0, 0), (1, 1), (2, 2), (1, -2), (-1, -1)])
def test_flatten_of_other_axes(axes):
    """The channels are last where the result still has them; where the batch is flattened too, the shape is torch's."""
    x = normal(2, 5, 6, 4)
    expected = torch.nn.Flatten(*axes)(torch.tensor(channels_first(x))).numpy()
    expected = channels_last(expected) if axes[0] != 0 or axes == (0, 0) else expected
    np.testing.assert_array_equal(layers.Flatten(*axes).apply({}, jnp.asarray(x)), expected)


def test_upsample_refuses_to_recompute_a_given_size():
    x = torch.zeros(2, 4, 5, 6)
    check_refusal(
        lambda: layers.Upsample(3, recompute_scale_factor=True),
        "Upsample: expected recompute_scale_factor=None with size, got True",
        lambda: torch.nn.Upsample(3, recompute_scale_factor=True)(x),
    )


def test_identity_is_the_input():
    x = array(2, 3)
    assert layers.Identity().init_with_output(jax.random.key(0), x)[0] is x
