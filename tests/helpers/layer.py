"""One layer or function on both sides: channels last for Flax, channels first for torch."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from convert import plan
from tests.helpers.layer_cases import normal
from tests.helpers.parity import randomise
from tests.helpers.tolerances import assert_close


def array(*shape, **kwargs):
    return jnp.asarray(normal(*shape, **kwargs))


def channels_first(x):
    return np.ascontiguousarray(np.moveaxis(x, -1, 1))


def channels_last(x):
    return np.moveaxis(np.asarray(x), 1, -1)


def same(x):
    return np.asarray(x)


def tensor(x):
    return torch.tensor(np.asarray(x), requires_grad=bool(np.issubdtype(x.dtype, np.floating)))


def check_function(ours, theirs, x, *others):
    """Values and gradients of ``ours(x, *others)`` and ``theirs``; only x and the result have channels."""
    tensors = [tensor(channels_first(x)), *map(tensor, others)]
    out = theirs(*tensors)
    cotangent = normal(*out.shape, dtype=x.dtype, seed=1)
    out.backward(torch.tensor(cotangent))

    @jax.jit
    def step(cotangent, *arrays):
        y, pull = jax.vjp(ours, *arrays)
        return y, pull(cotangent)

    y, grads = step(channels_last(cotangent), x, *others)
    assert y.dtype == x.dtype
    assert_close(y, channels_last(out.detach()), x.dtype.name, "output")
    assert_close(grads[0], channels_last(tensors[0].grad), x.dtype.name, "gradient of x")
    for i, (grad, t) in enumerate(zip(grads[1:], tensors[1:], strict=True), 1):
        assert_close(grad, t.grad, x.dtype.name, f"gradient of argument {i}")


def check_values(ours, theirs, x):
    """Values only, of a function of one input with channels."""
    assert_close(jax.jit(ours)(x), channels_last(theirs(torch.tensor(channels_first(x)))))


def check_layer(layer, twin, *batches, train=False, first=channels_first, last=channels_last):
    """Values, gradients and running statistics of ``layer`` and ``twin`` on one batch after the other."""
    dtype = batches[0].dtype
    twin.to(getattr(torch, dtype.name)).train(train)
    randomise(twin, np.random.default_rng(2))
    leaves = plan(layer, batches[0])
    assert [name for name, _ in twin.named_parameters()] == list(leaves.parameters)
    assert [key for key in twin.state_dict() if key in leaves.shapes] == list(leaves.shapes)
    variables = leaves.from_torch({key: value.clone() for key, value in twin.state_dict().items()})

    @jax.jit
    def step(variables, x, cotangent):
        def loss(params, x):
            y, changed = layer.apply({**variables, "params": params}, x, train, mutable=["batch_stats"])
            return (y * cotangent).sum(), (y, changed)

        (_, (y, changed)), grads = jax.value_and_grad(loss, (0, 1), has_aux=True)(variables.get("params", {}), x)
        return y, grads, {**variables, **changed}

    for x in batches:
        twin.zero_grad()
        t = tensor(first(x))
        out = twin(t)
        cotangent = normal(*out.shape, dtype=dtype, seed=1)
        out.backward(torch.tensor(cotangent))
        y, (param_grads, x_grad), variables = step(variables, x, last(cotangent))
        assert y.dtype == dtype
        assert_close(y, last(out.detach()), dtype.name, "output")
        assert_close(x_grad, last(t.grad), dtype.name, "gradient of x")
        params = {"params": param_grads} if param_grads else {}
        grads = leaves.to_torch({**variables, **params})
        for key, parameter in twin.named_parameters():
            assert_close(grads[key], parameter.grad, dtype.name, f"gradient of {key}")
        for key, value in leaves.to_torch(variables).items():
            assert_close(value, twin.state_dict()[key], dtype.name, key)
    return variables


def check_refusal(ours, match, theirs=None):
    """``ours()`` raises one sentence as a ValueError, and ``theirs()`` raises as well."""
    with pytest.raises(ValueError, match=match) as caught:
        ours()
    assert "\n" not in str(caught.value)
    if theirs is not None:
        with pytest.raises((ValueError, RuntimeError, AssertionError, TypeError)):
            theirs()


def trace(layer, *shape, dtype="float32", **kwargs):
    """Initialise and call ``layer`` on an input of this shape, abstractly."""
    x = jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))
    return jax.eval_shape(lambda x: layer.init_with_output(jax.random.key(0), x, **kwargs), x)


def layers_of(module, *inputs):
    """Every module that ``module`` calls on ``inputs``, by path."""
    found = {}

    def record(call, args, kwargs, context):
        if context.method_name == "__call__":
            found[".".join(context.module.path)] = context.module
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        jax.eval_shape(module.init, jax.random.key(0), *inputs)
    return found
