"""The published spatial transformers from one class; at first each is the identity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import flax_attn as fa
from convert import plan
from tests.helpers.layer import check_refusal, normal
from tests.helpers.tolerances import assert_close
from torch_ref.blocks import spatial_transformer as twins


@pytest.mark.parametrize(
    ("arguments", "shape", "widths"),
    [
        ({}, (28, 28, 1), {"localization.3": (10, 8, 5, 5), "fc_loc.0": (32, 90), "fc_loc.2": (6, 32)}),
        (
            dict(in_channels=3, size=(24, 94), channels=(32, 32), kernel_sizes=(3, 5), pools=(2, 3)),
            (24, 94, 3),
            {"localization.0": (32, 3, 3, 3), "localization.3": (32, 32, 5, 5), "fc_loc.0": (32, 896)},
        ),
    ],
    ids=["tutorial", "licence-plates"],
)
def test_a_fresh_spatial_transformer_is_the_identity(arguments, shape, widths):
    x = jnp.asarray(normal(2, *shape, dtype="float32"))
    module = fa.SpatialTransformer(**arguments)
    y, _ = module.init_with_output(jax.random.key(0), x)
    np.testing.assert_allclose(y, x, atol=1e-4)
    keys = {row.key: row.torch_shape for row in plan(module, x).rows}
    assert keys.items() >= {(f"{name}.weight", width) for name, width in widths.items()}
    assert len(keys) == 8
    twin = twins.SpatialTransformer(**arguments)
    assert {k: tuple(v.shape) for k, v in twin.state_dict().items()} == keys


@pytest.mark.parametrize(("align_corners", "width"), [(False, 11), (True, 10)])
def test_the_era_of_a_checkpoint_says_how_far_a_pixel_is(align_corners, width):
    x = jnp.asarray(normal(1, 9, 11, 2))
    arguments = dict(in_channels=2, size=(9, 11), channels=(5,), kernel_sizes=(2,), pools=(3,), hidden=6)
    module = fa.SpatialTransformer(**arguments, align_corners=align_corners)
    variables = module.init(jax.random.key(0), x)
    variables["params"]["fc_loc"]["2"]["bias"] = jnp.asarray([1, 0, 2 / width, 0, 1, 0])
    assert_close(module.apply(variables, x), np.pad(x[:, :, 1:], [(0, 0), (0, 0), (0, 1), (0, 0)]))


@pytest.mark.parametrize(
    ("kwargs", "sentence", "theirs"),
    [
        (
            dict(channels=(8,)),
            r"SpatialTransformer: expected as many channels as kernel_sizes and pools, got \[1, 2, 2\]",
            lambda: twins.SpatialTransformer(channels=(8,)),
        ),
        (dict(size=(7, 7)), r"leaves a pixel after .*, got \(7, 7\)", None),
    ],
)
def test_construction_is_checked(kwargs, sentence, theirs):
    check_refusal(lambda: fa.SpatialTransformer(**kwargs), sentence, theirs)


def test_an_image_of_another_size_is_refused_on_both_sides():
    x = normal(2, 40, 28, 1, dtype="float32")
    check_refusal(
        lambda: fa.SpatialTransformer().init(jax.random.key(0), jnp.asarray(x)),
        r"SpatialTransformer: expected an image of height and width \(28, 28\), got shape \(2, 40, 28, 1\)",
        lambda: twins.SpatialTransformer()(torch.tensor(np.moveaxis(x, -1, 1))),
    )
