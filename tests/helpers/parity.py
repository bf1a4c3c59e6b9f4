"""One catalog entry on both sides: the Flax module and its twin with the same random numbers in them."""

import functools
from unittest import mock

import flax.linen as nn
import jax
import numpy as np
import torch
from jax.typing import DTypeLike

from flax_attn import layers
from flax_attn.catalog import IMAGE, PLAIN, Entry, Make, channels_first, channels_last
from tests.helpers.walk import dropout_mask, entry_plan, share_dropout
from torch_ref.twins import twin


def twin_argument(value):
    """What the twin is given for an argument of the Flax module."""
    if isinstance(value, Make):
        kwargs = {name: twin_argument(v) for name, v in value.kwargs.items()}
        return twin(value.function)(*map(twin_argument, value.args), **kwargs)
    return twin(value) if isinstance(value, type) else value


def build_twin(entry: Entry) -> torch.nn.Module:
    return twin(entry.cls)(**{k: twin_argument(v) for k, v in entry.kwargs.items()})


def randomise(module: torch.nn.Module, rng: np.random.Generator) -> None:
    """Random numbers for every parameter, gamma, affine and running statistic, such that signals keep their scale."""
    for name, tensor in module.state_dict().items():
        if name.endswith("running_var"):
            value = rng.uniform(0.5, 1.5, tensor.shape)
        elif tensor.ndim > 1:
            value = rng.normal(size=tensor.shape) / np.sqrt(max(1, np.prod(tensor.shape[1:])))
        else:
            value = rng.normal(size=tensor.shape)
        if tensor.is_floating_point():
            tensor.copy_(torch.as_tensor(value))


def share_dropout_torch(module: torch.nn.Module, shapes: dict[str, set]) -> None:
    """The same for the twin, by forward hooks; ``shapes`` is what each Dropout of the Flax module is given, by path."""

    def hook(path, layer, args, output):
        x = args[0]
        shape = tuple(x.shape)
        layout = PLAIN if shape in shapes[path] else IMAGE
        last = shape if layout == PLAIN else (shape[0], *shape[2:], shape[1])
        mask = dropout_mask(path, getattr(layers, type(layer).__name__)().mask_shape(last))
        return x * torch.as_tensor(channels_first(mask, layout), dtype=x.dtype) if layer.training else x

    for path, layer in module.named_modules():
        if isinstance(layer, torch.nn.Dropout | torch.nn.Dropout2d):
            path = path if path in shapes else f"{path}0"  # torch.nn.Transformer's ``dropout`` is ours ``dropout0``
            layer.register_forward_hook(functools.partial(hook, path))
        elif isinstance(layer, torch.nn.MultiheadAttention):
            layer.forward = functools.partial(
                share_attention_dropout, f"{path}.attn_dropout".lstrip("."), layer.forward
            )


def share_attention_dropout(path, forward, *args, need_weights=True, **kwargs):
    """``torch.nn.MultiheadAttention`` drops weights (n*heads, q, k) by a function; ours has a layer for them.

    Without ``need_weights`` it does so inside of one kernel, so it is always told that it does.
    """

    def drop(x, p):
        return x * torch.as_tensor(dropout_mask(path, tuple(x.shape)), dtype=x.dtype)

    with mock.patch.object(torch.nn.functional, "dropout", drop):
        out, weights = forward(*args, need_weights=True, **kwargs)
    return out, weights if need_weights else None


def in_eval_mode(entry: Entry, twin: torch.nn.Module, rng: np.random.Generator) -> list[tuple]:
    """Pairs of the outputs of both sides, channels last, in float64 on one random input; ``twin`` has the numbers."""
    twin.double().eval()
    variables = entry_plan(entry).from_torch(twin.state_dict())
    arrays = entry.draw(entry.module(), rng, "float64")
    ours = jax.tree.leaves(jax.jit(functools.partial(entry.apply, entry.module()))(variables, arrays))
    pairs = zip(arrays, entry.inputs, strict=True)
    args, call = entry.arguments([torch.tensor(channels_first(x, i.layout)) for x, i in pairs])
    with torch.no_grad():
        theirs = jax.tree.leaves(twin(*args, **call))
    theirs = [channels_last(t.numpy(), layout) for t, layout in zip(theirs, entry.outputs, strict=True)]
    return list(zip(ours, theirs, strict=True))


