"""The second line of an error names the likely cause, where it is known."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convert import from_torch, plan, to_torch
from convert.state_dict import MismatchError
from flax_attn.layers import BatchNorm1d, Conv2d, ConvTranspose2d, Linear, Module

X = jnp.ones((3, 4))


class Head(Module):
    """Calls ``aux`` only in training."""

    def setup(self):
        self.fc = Linear(4, 3)
        self.norm = BatchNorm1d(3)
        self.aux = Linear(4, 2)

    def __call__(self, x, train=False):
        scores = self.norm(self.fc(x), train)
        return (scores, self.aux(x)) if train else scores


class Whole(Module):
    def setup(self):
        self.model = Head()

    def __call__(self, x, train=False):
        return self.model(x, train)


class Listed(nn.Module):
    def setup(self):
        self.layers = [Linear(4, 4), Linear(4, 3)]

    def __call__(self, x):
        return self.layers[1](self.layers[0](x))


def arrays(module, x=X, **kwargs):
    return {key: np.ones(shape, np.float32) for key, shape in plan(module, x, **kwargs).shapes.items()}


def hint(module, state_dict, x=X, **kwargs):
    """The hint of the error, which stands on the second line."""
    with pytest.raises(MismatchError) as caught:
        from_torch(module, state_dict, x, **kwargs)
    _, second, *lines = str(caught.value).splitlines()
    assert not any(line.startswith("hint") for line in lines)
    assert caught.value.hint == second.removeprefix("hint: ") * second.startswith("hint: ")
    return caught.value.hint or None


def test_a_head_of_training_is_found_with_train():
    state = arrays(Head(), train=True)
    assert hint(Head(), state) == (
        "'aux.weight' belongs to a module that is called only with train=True; call from_torch with train=True, or "
        "let the network call it `if train or self.is_initializing():`"
    )
    variables = from_torch(Head(), state, X, train=True)
    assert Head().apply(variables, X).shape == (3, 3)
    assert to_torch(Head(), variables, X, train=True).keys() == state.keys()


def test_a_head_is_found_in_a_network_that_forgets_train():
    class Forgets(Head):
        def __call__(self, x, train=False):
            return (self.norm(self.fc(x)), self.aux(x)) if train else self.norm(self.fc(x))

    assert "only with train=True" in hint(Forgets(), arrays(Head(), train=True))


@pytest.mark.parametrize("prefix", ["module.", "model.", "module.backbone."])
def test_a_prefix_of_the_state_dict(prefix):
    state = {prefix + key: value for key, value in arrays(Head()).items()}
    advice = hint(Head(), state)
    given = f"pass load(path, prefix='{prefix}'), --prefix {prefix} on the command line, or {{"
    assert advice.startswith(f"every key would match below '{prefix}'; {given}")
    state_dict = eval(advice.partition(", or ")[2], {"state_dict": state})
    from_torch(Head(), state_dict, X)


def test_a_prefix_of_the_module():
    state = arrays(Head())
    advice = hint(Whole(), state)
    assert advice.startswith("every key would match with 'model.' in front, as in the module; pass {")
    state_dict = eval(advice.partition("pass ")[2], {"state_dict": state})
    from_torch(Whole(), state_dict, X)


def test_a_plain_list_of_a_linen_network():
    state = {key.replace("_", "."): value for key, value in arrays(Listed()).items()}
    assert hint(Listed(), state) == (
        "'layers_0.weight' is 'layers.0.weight' in PyTorch, and belongs to a plain list or dict of modules; put "
        "the modules into flax_attn.layers.ModuleList"
    )


def test_layouts():
    image = jnp.ones((1, 5, 5, 4))
    linear, conv, transposed = Linear(4, 3), Conv2d(4, 3, 1), ConvTranspose2d(4, 3, 1)
    flax = {key: value.T for key, value in arrays(linear).items()}
    assert hint(linear, flax) == "'weight' has the axes of Flax, (4, 3); from_torch takes PyTorch's, (3, 4)"
    flax = {
        key: value.transpose(2, 3, 1, 0) if value.ndim == 4 else value for key, value in arrays(conv, image).items()
    }
    assert "'weight' has the axes of Flax, (1, 1, 4, 3)" in hint(conv, flax, image)
    one = "one side has a Conv, the other a ConvTranspose"
    assert one in hint(conv, arrays(transposed, image), image)
    assert one in hint(transposed, arrays(conv, image), image)
    one = "one side has a Linear, the other a Conv with kernel size 1"
    assert one in hint(linear, arrays(conv, image))
    assert one in hint(conv, arrays(linear), image)
    shuffled = {key: value.transpose(1, 2, 3, 0) if value.ndim == 4 else value for key, value in flax.items()}
    assert "the axes of 'weight' are in another order" in hint(conv, shuffled, image)


def test_no_hint_where_nothing_is_known():
    state = arrays(Head())
    assert hint(Head(), {**state, "other.weight": np.ones(3)}) is None
    assert hint(Head(), {**state, "fc.weight": np.ones((5, 7))}) is None
    assert hint(Head(), {key: value for key, value in state.items() if key != "fc.weight"}) is None
    assert hint(Linear(4, 3), {}) is None


LINEN = [
    (nn.Dense(3), X, "Linear"),
    (nn.DenseGeneral(3), X, "Linear"),
    (nn.Conv(3, (3,)), jnp.ones((1, 5, 4)), "Conv1d"),
    (nn.Conv(3, (3, 3)), jnp.ones((1, 5, 5, 4)), "Conv2d"),
    (nn.ConvTranspose(3, (3, 3, 3)), jnp.ones((1, 5, 5, 5, 4)), "ConvTranspose3d"),
    (nn.BatchNorm(use_running_average=True), X, "BatchNorm1d, BatchNorm2d or BatchNorm3d"),
    (nn.LayerNorm(), X, "LayerNorm"),
    (nn.GroupNorm(2), X, "GroupNorm"),
    (nn.Embed(5, 3), jnp.ones((3,), int), "Embedding"),
]


@pytest.mark.parametrize(("layer", "x", "instead"), LINEN, ids=lambda value: type(value).__name__)
def test_a_layer_of_linen_cannot_be_mapped(layer, x, instead):
    class Net(Module):
        def setup(self):
            self.layer = layer.clone()

        def __call__(self, x, train=False):
            return self.layer(x)

    with pytest.raises(MismatchError) as caught:
        plan(Net(), x)
    first, *lines = str(caught.value).splitlines()
    assert first == "Net cannot be mapped: 1 difference"
    kind = type(layer).__name__
    refused = f"flax.linen.{kind} does not have the keys of PyTorch's layers; use flax_attn.layers.{instead}"
    assert lines == [f"* layer: {refused}"]


def test_layers_of_linen_in_transforms_and_without_counterpart():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.RMSNorm()(nn.remat(nn.Dense)(3, name="dense")(x))

    with pytest.raises(MismatchError, match=r"dense: flax\.linen\.Dense .* use flax_attn\.layers\.Linear") as caught:
        plan(Net(), X)
    assert "RMSNorm_0: flax.linen.RMSNorm does not have the keys of PyTorch's layers; write it" in str(caught.value)
    jax.eval_shape(Net().init, jax.random.key(0), X)
