"""What a user meets who writes a network of his own: each trap ends in one sentence that names the remedy."""

import warnings

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from convert import plan
from flax_attn.layers import (
    BatchNorm1d,
    Dropout,
    FrozenBatchNorm2d,
    Linear,
    Module,
    ModuleDict,
    ModuleList,
    Sequential,
    frozen,
    relu,
)

X = jnp.ones((3, 4))


class Apply(Module):
    """Calls what ``setup`` of a subclass has put under ``head``."""

    def __call__(self, x, train=False):
        head = self.head
        return (head if callable(head) else next(iter(head.values())) if hasattr(head, "values") else head[0])(x)


class ArgumentAndChild(Apply):
    head: type

    def setup(self):
        self.head = self.head(4, 4)


class ChangedArgument(Apply):
    width: int

    def setup(self):
        self.width = 2 * self.width


class Twice(Apply):
    def setup(self):
        self.head = Linear(4, 4)
        self.head = Linear(4, 4)


class PlainList(Apply):
    def setup(self):
        self.head = [Linear(4, 4), relu]


class PlainDict(Apply):
    def setup(self):
        self.head = {"a": Linear(4, 4)}


class NestedList(Apply):
    def setup(self):
        self.head = ([Linear(4, 4)], [Linear(4, 4)])


class ListArgument(Apply):
    head: list


class Taken(Apply):
    def setup(self):
        self.context = Linear(4, 4)


class TakenByLinen(Apply):
    def setup(self):
        self.copy = Linear(4, 4)


TRAPS = [
    (ArgumentAndChild(Linear), "ArgumentAndChild: 'head' is both an argument and a child; give the child another name"),
    (ChangedArgument(4), "ChangedArgument: 'width' is an argument, which setup cannot change; assign to another name"),
    (Twice(), "Twice: 'head' is assigned twice in setup; give each child a name of its own"),
    (PlainList(), "PlainList: 'head' is a plain list .* with 'head_0'; use ModuleList"),
    (PlainDict(), "PlainDict: 'head' is a plain dict .* with 'head_a'; use ModuleDict"),
    (NestedList(), "NestedList: 'head' is a plain list .*; use ModuleList"),
    (ListArgument([Linear(4, 4)]), "ListArgument: the argument 'head' is a plain list .* 'head_0'; use ModuleList"),
    (
        ListArgument({"a": Linear(4, 4)}),
        "ListArgument: the argument 'head' is a plain dict .* 'head_a'; use ModuleDict",
    ),
    (Taken(), "Taken: 'context' is an attribute of every Module; give the child another name"),
    (TakenByLinen(), "TakenByLinen: 'copy' is an attribute of every Module; give the child another name"),
]


@pytest.mark.parametrize(("module", "sentence"), TRAPS, ids=lambda value: type(value).__name__)
def test_a_child_that_pytorch_would_not_have_is_refused(module, sentence, no_annotation_checks):
    with pytest.raises(TypeError, match=sentence) as caught:
        jax.eval_shape(module.init, jax.random.key(0), X)
    assert "\n" not in str(caught.value)


def test_lists_that_hold_no_child_of_their_own_are_allowed():
    class Fine(Module):
        given: list

        def setup(self):
            self.first = Linear(4, 4)
            self.twice = [self.first, self.first]
            self.rest = ModuleList(self.given)
            self.downsample = None
            self.downsample = Linear(4, 4)

        def __call__(self, x, train=False):
            return self.downsample(self.rest[0](self.twice[1](self.twice[0](x))))

    keys = plan(Fine([Linear(4, 4)]), X).shapes
    assert {key.removesuffix(".weight") for key in keys if "weight" in key} == {"first", "rest.0", "downsample"}


def test_a_child_keeps_a_key_that_is_taken():
    class Named(Module):
        norm: type

        def setup(self):
            self.norm1 = self.norm(4, name="norm")
            self.context1 = Linear(4, 4, name="context")

        def __call__(self, x, train=False):
            return self.norm1(self.context1(x), train)

    keys = {key.rpartition(".")[0] for key in plan(Named(BatchNorm1d), X).shapes}
    assert keys == {"norm", "context"}


def test_a_list_in_a_network_of_linen_is_allowed():
    class Plain(nn.Module):
        given: list

        def setup(self):
            self.own = [Linear(4, 4)]

        def __call__(self, x):
            return self.own[0](self.given[0](x))

    assert set(Plain([Linear(4, 4)]).init(jax.random.key(0), X)["params"]) == {"given_0", "own_0"}


