"""One catalog entry on both sides: the Flax module and its twin with the same random numbers in them."""

import functools
import zlib

import flax.linen as nn
import jax
import numpy as np
import torch
from jax.typing import DTypeLike

from convert import plan
from flax_attn import layers
from flax_attn.catalog import IMAGE, Entry, Make
from torch_ref.twins import twin

KEEP = 0.7


def build_twin(entry: Entry) -> torch.nn.Module:
    kwargs = {k: twin(v.function)(*v.args) if isinstance(v, Make) else v for k, v in entry.kwargs.items()}
    return twin(entry.cls)(**kwargs)


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


def to_nchw(x: np.ndarray, layout: str) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(x, -1, 1)) if layout == IMAGE else x


def to_nhwc(x: np.ndarray, layout: str) -> np.ndarray:
    return np.moveaxis(x, 1, -1) if layout == IMAGE else x


def dropout_mask(path: str, shape: tuple[int, ...]) -> np.ndarray:
    """What a dropout multiplies with, the same for the modules of one path on both sides; channels last."""
    rng = np.random.default_rng(zlib.crc32(path.encode()))
    return rng.binomial(1, KEEP, shape) / KEEP


def share_dropout(call, args, kwargs, context):
    """Linen interceptor: Dropout draws ``dropout_mask``."""
    if not isinstance(context.module, layers.Dropout) or context.method_name != "__call__":
        return call(*args, **kwargs)
    train = kwargs.get("train", args[1] if len(args) > 1 else False)
    x = args[0]
    return x * dropout_mask(".".join(context.module.path), x.shape).astype(x.dtype) if train else x


def share_dropout_torch(module: torch.nn.Module) -> None:
    """The same for the twin, by forward hooks."""

    def hook(path, layer, args, output):
        x = args[0]
        shape = (x.shape[0], *x.shape[2:], x.shape[1]) if x.ndim == 4 else tuple(x.shape)
        mask = to_nchw(dropout_mask(path, shape), IMAGE if x.ndim == 4 else "plain")
        return x * torch.as_tensor(mask, dtype=x.dtype) if layer.training else x

    for path, layer in module.named_modules():
        if isinstance(layer, torch.nn.Dropout | torch.nn.Dropout2d):
            layer.register_forward_hook(functools.partial(hook, path))


class Parity:
    """Both sides of ``entry`` in ``dtype``: ``torch_step`` and ``flax_step`` return the same four things."""

    def __init__(self, entry: Entry, dtype: DTypeLike, seed: int = 0):
        self.entry, self.dtype, self.rng = entry, np.dtype(dtype), np.random.default_rng(seed)
        self.module = entry.module()
        self.twin = build_twin(entry)
        randomise(self.twin, self.rng)
        self.twin.to(getattr(torch, self.dtype.name))
        share_dropout_torch(self.twin)
        self.structs = entry.structs(self.module, self.dtype)
        state_dict = {key: tensor.clone() for key, tensor in self.twin.state_dict().items()}
        self.plan = plan(self.module, *self.structs, **entry.call)
        self.variables = self.plan.from_torch(state_dict)
        self.inputs = self.draw_inputs()

    def draw_inputs(self) -> list[np.ndarray]:
        return [self.rng.normal(size=s.shape).astype(s.dtype) for s in self.structs]

    def cotangents(self) -> list[np.ndarray]:
        shapes = jax.eval_shape(self.apply, self.variables, self.inputs)
        rng = np.random.default_rng(1)
        return [rng.normal(size=s.shape).astype(s.dtype) for s in jax.tree.leaves(shapes)]

    def apply(self, variables, inputs, **kwargs):
        return self.module.apply(variables, *inputs, **self.entry.call, **kwargs)

    @functools.cached_property
    def compiled(self):
        def step(variables, inputs, cotangents, train):
            def loss(params, inputs):
                mutable = ["batch_stats"] if train else []
                with nn.intercept_methods(share_dropout):
                    out, changed = self.apply({**variables, "params": params}, inputs, train=train, mutable=mutable)
                out = jax.tree.leaves(out)
                return sum((o * c).sum() for o, c in zip(out, cotangents, strict=True)), (out, changed)

            grads, (out, changed) = jax.grad(loss, (0, 1), has_aux=True)(variables.get("params", {}), inputs)
            return out, grads[1], grads[0], {**variables, **changed}

        return jax.jit(step, static_argnums=3)

    def flax_step(self, variables, inputs, train: bool):
        """Outputs and input gradients (channels last), parameter gradients by torch key, variables afterwards."""
        out, input_grads, param_grads, variables = self.compiled(variables, inputs, self.cotangents(), train)
        grads = self.plan.to_torch({**variables, "params": param_grads} if param_grads else variables)
        names = {name for name, _ in self.twin.named_parameters()}
        return out, input_grads, {k: v for k, v in grads.items() if k in names}, variables

    def torch_step(self, inputs, train: bool):
        """The same from the twin; its statistics are in ``state_dict()`` afterwards."""
        self.twin.train(train).zero_grad()
        layouts = [i.layout for i in self.entry.inputs]
        xs = [torch.tensor(to_nchw(x, i), requires_grad=True) for x, i in zip(inputs, layouts, strict=True)]
        out = jax.tree.leaves(self.twin(*xs, **self.entry.call))
        cotangents = [
            torch.as_tensor(to_nchw(c, o)) for c, o in zip(self.cotangents(), self.entry.outputs, strict=True)
        ]
        sum((o * c).sum() for o, c in zip(out, cotangents, strict=True)).backward()
        out = [to_nhwc(o.detach().numpy(), layout) for o, layout in zip(out, self.entry.outputs, strict=True)]
        grads = {k: np.zeros(p.shape) if p.grad is None else p.grad.numpy() for k, p in self.twin.named_parameters()}
        return out, [to_nhwc(x.grad.numpy(), i) for x, i in zip(xs, layouts, strict=True)], grads

    def descend(self, variables, grads, length=1e-2):
        """One step of gradient descent, at most ``length`` long, on both sides; returns the Flax variables."""
        rate = length / max([1.0, *(float(np.abs(g).max(initial=0)) for g in grads.values())])
        with torch.no_grad():
            for p in self.twin.parameters():
                p -= 0 if p.grad is None else rate * p.grad
        state = self.plan.to_torch(variables)
        return self.plan.from_torch(state | {k: (state[k] - rate * grads[k]).astype(self.dtype) for k in grads})