class Parity:
    """Both sides of ``entry`` in ``dtype``: ``flax_step`` and ``torch_step`` give the same outputs and gradients.

    In eval mode the Flax gradient is rematerialised, so that ``jax.checkpoint`` is covered too.
    """

    def __init__(self, entry: Entry, dtype: DTypeLike, seed: int = 0):
        self.entry, self.dtype, self.rng = entry, np.dtype(dtype), np.random.default_rng(seed)
        self.module = entry.module()
        self.twin = build_twin(entry)
        randomise(self.twin, self.rng)
        self.twin.to(getattr(torch, self.dtype.name))
        self.structs = entry.structs(self.module, self.dtype)
        state_dict = {key: tensor.clone() for key, tensor in self.twin.state_dict().items()}
        self.plan = entry_plan(entry)
        self.variables = self.plan.from_torch(state_dict)
        self.inputs = self.draw_inputs()
        self.outputs, dropout_shapes = self.trace()
        share_dropout_torch(self.twin, dropout_shapes)

    def trace(self) -> tuple[list[jax.ShapeDtypeStruct], dict[str, set]]:
        """What the Flax module gives, and the shapes of what each of its Dropouts is given, by path."""
        shapes: dict[str, set] = {}

        def record(call, args, kwargs, context):
            if isinstance(context.module, layers.Dropout) and context.method_name == "__call__":
                shapes.setdefault(".".join(context.module.path), set()).add(args[0].shape)
            return call(*args, **kwargs)

        with nn.intercept_methods(record):
            outputs = jax.eval_shape(self.apply, self.variables, self.inputs)
        return jax.tree.leaves(outputs), shapes

    def draw_inputs(self) -> list[np.ndarray]:
        return self.entry.draw(self.module, self.rng, self.dtype)

    def cotangents(self) -> list[np.ndarray]:
        rng = np.random.default_rng(1)
        return [rng.normal(size=s.shape).astype(s.dtype) for s in self.outputs]

    def apply(self, variables, inputs, **kwargs):
        return self.entry.apply(self.module, variables, inputs, **kwargs)

    @functools.cached_property
    def compiled(self):
        floating = [np.issubdtype(s.dtype, np.floating) for s in self.structs]

        def step(variables, inputs, cotangents, train):
            def forward(variables, arrays):
                return self.apply(variables, arrays, train=train, mutable=["batch_stats"] if train else [])

            def loss(params, floats):
                arrays = [f if is_float else x for is_float, f, x in zip(floating, floats, inputs, strict=True)]
                run = forward if train else jax.checkpoint(forward)
                with nn.intercept_methods(share_dropout):
                    out, changed = run({**variables, "params": params}, arrays)
                out = jax.tree.leaves(out)
                return sum((o * c).sum() for o, c in zip(out, cotangents, strict=True)), (out, changed)

            floats = [x if is_float else 0.0 for is_float, x in zip(floating, inputs, strict=True)]
            grads, (out, changed) = jax.grad(loss, (0, 1), has_aux=True)(variables.get("params", {}), floats)
            return out, grads[1], grads[0], {**variables, **changed}

        return jax.jit(step, static_argnums=3)

    def flax_step(self, variables, inputs, train: bool):
        """Outputs, gradients by torch key or input position (channels last), and the variables afterwards."""
        out, input_grads, param_grads, variables = self.compiled(variables, inputs, self.cotangents(), train)
        grads = self.plan.to_torch({**variables, "params": param_grads} if param_grads else variables)
        names = {name for name, _ in self.twin.named_parameters()}
        floats = {i: g for i, g in enumerate(input_grads) if np.ndim(g)}
        return out, {k: v for k, v in grads.items() if k in names} | floats, variables

    def torch_step(self, inputs, train: bool):
        """Outputs and gradients of the twin; its statistics are in ``state_dict()`` afterwards."""
        self.twin.train(train).zero_grad()
        layouts = [i.layout for i in self.entry.inputs]
        xs = [torch.tensor(channels_first(x, i)) for x, i in zip(inputs, layouts, strict=True)]
        floats = {i: x.requires_grad_() for i, x in enumerate(xs) if x.is_floating_point()}
        args, call = self.entry.arguments(xs)
        out = jax.tree.leaves(self.twin(*args, **call))
        pairs = zip(self.cotangents(), self.entry.outputs, strict=True)
        cotangents = [torch.as_tensor(channels_first(c, layout)) for c, layout in pairs]
        loss = sum((o * c).sum() for o, c in zip(out, cotangents, strict=True))
        if loss.requires_grad:
            loss.backward()
        out = [channels_last(o.detach().numpy(), layout) for o, layout in zip(out, self.entry.outputs, strict=True)]
        grads = {k: np.zeros(p.shape) if p.grad is None else p.grad.numpy() for k, p in self.twin.named_parameters()}
        xs_grads = {i: torch.zeros_like(x) if x.grad is None else x.grad for i, x in floats.items()}
        return out, grads | {i: channels_last(g.numpy(), layouts[i]) for i, g in xs_grads.items()}

    def descend(self, variables, grads, length=1e-2):
        """One step of gradient descent, at most ``length`` long, on both sides; returns the Flax variables."""
        rate = length / max([1.0, *(float(np.abs(g).max(initial=0)) for g in grads.values())])
        with torch.no_grad():
            for p in self.twin.parameters():
                p -= 0 if p.grad is None else rate * p.grad
        first = {second: row.key for second, row in self.plan.aliases.items()}
        step = {k: rate * grads.get(first.get(k, k), 0) for k in self.plan.shapes}
        state = self.plan.to_torch(variables)
        return self.plan.from_torch({k: (v - step[k]).astype(self.dtype) for k, v in state.items()})
