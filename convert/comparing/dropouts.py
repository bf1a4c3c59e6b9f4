"""What replaces dropout while two sides are compared. Both sides would otherwise draw other numbers.

Twins have their dropouts at the same paths, and both sides multiply with the same mask. In the modules of a user,
paths differ, so dropout multiplies with a constant there. The constant is another one for another rate or class.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import numpy as np

from flax_attn import layers

KEEP = 0.7
"""The share of values that the shared dropout masks keep."""

SHARES = {"Dropout": 1 / 2, "Dropout1d": 1 / 3, "Dropout2d": 1 / 3, "Dropout3d": 1 / 3, "DropPath": 1 / 4}
"""Of each class of dropout, the share of its rate by which ``factor`` is below 1."""

RECURRENT = ("LSTM", "GRU", "RNN")
"""Layers whose dropout PyTorch computes in one kernel, where it cannot be replaced: it is left out on both sides."""

Masks = Mapping[str, Mapping[tuple[int, ...], tuple[int, ...]]]
"""Of each dropout, by path: {shape of the input: shape of the mask}."""


def dropout_mask(path: str, shape: Sequence[int]) -> np.ndarray:
    """The factors of the dropout at ``path``, channels last; both sides multiply with the same."""
    rng = np.random.default_rng(zlib.crc32(path.encode()))
    return rng.binomial(1, KEEP, tuple(shape)) / KEEP


def share_dropout(call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
    """Linen interceptor: every kind of Dropout multiplies with ``dropout_mask`` in training mode."""
    if not isinstance(context.module, layers.Dropout) or context.method_name != "__call__":
        return call(*args, **kwargs)
    x, train = args[0], kwargs.get("train", args[1] if len(args) > 1 else False)
    mask = dropout_mask(".".join(context.module.path), context.module.mask_shape(x.shape))
    return x * mask.astype(x.dtype) if train else x


def torch_mask(masks: Masks, path: str, shape: tuple[int, ...]) -> np.ndarray:
    """The mask of the twin's Dropout at ``path`` for an input of ``shape``, in PyTorch's layout."""
    path = path if path in masks else f"{path}0"  # ``dropout`` of torch.nn.Transformer is our ``dropout0``
    shapes, last = masks[path], (shape[0], *shape[2:], shape[1])
    if shape in shapes:
        return dropout_mask(path, shapes[shape])
    if last in shapes:
        return np.moveaxis(dropout_mask(path, shapes[last]), -1, 1)
    (mask,) = shapes.values()  # of attention weights: ours (n, heads, q, k), PyTorch's (n*heads, q, k)
    return dropout_mask(path, mask).reshape(shape)


def factor(kind: str, p: float) -> float:
    """What a dropout of the class ``kind`` and the rate ``p`` multiplies with in training mode."""
    return 1 - SHARES[kind] * p


def scale_dropout(call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
    """Linen interceptor: every kind of Dropout multiplies with ``factor`` in training mode."""
    module = context.module
    x: Any = args[0] if args else None
    if context.method_name != "__call__" or not isinstance(module, layers.Dropout | nn.Dropout):
        return call(*args, **kwargs)
    if isinstance(module, nn.Dropout):
        given = kwargs.get("deterministic", args[1] if len(args) > 1 else None)
        off = module.deterministic if given is None else given
        return x if off else x * factor("Dropout2d" if module.broadcast_dims else "Dropout", module.rate)
    train = kwargs.get("train", args[1] if len(args) > 1 else False)
    if not train or type(module.parent).__name__ in RECURRENT:
        return x
    kind = next(cls.__name__ for cls in type(module).__mro__ if cls.__name__ in SHARES)
    return x * factor(kind, module.p)