def test_a_name_that_linen_does_not_reserve_is_free():
    class Named(Module):
        def setup(self):
            self.outer = Linear(4, 4)

        def __call__(self, x, train=False):
            return self.outer(x)

    assert set(plan(Named(), X).shapes) == {"outer.weight", "outer.bias"}


class Block(Module):
    def setup(self):
        self.linear = Linear(4, 4)
        self.bn = BatchNorm1d(4)
        self.drop = Dropout(0.5)

    def __call__(self, x, train=False):
        return self.drop(self.bn(self.linear(x), train), train)


class Deaf(Module):
    """A block that has no argument ``train``, and hands none on."""

    def setup(self):
        self.block = Block()

    def __call__(self, x):
        return self.block(x)


class Net(Module):
    """Hands ``train`` on to the blocks at ``heard`` only."""

    heard: tuple = ()
    cls: type = Block

    def setup(self):
        self.blocks = ModuleList([self.cls() for _ in range(6)])
        self.last = Sequential(BatchNorm1d(4), Linear(4, 2))

    def __call__(self, x, train=False):
        for i, block in enumerate(self.blocks):
            x = block(x, train) if i in self.heard else block(x)
        return self.last(x, train)


def train(module, transform=jax.jit):
    """The messages of the warnings of one step."""
    variables = module.init(jax.random.key(0), X)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        rngs = {"dropout": jax.random.key(1)}
        transform(lambda v: module.apply(v, X, train=True, mutable=["batch_stats"], rngs=rngs)[0])(variables)
    return [str(warning.message) for warning in caught]


ALL = tuple(range(6))


def test_a_block_that_is_not_told_to_train_is_named():
    (message,) = train(Net(heard=(0, 1, 3, 4, 5)))
    assert message == (
        "Net: called with train=True, but train=False reached Block at 'blocks.2', where BatchNorm and Dropout now do "
        "not train; hand train on, as in layer(x, train), or call the layer inside `with flax_attn.layers.frozen():`"
    )


def test_three_blocks_are_named_and_the_others_counted():
    (message,) = train(Net())
    assert "Block at 'blocks.0', Block at 'blocks.1', Block at 'blocks.2', 3 more, where" in message


def test_a_network_that_hands_train_on_is_not_warned():
    assert train(Net(heard=ALL)) == []
    assert train(Net(heard=ALL, cls=nn.remat(Block, static_argnums=(2,)))) == []
    assert train(Net(heard=ALL, cls=nn.jit(Block, static_argnums=(2,)))) == []


def test_the_warning_comes_without_jit_and_inside_transforms():
    assert len(train(Net(), lambda f: f)) == 1
    assert len(train(Net(cls=nn.remat(Block)))) == 1
    assert "Deaf" not in train(Net(cls=Deaf))[0]
    assert "Block at 'blocks.0.block'" in train(Net(cls=Deaf))[0]


def test_train_is_found_where_it_is_given():
    class Keyword(Module):
        def setup(self):
            self.block = Block()

        def __call__(self, *xs, train=True):
            return self.block(sum(xs), train=train)

    class Calls(Module):
        told: dict

        def setup(self):
            self.inner = Keyword()

        def __call__(self, x, train=False):
            return self.inner(x, x, **self.told)

    assert train(Calls({})) == train(Calls({"train": True})) == []
    assert "Keyword at 'inner'" in train(Calls({"train": False}))[0]


