"""Conv1d to Conv3d and ConvTranspose1d to ConvTranspose3d give torch's values and gradients."""

import itertools

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from flax_attn import layers
from tests.helpers.layer import check_layer, check_refusal, normal, trace

SIZES = {1: (9,), 2: (7, 9), 3: (5, 7, 6)}
CHANNELS, OUT, DRAWS = 4, 8, 8


def geometries(spatial, transposed):
    """``DRAWS`` of all combinations; the tuples are not square."""
    grid = dict(
        kernel_size=[1, 2, 3, (3, 2, 1)[:spatial]],
        stride=[1, 2, (1, 2, 3)[:spatial]],
        padding=[0, 1, (1, 0, 2)[:spatial]],
        dilation=[1, 2, (2, 1, 2)[:spatial]],
        groups=[1, 2, 4],
        bias=[True, False],
    )
    if transposed:
        grid["output_padding"] = [0, 1]
    cases = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    kept = [cases[i] for i in np.random.default_rng(spatial).permutation(len(cases)) if possible(cases[i])]
    return kept[:DRAWS]


def possible(case):
    """torch wants output padding below stride or dilation; a 1-wide kernel with padding may leave no output."""
    stride, dilation = case["stride"], case["dilation"]
    small = case.get("output_padding", 0) == 0 or stride == 2 or dilation == 2
    return small and not (case["padding"] != 0 and case["kernel_size"] == 1)


CASES = [
    pytest.param(kind + f"{n}d", n, case, id=f"{kind}{n}d-{i}")
    for kind in ("Conv", "ConvTranspose")
    for n in SIZES
    for i, case in enumerate(geometries(n, kind == "ConvTranspose"))
]


@pytest.mark.parametrize(("name", "spatial", "case"), CASES)
def test_values_and_gradients(name, spatial, case):
    layer = getattr(layers, name)(CHANNELS, OUT, **case)
    twin = getattr(torch.nn, name)(CHANNELS, OUT, **case)
    check_layer(layer, twin, normal(2, *SIZES[spatial], CHANNELS))


@pytest.mark.parametrize("name", ["Conv2d", "ConvTranspose2d"])
def test_float32(name):
    args = (CHANNELS, OUT, 3, 2, 1)
    check_layer(
        getattr(layers, name)(*args), getattr(torch.nn, name)(*args), normal(2, 7, 9, CHANNELS, dtype="float32")
    )


def test_channel_multiplier_of_a_depthwise_convolution_is_ordered_as_in_torch():
    case = dict(in_channels=3, out_channels=9, kernel_size=(3, 5), padding=(1, 2), groups=3)
    check_layer(layers.Conv2d(**case), torch.nn.Conv2d(**case), normal(2, 5, 7, 3))
    check_layer(layers.ConvTranspose2d(**case), torch.nn.ConvTranspose2d(**case), normal(2, 5, 7, 3))


BAD = [
    ((4, 8, 3, 1, 0, 1, 3), "divisible by groups=3"),
    ((6, 8, 3, 1, 0, 1, 3), "out_channels divisible by groups=3"),
    ((4, 8, 3, 1, 0, 1, 0), "groups >= 1, got 0"),
    ((4, 8, 3, 1, 0, 1, -1), "groups >= 1, got -1"),
    ((4, 8, (3, 3, 3)), "kernel_size: expected an int or 2 ints"),
    ((4, 8, 3, (1, 2, 1)), "stride: expected an int or 2 ints"),
    ((4, 8, 3, 0), "stride >= 1, got 0"),
    ((4, 8, 3, 1, -1), "padding >= 0, got -1"),
    ((4, 8, 3, 1, 0, 0), "dilation >= 1, got 0"),
    ((4, 8, 0), "kernel_size >= 1, got 0"),
    ((4, 8, 3, 1, 0, (1, 0)), r"dilation >= 1, got \(1, 0\)"),
]


@pytest.mark.parametrize(("args", "match"), BAD)
def test_bad_arguments(args, match):
    x = torch.zeros(2, args[0], 7, 9)
    theirs = None if args[2] == 0 else lambda: torch.nn.Conv2d(*args)(x)
    check_refusal(lambda: layers.Conv2d(*args), match, theirs)


def test_bad_transposed_arguments():
    for args, match in (
        ((4, 8, 3, 1, 0, 1), "output_padding"),
        ((4, 8, 3, 2, 0, -1), "output_padding"),
        ((4, 8, 3, 1, 0, 0, 3), "divisible by groups=3"),
        ((4, 8, 3, 0), "stride >= 1, got 0"),
        ((4, 8, 3, 1, -1), "padding >= 0, got -1"),
    ):
        theirs = lambda args=args: torch.nn.ConvTranspose2d(*args)(torch.zeros(2, 4, 7, 9))  # noqa: E731
        check_refusal(lambda args=args: layers.ConvTranspose2d(*args), match, theirs)


@pytest.mark.parametrize("name", ["Conv2d", "ConvTranspose2d"])
def test_bad_inputs(name):
    layer, twin = getattr(layers, name)(4, 8, 3), getattr(torch.nn, name)(4, 8, 3)
    check_refusal(lambda: trace(layer, 2, 7, 9, 3), "expected 4 channels", lambda: twin(torch.zeros(2, 3, 7, 9)))
    check_refusal(lambda: trace(layer, 2, 4, 7, 9), "expected 4 channels", lambda: twin(torch.zeros(2, 9, 4, 7)))
    check_refusal(lambda: trace(layer, 7, 4), "of rank 4", lambda: twin(torch.zeros(7, 4)))
    check_refusal(lambda: trace(layer, 1, 2, 7, 9, 4), "of rank 4", lambda: twin(torch.zeros(1, 4, 2, 7, 9)))


def test_an_input_smaller_than_the_kernel_is_refused():
    check_refusal(
        lambda: trace(layers.Conv2d(4, 8, 5, dilation=2), 2, 8, 9, 4),
        "a pixel of output",
        lambda: torch.nn.Conv2d(4, 8, 5, dilation=2)(torch.zeros(2, 4, 8, 9)),
    )
    layer, twin = layers.ConvTranspose2d(4, 8, 3, padding=3), torch.nn.ConvTranspose2d(4, 8, 3, padding=3)
    check_refusal(lambda: trace(layer, 2, 2, 2, 4), "a pixel of output", lambda: twin(torch.zeros(2, 4, 2, 2)))


def test_some_of_the_outputs():
    conv, x = layers.Conv2d(CHANNELS, OUT, 3), normal(2, 5, 6, CHANNELS)
    variables = conv.init(jax.random.key(0), x)
    whole, some = jax.jit(lambda v, x: (conv.apply(v, x), conv.apply(v, x, outputs=slice(2, 5))))(variables, x)
    np.testing.assert_allclose(some, whole[..., 2:5], rtol=1e-12)
    with pytest.raises(ValueError, match="expected groups=1 with outputs, got 2"):
        layers.Conv2d(CHANNELS, OUT, 3, groups=2).apply({}, x, outputs=slice(2))
