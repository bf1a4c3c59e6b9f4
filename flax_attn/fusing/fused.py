"""A network for inference whose BatchNorms are folded into the convolutions before them."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import errors, traverse_util

from flax_attn.catalog import CATALOG, PUBLISHED
from flax_attn.fusing.arithmetic import fold
from flax_attn.fusing.dataflow import Found, Path, call_arguments, find, is_array, is_norm_call
from flax_attn.layers import init
from flax_attn.layers.arguments import brief
from flax_attn.layers.module import Module, accumulator, require

REFUSALS = (ValueError, TypeError, errors.FlaxError)
"""What a module raises that cannot be called with the example inputs of the catalog."""


@dataclass(eq=False)
class Plan:
    """Which normalizations of a network are folded, and in which calls that was seen to be right.

    Args:
        module: the network.
        norms: the path of each folded normalization, with that of the convolution whose output it reads. None where
            it reads something else: it is then one multiplication and one addition.
        shapes: the shapes of the variables before folding.
        seen: the shapes and the other arguments of the calls.
    """

    module: nn.Module
    norms: Mapping[Path, Path | None] = field(repr=False)
    shapes: Mapping[Path, Any] = field(repr=False)
    seen: list[Any] = field(repr=False, default_factory=list)

    def check(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Refuse a call in which a folded convolution or normalization is used otherwise."""
        call = described(args, kwargs)
        if call not in self.seen:
            found = find(self.module, self.shapes, args, kwargs)
            self.compare(found)
            self.seen.append(call)

    def compare(self, found: Found) -> None:
        """Refuse what another call shows, where it does not agree."""
        for norm, product in self.norms.items():
            called = norm in found.layers or product in found.layers
            if called and (norm, product) not in found.norms.items():
                raise ValueError(
                    f"Fused: expected a call of {type(self.module).__name__} that uses '{'.'.join(norm)}' as the "
                    "example inputs of fuse do, got one that does not; give the inputs of this call to fuse"
                )


def described(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
    """The shapes and dtypes of the arrays of a call, and its other arguments."""
    leaves, form = jax.tree.flatten((tuple(args), dict(kwargs)))
    return form, [(leaf.shape, leaf.dtype) if is_array(leaf) else leaf for leaf in leaves]


def in_evaluation(who: str, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict[str, Any]]:
    """The arguments of a call of ``module``, with ``train=False``. ValueError if they have ``train=True``."""
    given = inspect.signature(module.__call__).bind(*args, **kwargs)
    if "train" in given.signature.parameters:
        train = given.arguments.get("train", False)
        require(train is False, f"{who}: expected train=False, got {train}; a network with folded layers cannot train")
        given.arguments["train"] = False
    return given.args, given.kwargs


class Fused(Module):
    """Computes what a network computes in evaluation, with folded normalizations. ``fuse`` makes it.

    Its call takes the arguments of the call of the network. Its variables are those that ``fuse`` returns.
    Raises ValueError with ``train=True``, and for a call that uses a folded layer otherwise than the example inputs
    of ``fuse`` do.
    """

    plan: Plan

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        inner = self.plan.module.clone(parent=self.scope, **self.precision())
        args, kwargs = in_evaluation("Fused", inner, args, kwargs)
        self.plan.check(args, kwargs)
        with nn.intercept_methods(_Folded(self.plan.norms, len(self.path))):
            return inner(*args, **kwargs)

    def precision(self) -> dict[str, Any]:
        """What the network takes from the modules around it."""
        return {"parent_context": self.context} if isinstance(self.plan.module, Module) else {}


@dataclass(frozen=True)
class _Folded:
    """A linen interceptor that adds what is left of each folded normalization."""

    norms: Mapping[Path, Path | None]
    depth: int

    def __call__(self, call: Any, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        norm = context.module
        path = norm.path[self.depth :]
        if not is_norm_call(context) or path not in self.norms:
            return call(*args, **kwargs)
        x, _ = call_arguments(context, args, kwargs)
        shape = (norm.num_features,)
        shift = norm.parameter("bias", init.zeros, shape)
        out, *_ = norm.promote(x, *([shift] if getattr(norm, "affine", False) else []))
        wide = out.astype(accumulator(out.dtype))
        if self.norms[path] is None:
            wide = wide * norm.parameter("scale", init.ones, shape).astype(wide.dtype)
        return (wide + shift.astype(wide.dtype)).astype(out.dtype)


def fuse(module: nn.Module, variables: Mapping[str, Any], *inputs: Any, **kwargs: Any) -> tuple[Fused, dict[str, Any]]:
    """A module and variables for inference, which compute the same with fewer operations.

    A BatchNorm, FrozenBatchNorm2d, ABN or InPlaceABN that alone reads the output of a convolution or a linear layer
    is folded into the kernel of that layer, and only adds one number for each channel. Any other becomes one
    multiplication and one addition. Layers inside ``nn.remat``, ``nn.scan`` and the like, and subclasses of the
    convolutions, stay as they are. The variables are copies, and are not in PyTorch's form: keep the given ones for
    ``convert`` and for training::

        fused, folded = fuse(module, variables)
        out = jax.jit(fused.apply)(folded, x)

    Args:
        module: a linen module with layers of ``flax_attn``.
        variables: its variables, for example from ``convert.from_torch``.
        inputs: example inputs of the call, arrays or their shapes. Without any, those of the catalog are used.
        kwargs: the keyword arguments of the call.

    Raises:
        ValueError: with ``train=True``, if ``variables`` is not a dict, and if there are no example inputs and none of
            the catalog fit.
    """
    if not isinstance(variables, Mapping):
        raise ValueError(f'fuse: expected variables {{"params": ..., "batch_stats": ...}}, got {brief(variables)}')
    flat = traverse_util.flatten_dict(jax.tree.map(jnp.array, dict(nn.meta.unbox(variables))))
    found, call = _found(module, flat, inputs, kwargs) if inputs or kwargs else _found_with_catalog(module, flat)
    shapes = {path: jax.typeof(leaf) for path, leaf in flat.items()}
    plan = Plan(module.clone(parent=None), found.norms, shapes, seen=[call])
    folded = dict(flat)
    for path, product in found.norms.items():
        fold(folded, found.layers, path, product)
    return Fused(plan), traverse_util.unflatten_dict(folded)


def _found(module: nn.Module, variables: Mapping[Path, Any], args: Any, kwargs: Any) -> tuple[Found, Any]:
    """What a call shows, and its description."""
    args, kwargs = in_evaluation("fuse", module, tuple(args), kwargs)
    return find(module, variables, args, kwargs), described(args, kwargs)


def _found_with_catalog(module: nn.Module, variables: Mapping[Path, Any]) -> tuple[Found, Any]:
    """What a call with the example inputs of the catalog shows, and its description."""
    for entry in (entry for entry in CATALOG + PUBLISHED if entry.makes is type(module)):
        try:
            return _found(module, variables, *entry.arguments(entry.structs(cast(Module, module))))
        except REFUSALS:
            continue
    who = type(module).__name__
    raise ValueError(
        f"fuse: expected example inputs of {who} after the variables, got none, and the catalog has none that fit; "
        "write fuse(module, variables, x)"
    )
