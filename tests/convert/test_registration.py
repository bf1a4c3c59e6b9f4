"""A plan lists keys and parameters in the order in which a PyTorch module registers them."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from convert import plan, to_torch
from convert.optimizers.names import names_of
from flax_attn import layers
from flax_attn.layers import BatchNorm1d, Linear, Module, ModuleDict, ModuleList, Sequential

X = jax.ShapeDtypeStruct((2, 3), jnp.float32)


def line():
    return Linear(3, 3, bias=False)


def weights(*names):
    return [f"{name}.weight" for name in names]


class Mixed(Module):
    """Its children, its buffers and its parameters are made in turn."""

    def setup(self):
        self.z = BatchNorm1d(3)
        self.count = self.buffer("count", 0.0, (3,))
        self.shift = self.parameter("shift", layers.init.zeros, (3,))
        self.a = Linear(3, 3)
        self.gain = self.parameter("gain", layers.init.zeros, (3,))

    def __call__(self, x, train=False):
        return self.z(self.a(x)) * self.gain + self.shift + self.count.value


def test_parameters_come_before_buffers_and_buffers_before_children():
    own = ["shift", "gain", "count"]
    norm = ["z.weight", "z.bias", "z.running_mean", "z.running_var"]
    mapping = plan(Mixed(), X)
    assert list(mapping.shapes) == [*own, *norm, "a.weight", "a.bias"]
    assert mapping.parameters == ("shift", "gain", "z.weight", "z.bias", "a.weight", "a.bias")
    variables = jax.jit(Mixed().init)(jax.random.key(0), jnp.ones(X.shape))
    assert list(to_torch(Mixed(), variables, X)) == list(mapping.shapes)


class Unordered(Module):
    """Is called in another order than its children are registered."""

    def setup(self):
        self.b, self.a = line(), line()
        self.rest = ModuleList([line() for _ in range(12)])

    def __call__(self, x, train=False):
        for layer in reversed(self.rest):
            x = layer(x)
        return self.b(self.a(x))


def test_the_order_is_that_of_setup_and_not_of_the_call():
    assert list(plan(Unordered(), X).shapes) == weights("b", "a", *(f"rest.{i}" for i in range(12)))


NAMES = [f"layer{i}" for i in reversed(range(12))]


class Named(Module):
    def setup(self):
        self.parts = ModuleDict({name: line() for name in NAMES})

    def __call__(self, x, train=False):
        for name in sorted(NAMES):
            x = self.parts[name](x)
        return x


def test_children_of_containers_come_in_the_order_of_the_container():
    assert list(plan(Sequential([line() for _ in range(12)]), X).shapes) == weights(*range(12))
    assert list(plan(Named(), X).shapes) == weights(*(f"parts.{name}" for name in NAMES))


class Plain(nn.Module):
    """A module of linen with a list and a compact call."""

    first: nn.Module

    def setup(self):
        self.z = line()
        self.blocks = [*(line() for _ in range(12)), self.z]
        self.head = Compact()

    def __call__(self, x):
        for block in reversed(self.blocks):
            x = block(x)
        return self.head(self.first(x))


class Compact(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = Linear(3, 3, bias=False, name="z")(x)
        x = Linear(3, 3, bias=False, name="a")(x)
        return x * self.param("gain", nn.initializers.ones, (3,))


def test_modules_of_linen_are_ordered_too():
    blocks = [f"blocks_{i}" for i in range(12)]
    expected = [*weights("first", "z", *blocks), "head.gain", *weights("head.z", "head.a")]
    assert list(plan(Plain(line()), X).shapes) == expected


class Residual(Module):
    downsample: Module | None = None

    registered_last = ("downsample", "gate")

    def setup(self):
        self.gate, self.conv = line(), line()

    def __call__(self, x, train=False):
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.gate(self.conv(x)) + shortcut


class Arguments(Residual):
    registered_last = ()


@pytest.mark.parametrize("wrap", [lambda cls: cls, nn.remat, nn.jit])
def test_a_class_says_which_children_are_registered_last(wrap):
    assert list(plan(wrap(Residual)(line()), X).shapes) == weights("conv", "downsample", "gate")
    assert list(plan(wrap(Residual)(), X).shapes) == weights("conv", "gate")
    assert list(plan(wrap(Arguments)(line()), X).shapes) == weights("downsample", "gate", "conv")


class Tied(Module):
    aliases = (("heads.11", "last"), ("heads.2", "first"))
    registered_last = ("last", "tail")

    def setup(self):
        self.first, self.last, self.tail = (Sequential([Linear(3, 3), Residual(line())]) for _ in range(3))

    def __call__(self, x, train=False):
        return self.tail(self.last(self.first(x)))


def test_a_tensor_with_two_keys_is_one_parameter():
    inside = ["0.weight", "0.bias", *weights("1.conv", "1.downsample", "1.gate")]
    mapping = plan(Tied(), X)
    keys = [f"{name}.{leaf}" for name in ("first", "heads.11", "heads.2", "last", "tail") for leaf in inside]
    assert list(mapping.shapes) == keys
    assert list(mapping.parameters) == [key for key in keys if not key.startswith("heads")]
    assert list(mapping.aliases) == [key for key in keys if key.startswith("heads")]


class Shared(Module):
    def setup(self):
        self.inner = line()
        self.outer = Arguments(self.inner)

    def __call__(self, x, train=False):
        return self.outer(x)


def test_a_child_that_two_modules_hold_has_one_key():
    assert list(plan(Shared(), X).shapes) == weights("inner", "outer.gate", "outer.conv")


class Nested(Module):
    """Python makes the outer layer of an expression first, and calls it last. A PyTorch module has them as called."""

    head: Module

    def setup(self):
        self.early = line()

    @nn.compact
    def __call__(self, x, train=False):
        x = Linear(3, 3, bias=False, name="b")(Linear(3, 3, bias=False, name="a")(x))
        x = nn.remat(Linear)(3, 3, bias=False, name="d")(self.block(x, "c"))
        return self.early(self.head(x)) + self.param("gain", nn.initializers.zeros, (3,))

    def block(self, x, name):
        return Linear(3, 3, bias=False, name=f"{name}.1")(Linear(3, 3, bias=False, name=f"{name}.0")(x))


@pytest.mark.parametrize("wrap", [lambda cls: cls, nn.remat, nn.jit])
def test_children_of_a_compact_call_come_in_the_order_of_their_calls(wrap):
    expected = ["gain", *weights("head", "early", "a", "b", "c.0", "c.1", "d")]
    assert list(plan(wrap(Nested)(line()), X).shapes) == expected


def test_a_sorted_file_of_such_a_module_has_the_order_of_the_calls():
    class Two(nn.Module):
        @nn.compact
        def __call__(self, x):
            return Linear(3, 3, bias=False, name="b")(Linear(3, 3, bias=False, name="a")(x))

    mapping = plan(Two(), X)
    assert names_of(mapping, {"a.weight": (3, 3), "b.weight": (3, 3)}).order == ("a.weight", "b.weight")
