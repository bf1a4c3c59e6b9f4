"""Finds, fills and runs the PyTorch twins. Numpy arrays go in and come out, in PyTorch's layout.

Twins are found by path: ``flax_attn.blocks.se.SELayer`` is ``torch_ref.blocks.se.SELayer`` on this side.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

Mask = Callable[[str, tuple[int, ...]], Any]
Arguments = Callable[[Sequence[Any]], tuple[Sequence[Any], Mapping[str, Any]]]


def twin(flax_object: Any) -> Any:
    """The class or function of the same name at the same path; for a layer that torch.nn has, torch.nn's."""
    path = flax_object.__module__.replace("flax_attn.", "torch_ref.", 1)
    if path.startswith("torch_ref.layers.") and hasattr(nn, flax_object.__name__):
        return getattr(nn, flax_object.__name__)
    return getattr(importlib.import_module(path), flax_object.__name__)


def twin_argument(value: Any) -> Any:
    """What a twin is given for an argument of the Flax module: twins for classes and for the catalog's ``Make``."""
    if hasattr(value, "function"):
        keywords = {key: twin_argument(v) for key, v in getattr(value, "kwargs", {}).items()}
        return twin(value.function)(*map(twin_argument, value.args), **keywords)
    return twin(value) if isinstance(value, type) else value


def build_twin(cls: Any, arguments: Mapping[str, Any]) -> nn.Module:
    """The twin of what the Flax class or constructor ``cls`` makes from ``arguments``."""
    return twin(cls)(**{key: twin_argument(value) for key, value in arguments.items()})


def fill(module: nn.Module, state_dict: Mapping[str, Any], dtype: str) -> None:
    """Copy the numpy arrays of ``state_dict`` into ``module``, which computes in ``dtype`` from then on."""
    tensors = {key: torch.tensor(value) for key, value in state_dict.items()}
    module.to(getattr(torch, dtype)).load_state_dict(tensors)


def leaves(tree: Any) -> list[Tensor]:
    """The tensors in nested tuples, lists and dicts, those of a dict in the order of its keys."""
    if isinstance(tree, Tensor):
        return [tree]
    branches = [tree[key] for key in sorted(tree)] if isinstance(tree, dict) else tree or ()
    return [leaf for branch in branches for leaf in leaves(branch)]


def outputs(module: nn.Module, arguments: Arguments, inputs: Sequence[Any]) -> list[Any]:
    """The outputs of ``module`` in eval mode.

    Args:
        arguments: makes the positional and the keyword arguments of the call from one tensor for each of ``inputs``.
    """
    args, call = arguments([torch.tensor(x) for x in inputs])
    with torch.no_grad():
        return [out.numpy() for out in leaves(module.eval()(*args, **call))]


def step(
    module: nn.Module, arguments: Arguments, inputs: Sequence[Any], cotangents: Sequence[Any], train: bool
) -> tuple[list[Any], dict[str, Any], dict[int, Any], dict[str, Any]]:
    """One forward and one backward pass, for the sum of outputs times ``cotangents``.

    Returns:
        outputs; gradients by parameter; gradients by the position of each floating point input; buffers afterwards.
    """
    module.train(train).zero_grad()
    tensors = [torch.tensor(x) for x in inputs]
    floats = {i: x.requires_grad_() for i, x in enumerate(tensors) if x.is_floating_point()}
    args, call = arguments(tensors)
    out = leaves(module(*args, **call))
    pairs = zip(out, cotangents, strict=True)
    loss = sum(((o * torch.tensor(c)).sum() for o, c in pairs if o.is_floating_point()), torch.zeros(()))
    if loss.requires_grad:
        loss.backward()
    return (
        [o.detach().numpy() for o in out],
        {name: gradient(p) for name, p in module.named_parameters()},
        {i: gradient(x) for i, x in floats.items()},
        {name: buffer.numpy().copy() for name, buffer in module.named_buffers()},
    )


def gradient(x: Tensor) -> Any:
    return (torch.zeros_like(x) if x.grad is None else x.grad).detach().numpy()


def descend(module: nn.Module, rate: float) -> None:
    """One step of gradient descent along the gradients of the last ``step``."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.grad is not None:
                parameter -= rate * parameter.grad


def share_dropout(module: nn.Module, mask: Mask) -> None:
    """Make every dropout of ``module`` multiply with ``mask(path, shape)`` in training mode."""

    def hook(path, layer, args, output):
        (x,) = args
        return x * torch.tensor(mask(path, tuple(x.shape)), dtype=x.dtype) if layer.training else x

    for path, layer in module.named_modules():
        if isinstance(layer, nn.Dropout | nn.Dropout2d):
            layer.register_forward_hook(partial(hook, path))
        elif isinstance(layer, nn.MultiheadAttention):
            dropped = partial(mask, f"{path}.attn_dropout".lstrip("."))
            layer.forward = partial(attend_with_shared_dropout, layer.forward, dropped)


def attend_with_shared_dropout(forward, mask, *args, need_weights=True, **kwargs):
    """``torch.nn.MultiheadAttention`` with a given dropout mask; the Flax side has a layer for this dropout.

    PyTorch drops weights (n*heads, q, k) by a function. Without ``need_weights`` it does so inside of one kernel, so
    the weights are always asked for.
    """

    def drop(x, p):
        return x * torch.tensor(mask(tuple(x.shape)), dtype=x.dtype)

    original = functional.dropout
    functional.dropout = drop
    try:
        out, weights = forward(*args, need_weights=True, **kwargs)
    finally:
        functional.dropout = original
    return out, weights if need_weights else None
