"""The forms of a convolution agree with ``lax``; every platform but the CPU gets the plain convolution."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from flax_attn.layers import Conv2d, dots_saveable
from flax_attn.layers.convolution import convolution
from flax_attn.layers.convolution_forms import pixels_together
from flax_attn.layers.convolution_shapes import Convolution
from flax_attn.layers.convolution_threads import LIBRARY_LACKS_THREADS, xla

CASES = {
    "pointwise": ((2, 5, 4, 6), (1, 1, 6, 3), {}),
    "pointwise with strides": ((2, 5, 6, 4), (1, 1, 4, 3), dict(strides=(2, 3), pads=((0, 1), (1, 0)))),
    "pointwise between zeros": ((2, 3, 4, 4), (1, 1, 4, 3), dict(lhs_dilation=(2, 1))),
    "depthwise": ((2, 5, 4, 3), (3, 2, 1, 3), dict(groups=3, pads=((1, 1), (0, 2)))),
    "depthwise twice": (
        (2, 7, 6, 2),
        (3, 3, 1, 4),
        dict(groups=2, strides=(2, 2), dilation=(1, 2), pads=((2, 1),) * 2),
    ),
    "depthwise on a volume": ((1, 3, 4, 3, 2), (2, 1, 3, 1, 2), dict(groups=2, strides=(1, 2, 1))),
    "depthwise between zeros": ((1, 3, 4, 3), (3, 3, 1, 3), dict(groups=3, lhs_dilation=(2, 2), pads=((2, 2),) * 2)),
    "narrow groups": ((2, 5, 4, 8), (3, 3, 2, 12), dict(groups=4, pads=((1, 1), (1, 1)))),
    "many narrow groups": ((1, 4, 5, 48), (2, 3, 2, 24), dict(groups=24, strides=(1, 2), pads=((0, 1), (1, 1)))),
    "groups of five": ((2, 4, 5, 40), (2, 3, 5, 24), dict(groups=8, strides=(1, 2), pads=((0, 1), (1, 1)))),
    "groups of four, dilated": ((2, 6, 9, 8), (3, 3, 4, 6), dict(groups=2, strides=(2, 1), dilation=(1, 2))),
    "wide groups": ((1, 3, 3, 66), (2, 2, 33, 4), dict(groups=2)),
    "groups of a signal": ((2, 9, 4), (3, 2, 6), dict(groups=2, strides=(2,), dilation=(2,))),
    "many channels": ((2, 5, 4, 3), (3, 3, 3, 512), dict(pads=((1, 1), (1, 1)))),
    "many channels with strides": ((1, 7, 6, 3), (3, 2, 3, 512), dict(strides=(2, 2), pads=((-1, 2), (1, 0)))),
    "fewer pixels than in the kernel": ((2, 2, 3, 17), (3, 3, 17, 18), dict(pads=((1, 1), (1, 1)))),
    "many channels of a volume": ((1, 3, 4, 5, 2), (2, 1, 3, 2, 512), dict(dilation=(2, 1, 1))),
    "64 channels": ((2, 27, 28, 64), (3, 3, 64, 65), dict(pads=((2, 0), (1, 1)))),
    "some channels": ((2, 13, 7, 18), (3, 3, 18, 17), dict(pads=((1, 1), (1, 1)))),
    "some channels without pads": ((2, 15, 14, 20), (3, 2, 20, 18), {}),
    "some channels with many pads": ((1, 12, 5, 17), (3, 3, 17, 20), dict(pads=((4, 5), (0, 3)))),
    "some channels, dilated": ((2, 16, 9, 17), (2, 3, 17, 19), dict(dilation=(2, 3), pads=((1, 1), (3, 3)))),
    "some channels of a wide image": ((2, 8, 40, 18), (3, 3, 18, 18), dict(pads=((1, 1), (1, 1)))),
    "some channels with pads cut off": ((2, 18, 8, 17), (3, 3, 17, 17), dict(pads=((1, 1), (-1, 0)))),
    "one channel from two": ((2, 5, 37, 2), (3, 5, 2, 1), dict(pads=((1, 1), (2, 2)))),
    "16 channels from colours": ((1, 6, 9, 3), (3, 3, 3, 16), dict(strides=(1, 2), dilation=(2, 1))),
    "few channels with strides": (
        (2, 9, 8, 2),
        (3, 4, 2, 3),
        dict(strides=(2, 3), dilation=(2, 1), pads=((-1, 2), (3, 0))),
    ),
    "few channels between zeros": ((2, 4, 3, 2), (3, 2, 2, 3), dict(lhs_dilation=(2, 3), pads=((1, 2), (1, -1)))),
    "few channels": ((1, 5, 6, 2), (3, 3, 2, 3), dict(pads=((1, 1), (1, 1)))),
}


def geometry(axes, given):
    plain = dict(strides=(1,) * axes, pads=((0, 0),) * axes, dilation=(1,) * axes, lhs_dilation=(1,) * axes, groups=1)
    return {**plain, **given}


def both(name):
    """Our convolution and that of ``lax``, and random arrays for them: x, kernel, tangents of both, cotangent."""
    shape, kernel_shape, given = CASES[name]
    window = geometry(len(shape) - 2, given)
    conv = Convolution.of(shape, kernel_shape, **window)
    rng = np.random.default_rng(0)
    arrays = [jnp.asarray(rng.normal(size=s)) for s in (shape, kernel_shape, shape, kernel_shape, conv.output)]
    return (lambda x, k: convolution(x, k, **window)), (lambda x, k: xla(conv, "output", x, k)), arrays


def close(ours, theirs):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10), ours, theirs)


def derivatives(convolve):
    """The output, the gradients of x and kernel, the directional derivative, and a second derivative."""

    def compute(x, kernel, dx, dkernel, g):
        y, pull = jax.vjp(convolve, x, kernel)
        _, push = jax.jvp(convolve, (x, kernel), (dx, dkernel))
        second = jax.grad(lambda *both: sum(map(jnp.vdot, pull_of(*both, g), (dx, dkernel))), (0, 1))(x, kernel)
        return y, pull(g), push, second

    def pull_of(x, kernel, g):
        return jax.vjp(lambda *both: jnp.sin(convolve(*both)), x, kernel)[1](g)

    return jax.jit(compute)


@pytest.mark.parametrize("name", CASES)
def test_a_form_is_the_convolution_and_so_are_its_derivatives(name):
    ours, theirs, arrays = both(name)
    close(derivatives(ours)(*arrays), derivatives(theirs)(*arrays))


@pytest.mark.parametrize("name", ["narrow groups", "few channels with strides", "fewer pixels than in the kernel"])
def test_gradients_in_a_loop_are_convolutions_that_a_cpu_does_fast(name):
    ours, _, (x, kernel, *_) = both(name)

    def step(both, _):
        return jax.grad(lambda both: jnp.sin(ours(*both)).sum())(both), None

    text = jax.jit(lambda *both: jax.lax.scan(step, both, length=3)).lower(x, kernel).compile().as_text()
    assert set(re.findall(r"dim_labels=([^,\s]+)", text)) == {"b01f_01io->b01f"}


@pytest.mark.skipif(not LIBRARY_LACKS_THREADS, reason="YNNPACK of this jaxlib computes on all threads")
@pytest.mark.parametrize("name", ["some channels", "some channels without pads"])
def test_a_library_with_one_thread_is_avoided(name):
    ours, theirs, (x, kernel, *_, g) = both(name)
    x, kernel, g = (jnp.asarray(a, jnp.float32) for a in (x, kernel, g))

    def text(convolve):
        return jax.jit(lambda *both: jax.vjp(convolve, *both)[1](g)).lower(x, kernel).compile().as_text()

    assert "ynn_fusion" in text(theirs)
    assert "ynn_fusion" not in text(ours)


@pytest.mark.parametrize(("stride", "together"), [(1, 8), (3, 8), (4, 1), (100, 1)])
def test_pixels_are_computed_as_one_where_their_windows_overlap(stride, together):
    window = geometry(2, dict(strides=(1, stride)))
    assert pixels_together(Convolution.of((1, 9, 900, 3), (4, 4, 3, 8), **window)) == together


@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0), (2, 1)], ids=str)
def test_a_form_can_be_mapped(axes):
    ours, theirs, (x, kernel, *_) = both("narrow groups")
    arrays = [a if axis is None else np.stack([a, -2 * a], axis) for a, axis in zip((x, kernel), axes, strict=True)]

    def mapped(convolve):
        return jax.jit(jax.vmap(jax.grad(lambda *both: jnp.sin(convolve(*both)).sum(), (0, 1)), axes))

    close(mapped(ours)(*arrays), mapped(theirs)(*arrays))


@pytest.mark.parametrize("name", ["pointwise with strides", "depthwise", "narrow groups", "many channels"])
def test_a_tpu_gets_the_plain_convolution(name):
    ours, theirs, arrays = both(name)
    x, kernel, *_ = (jnp.asarray(a, jnp.float32) for a in arrays)

    def text(convolve):
        gradient = jax.jit(jax.value_and_grad(lambda *both: jnp.square(convolve(*both)).sum(), (0, 1)))
        return gradient.trace(x, kernel).lower(lowering_platforms=("tpu",)).as_text()

    assert text(ours) == text(theirs)


def test_precision_is_that_of_the_call():
    ours, _, (x, kernel, *_) = both("pointwise")

    def convolve(x, kernel):
        with jax.default_matmul_precision("highest"):
            return ours(x, kernel)

    text = jax.jit(convolve).trace(x, kernel).lower(lowering_platforms=("tpu",)).as_text()
    assert text.count("#stablehlo<precision HIGHEST>") == 2


def test_a_policy_of_checkpoint_can_keep_the_result():
    layer, x = Conv2d(3, 4, 1), jnp.ones((1, 5, 4, 3))
    variables = layer.init(jax.random.key(0), x)

    def convolutions(policy):
        loss = jax.checkpoint(lambda x: jnp.sin(layer.apply(variables, x)).sum(), policy=policy)
        text = jax.jit(jax.value_and_grad(loss)).trace(x).lower(lowering_platforms=("tpu",)).as_text()
        return text.count("stablehlo.convolution")

    assert convolutions(None) == 3
    assert convolutions(dots_saveable) == 2


def test_a_convolution_can_be_transposed():
    ours, theirs, (x, kernel, *_, g) = both("narrow groups")
    close(*(jax.linear_transpose(lambda x, f=f: f(x, kernel), x)(g) for f in (ours, theirs)))


@pytest.mark.parametrize("name", ["pointwise", "depthwise"])
def test_without_jit_and_on_a_mesh(name):
    ours, theirs, (x, kernel, *_, g) = both(name)
    close(ours(x, kernel), theirs(x, kernel))
    explicit, auto = (jax.make_mesh((1,), ("data",), axis_types=(kind,)) for kind in (AxisType.Explicit, AxisType.Auto))
    with jax.set_mesh(explicit):
        placed = jax.device_put(x, jax.NamedSharding(explicit, P("data")))
        close(jax.jit(ours)(placed, kernel), theirs(x, kernel))
    manual = jax.shard_map(ours, mesh=auto, in_specs=(P("data"), P()), out_specs=P("data"))
    close(jax.jit(lambda *both: jax.vjp(manual, *both)[1](g))(x, kernel), jax.vjp(theirs, x, kernel)[1](g))


def test_lengths_that_are_not_known_can_be_exported():
    ours, theirs, (x, kernel, *_) = both("narrow groups")
    shape = jax.export.symbolic_shape(f"n, h, {x.shape[2]}, {x.shape[3]}")
    exported = jax.export.export(jax.jit(ours))(jax.ShapeDtypeStruct(shape, x.dtype), kernel)
    close(exported.call(x, kernel), theirs(x, kernel))


def test_without_jit_a_convolution_is_compiled_once(monkeypatch):
    ours, _, (x, kernel, *_) = both("narrow groups")
    ours(x, kernel)
    monkeypatch.setattr("flax_attn.layers.convolution.fastest", None)
    ours(x, kernel)


def test_half_precision_is_summed_in_float32():
    ours, theirs, (x, kernel, *_) = both("many narrow groups")
    half = [jnp.asarray(a, jnp.bfloat16) for a in (x, kernel)]
    y = jax.jit(ours)(*half)
    exact = theirs(*(a.astype(jnp.float64) for a in half))
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(y.astype(jnp.float64), exact, rtol=2**-8, atol=1e-6)
