"""A module takes its precision and its initialisers from the modules that contain it, inside linen's transforms too."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from convert import from_torch, to_torch
from flax_attn.layers import BatchNorm1d, Identity, InitRule, Linear, Module, ModuleList, Sequential, init


class Block(Module):
    width: int

    def setup(self):
        self.linear = Linear(self.width, self.width)

    def __call__(self, x, train=False):
        return self.linear(x)


class Network(Module):
    cls: type = Block

    def setup(self):
        self.encoder1 = self.cls(4)
        self.encoder2 = Sequential([Linear(4, 4), BatchNorm1d(4)])
        self.head = self.cls(4)

    def __call__(self, x, train=False):
        return self.head(self.encoder2(self.encoder1(x, train), train), train)


class RuledNetwork(Network):
    init_rules = (
        InitRule(Linear, "kernel", init.constant(1.0), under="encoder"),
        InitRule(Linear, "kernel", init.constant(2.0), under="head"),
        InitRule(Module, "bias", init.constant(3.0)),
    )


class Outer(Module):
    cls: type = Block

    init_rules = (InitRule(Linear, "kernel", init.constant(5.0), under="second.head"),)

    def setup(self):
        self.first = RuledNetwork(self.cls)
        self.second = RuledNetwork(self.cls)

    def __call__(self, x, train=False):
        return self.second(self.first(x, train), train)


BLOCKS = {"plain": Block, "remat": nn.remat(Block), "jit": nn.jit(Block), "remat of jit": nn.remat(nn.jit(Block))}
every_transform = pytest.mark.parametrize("cls", BLOCKS.values(), ids=BLOCKS)
X = jnp.ones((2, 4), jnp.float32)


def leaves(module):
    """The parameters by path; all elements of each are equal."""
    variables = module.init(jax.random.key(0), X)
    return {".".join(path): float(np.unique(leaf).item()) for path, leaf in flatten_dict(variables["params"]).items()}


@every_transform
def test_rules_hold_under_their_prefix(cls):
    assert leaves(RuledNetwork(cls)) == {
        "encoder1.linear.kernel": 1,
        "encoder1.linear.bias": 3,
        "encoder2.0.kernel": 1,
        "encoder2.0.bias": 3,
        "encoder2.1.scale": 1,
        "encoder2.1.bias": 3,
        "head.linear.kernel": 2,
        "head.linear.bias": 3,
    }


@every_transform
def test_the_outermost_network_wins_and_a_path_begins_at_its_own_network(cls):
    kernels = {path: value for path, value in leaves(Outer(cls)).items() if path.endswith("linear.kernel")}
    assert kernels == {
        "first.encoder1.linear.kernel": 1,
        "first.head.linear.kernel": 2,
        "second.encoder1.linear.kernel": 1,
        "second.head.linear.kernel": 5,
    }


def test_a_name_is_not_the_prefix_of_its_sibling():
    class Siblings(Module):
        def setup(self):
            self.net = RuledNetwork()
            self.net2 = Block(4)

        def __call__(self, x, train=False):
            return self.net2(self.net(x, train), train)

    kernel = Siblings().init(jax.random.key(0), X)["params"]["net2"]["linear"]["kernel"]
    assert len(np.unique(kernel)) > 1


@every_transform
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, None])
def test_precision_of_the_network_holds_in_every_part(cls, dtype):
    network = Network(cls, dtype=dtype, param_dtype=dtype)
    y, variables = network.init_with_output(jax.random.key(0), X)
    assert y.dtype == (dtype or jnp.float32)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(dtype or jnp.float32)}
    bound = network.bind(variables)
    assert bound.encoder1(X).dtype == network.clone().apply(variables, X).dtype == y.dtype
    part, own = bound.encoder1.unbind()
    assert part.apply(own, X).dtype == y.dtype


@every_transform
def test_precision_given_in_the_middle_holds_below_it(cls):
    class Middle(Module):
        def setup(self):
            self.inner = Sequential([cls(4), Sequential([Linear(4, 4)])], dtype=jnp.float16, param_dtype=jnp.float16)
            self.last = Sequential([Linear(4, 4, dtype=jnp.float32), cls(4)])

        def __call__(self, x, train=False):
            inner = self.inner(x, train)
            first = self.last.layers[0](inner, train)
            return inner, first, self.last.layers[1](first, train)

    outputs, variables = Middle(dtype=jnp.bfloat16).init_with_output(jax.random.key(0), X)
    assert [y.dtype for y in outputs] == [jnp.float16, jnp.float32, jnp.bfloat16]
    dtypes = {".".join(path): leaf.dtype for path, leaf in flatten_dict(variables["params"]).items()}
    assert {path.split(".")[0]: dtype for path, dtype in dtypes.items()} == {"inner": jnp.float16, "last": jnp.float32}


def test_vmap_and_scan_hand_precision_on():
    class Repeated(Module):
        @nn.compact
        def __call__(self, x, train=False):
            split = dict(variable_axes={"params": 0}, split_rngs={"params": True})
            x = nn.vmap(Block, in_axes=None, axis_size=3, **split)(4, name="side_by_side")(self.cast(x)).sum(0)
            step = nn.scan(lambda block, x, _: (block(x), None), length=2, **split)
            return step(Block(4, name="one_after_another"), x, None)[0]

    y, variables = Repeated(dtype=jnp.bfloat16, param_dtype=jnp.float16).init_with_output(jax.random.key(0), X)
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float16")}


def test_a_jitted_part_is_compiled_for_each_precision():
    for dtype in (jnp.bfloat16, jnp.float16):
        network = Network(nn.jit(Block), dtype=dtype)
        assert network.init_with_output(jax.random.key(0), X)[0].dtype == dtype


class Buffers(Module):
    """Two buffers from arrays, one of numpy, and one from a number."""

    def setup(self):
        self.mask = self.buffer("mask", np.arange(6).reshape(2, 3) % 2 == 0)
        self.index = self.buffer("index", jnp.arange(3, dtype=jnp.int16))
        self.offset = self.buffer("offset", 1.5, (3,))

    def __call__(self, x, train=False):
        if train and not self.is_initializing():
            self.index.value = self.index.value + 1
        return jnp.where(self.mask.value, x, 0) * self.index.value + self.offset.value


def test_a_buffer_has_the_shape_and_the_dtype_of_its_array():
    module, x = Buffers(param_dtype=jnp.bfloat16), jnp.ones((2, 3), jnp.float32)
    y, variables = module.init_with_output(jax.random.key(0), x, train=True)
    np.testing.assert_array_equal(y, [[1.5, 1.5, 3.5], [1.5, 2.5, 1.5]])
    stats = variables["batch_stats"]
    assert {name: (leaf.shape, leaf.dtype.name) for name, leaf in stats.items()} == {
        "mask": ((2, 3), "bool"),
        "index": ((3,), "int16"),
        "offset": ((3,), "bfloat16"),
    }
    assert all(isinstance(leaf, jax.Array) for leaf in stats.values())
    _, changed = module.apply(variables, x, train=True, mutable=["batch_stats"])
    np.testing.assert_array_equal(changed["batch_stats"]["index"], [1, 2, 3])


def test_a_buffer_has_its_name_in_pytorch_too():
    x = jnp.ones((2, 3), jnp.float32)
    module = Sequential([Linear(3, 3), Buffers()])
    state = to_torch(module, module.init(jax.random.key(0), x), x)
    assert {key: value.dtype.name for key, value in state.items() if key.startswith("1.")} == {
        "1.mask": "bool",
        "1.index": "int16",
        "1.offset": "float32",
    }
    given = {**state, "1.mask": ~state["1.mask"], "1.index": state["1.index"] + 5}
    variables = from_torch(module, given, x)
    np.testing.assert_array_equal(variables["batch_stats"]["1"]["mask"], given["1.mask"])
    np.testing.assert_array_equal(variables["batch_stats"]["1"]["index"], [5, 6, 7])


def test_a_buffer_is_a_copy_of_its_array():
    array = np.zeros(3)

    class Copied(Module):
        @nn.compact
        def __call__(self, x, train=False):
            return x + self.buffer("offset", array).value

    variables = Copied().init(jax.random.key(0), X[:, :3])
    array += 1
    np.testing.assert_array_equal(variables["batch_stats"]["offset"], 0)


def test_a_number_without_a_shape_is_no_buffer():
    class Number(Module):
        @nn.compact
        def __call__(self, x, train=False):
            return x + self.buffer("offset", 1.0).value

    with pytest.raises(ValueError, match=r"buffer: expected an array, or a number and a shape, for 'offset', got 1\.0"):
        Number().init(jax.random.key(0), X)


def test_a_network_can_be_tabulated():
    assert "encoder2" in nn.tabulate(Network(), jax.random.key(0))(X)


class Scaled(Module):
    """Has helpers without ``train``, which linen does not wrap: one creates a parameter, one uses a child."""

    def setup(self):
        self.inner = Linear(4, 4)

    def scale(self):
        return self.parameter("scale", nn.initializers.ones, (4,))

    def project(self, x):
        return self.inner(x) * 2

    def __call__(self, x, train=False):
        return self.project(x)


class CompactScaled(Scaled):
    @nn.compact
    def __call__(self, x, train=False):
        return self.project(x) * self.scale()


@pytest.mark.parametrize("cls", [Scaled, CompactScaled])
def test_a_helper_may_be_called_from_inside_and_as_a_method(cls):
    module = cls()
    y, variables = module.init_with_output(jax.random.key(0), X)
    assert ("scale" in variables["params"]) == (cls is CompactScaled)
    assert jnp.array_equal(module.apply(variables, X, method="project"), y)
    assert "inner" in module.tabulate(jax.random.key(0), X)


def test_a_bound_module_may_be_called_any_number_of_times(monkeypatch):
    class Twice(Module):
        @nn.compact
        def __call__(self, x, train=False):
            return Linear(3, 3)(Linear(3, 3)(x))

    class Many(Module):
        count: int

        def setup(self):
            self.all = ModuleList([Identity() for _ in range(self.count)])

        def __call__(self, x, train=False):
            return x

    monkeypatch.setattr("flax_attn.layers.arguments.CHILDREN", 10)
    x = jnp.ones((2, 3))
    bound = Twice().bind(Twice().init(jax.random.key(0), x))
    for _ in range(20):
        bound(x)
    Many(3).init(jax.random.key(0), x)
    with pytest.raises(ValueError, match="Many: expected arguments that make at most 10 layers, got more"):
        Many(11).init(jax.random.key(0), x)