def test_evaluation_and_a_network_of_linen_are_not_warned():
    class Plain(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            return Block()(x)

    assert train(Plain()) == []
    Net().init_with_output(jax.random.key(0), X)


def test_a_part_is_frozen_on_purpose():
    class Frozen(Module):
        def setup(self):
            self.backbone = Net()
            self.head = Block()

        def __call__(self, x, train=False):
            with frozen():
                x = self.backbone(x)
            return jnp.concatenate([x, x], -1) + self.head(jnp.concatenate([x, x], -1), train)

    assert train(Frozen()) == []


def test_layers_that_training_does_not_change_are_not_warned():
    class Still(Module):
        def setup(self):
            self.frozen = FrozenBatchNorm2d(4)
            self.batch = BatchNorm1d(4, track_running_stats=False)

        def __call__(self, x, train=False):
            return self.batch(self.frozen(x[:, None, None])[:, 0, 0])

    assert train(Still()) == []


def test_an_error_inside_a_network_leaves_no_trace():
    class Broken(Module):
        def setup(self):
            self.block = Block()

        def __call__(self, x, train=False):
            self.block(x)
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        Broken().init(jax.random.key(0), X, train=True)
    assert train(Net(heard=ALL)) == []


def test_sequential_takes_layers_one_by_one_a_list_or_a_dict():
    first, last = Linear(4, 3), Linear(3, 2)
    numbered = [Sequential(first, relu, last), Sequential([first, relu, last]), Sequential(layers=[first, relu, last])]
    for net in numbered:
        assert set(plan(net, X).shapes) == {"0.weight", "0.bias", "2.weight", "2.bias"}
        assert len(net) == 3
        assert net == net.clone() == numbered[0]
    named = Sequential({"z": first, "act": relu, "a": last})
    assert set(plan(named, X).shapes) == {"z.weight", "z.bias", "a.weight", "a.bias"}
    assert named.z.out_features == named[0].out_features == 3
    assert [layer.out_features for layer in (named[0], named[-1])] == [3, 2]
    variables, positions = named.init(jax.random.key(0), X), {"z": "0", "a": "2"}
    renamed = {"params": {positions[name]: leaves for name, leaves in variables["params"].items()}}
    assert (named.apply(variables, X) == numbered[0].apply(renamed, X)).all()
    with pytest.raises(AttributeError, match="nothing"):
        named.nothing  # noqa: B018


def test_sequential_hands_train_to_layers_that_take_it():
    net = Sequential(Deaf(), nn.Dense(4), Block())
    assert "Block at '0.block'" in train(net)[0]
    variables = net.init(jax.random.key(0), X)
    rngs = {"dropout": jax.random.key(1)}
    with pytest.warns(UserWarning, match="Sequential"):
        _, changed = net.apply(variables, X, train=True, mutable=["batch_stats"], rngs=rngs)
    assert (changed["batch_stats"]["2"]["bn"]["mean"] != 0).any()
    assert (changed["batch_stats"]["0"]["block"]["bn"]["mean"] == 0).all()


def test_a_slice_of_a_sequential_is_called():
    class Sliced(Module):
        def setup(self):
            self.features = Sequential(Linear(4, 4), relu, Linear(4, 4))

        def __call__(self, x, train=False):
            return self.features[2:](self.features[:2](x, train), train) - self.features(x, train)

    assert (Sliced().init_with_output(jax.random.key(0), X)[0] == 0).all()
    assert (Sequential()(X) == X).all()


def test_module_dict_is_read_as_a_dict():
    class Choose(Module):
        def setup(self):
            self.choices = ModuleDict({"pool": Linear(4, 4), "conv": Linear(4, 4), "keys": relu})

        def __call__(self, x, train=False):
            for name in self.choices:
                x = self.choices[name](x)
            assert "conv" in self.choices
            assert "linear" not in self.choices
            assert self.choices.conv is self.choices["conv"] is self.choices.values()[1]
            return x

    keys = {"choices.pool.weight", "choices.pool.bias", "choices.conv.weight", "choices.conv.bias"}
    assert set(plan(Choose(), X).shapes) == keys
    choices = ModuleDict([("b", Linear(4, 4)), ("a", relu)])
    assert choices.keys() == ("b", "a")
    assert choices.items()[1] == ("a", relu)
    assert len(choices) == 2
    assert len(ModuleDict()) == len(ModuleList()) == 0
    with pytest.raises(KeyError, match="'c'"):
        choices["c"]


@pytest.mark.parametrize(
    ("make", "error", "sentence"),
    [
        (lambda: Sequential(Linear), TypeError, r"Sequential: .* at 0, got the class Linear; call it, as in Linear\("),
        (
            lambda: Sequential([Linear(4, 4), 3]),
            TypeError,
            "Sequential: expected a module or a function at 1, got a int",
        ),
        (lambda: ModuleList([None]), TypeError, "ModuleList: expected a module or a function at 0, got a NoneType"),
        (lambda: ModuleDict({"a.b": relu}), ValueError, "ModuleDict: expected names .* no dot, got 'a.b'"),
        (lambda: ModuleDict({"": relu}), ValueError, "ModuleDict: expected names that are not empty"),
    ],
)
def test_what_is_no_layer_is_refused(make, error, sentence, no_annotation_checks):
    with pytest.raises(error, match=sentence):
        make()
