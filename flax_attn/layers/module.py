"""What every module here shares: precision, PyTorch-named parameters, one-sentence argument checks."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, NamedTuple, dataclass_transform

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array

Initializer = Callable[..., Array]


class InitRule(NamedTuple):
    """How a network starts a leaf of its layers: ``leaf`` of every ``layer`` below the path prefix ``under``."""

    layer: type
    leaf: str
    init: Initializer
    under: str = ""

    def suits(self, layer: nn.Module, leaf: str, path: Sequence[str]) -> bool:
        """Whether the rule is for ``leaf`` of ``layer``, which lies at ``path`` in the network."""
        return isinstance(layer, self.layer) and leaf == self.leaf and ".".join(path).startswith(self.under)


def require(condition: bool, message: str) -> None:
    """Raise ``ValueError(message)`` unless ``condition`` holds."""
    if not condition:
        raise ValueError(message)


def accumulator(dtype: DTypeLike) -> Any:
    """The dtype in which sums over ``dtype`` are kept: float32 for half precision, else ``dtype`` itself."""
    return jnp.promote_types(dtype, jnp.float32)


@dataclass_transform(field_specifiers=(dataclasses.field,))
class _Dataclass(nn.Module):
    """Tells type checkers that the fields of the classes below are arguments."""


class Module(_Dataclass):
    """A linen module that looks up its precision, and its network's initialisers, in the modules around it.

    Args:
        dtype: the dtype to compute in. None: that of the next module outside that has one; without any, the dtype that
            input and parameters promote to.
        param_dtype: the dtype in which parameters are created. None: that of the next module outside that has one;
            without any, float32.

    Every ``__call__`` takes ``train: bool = False``: whether BatchNorm uses and updates batch statistics and dropout
    drops.

    ``init_rules`` of a network say how leaves of the layers inside start, as a PyTorch network does in a loop over its
    modules. The rules of the outermost network win. ``aliases`` of a network are second names of children that the
    published state dict has: (second, first).
    """

    init_rules: ClassVar[Sequence[InitRule]] = ()
    aliases: ClassVar[Sequence[tuple[str, str]]] = ()

    dtype: DTypeLike | None = dataclasses.field(default=None, kw_only=True)
    param_dtype: DTypeLike | None = dataclasses.field(default=None, kw_only=True)

    @property
    def outwards(self) -> "Iterator[Module]":
        """This module, the module that it is part of, and so on."""
        module: Any = self
        while isinstance(module, Module):
            yield module
            module = module.parent

    @property
    def compute_dtype(self) -> DTypeLike | None:
        """The ``dtype`` of this module, or of the next one outside that has one."""
        return next((module.dtype for module in self.outwards if module.dtype is not None), None)

    @property
    def storage_dtype(self) -> DTypeLike:
        """The ``param_dtype`` of this module, or of the next one outside that has one, or float32."""
        return next((module.param_dtype for module in self.outwards if module.param_dtype is not None), jnp.float32)

    def parameter(self, name: str, init: Initializer, shape: Sequence[int]) -> Array:
        """A trainable array; the counterpart of ``torch.nn.Parameter``."""
        for network in self.outwards:
            path = self.path[len(network.path) :]
            init = next((rule.init for rule in network.init_rules if rule.suits(self, name, path)), init)
        return jnp.asarray(self.param(name, init, tuple(shape), self.storage_dtype))

    def buffer(self, name: str, value: float, shape: Sequence[int]) -> nn.Variable:
        """A running statistic, filled with ``value`` at first; the counterpart of ``register_buffer``."""
        return self.variable("batch_stats", name, jnp.full, tuple(shape), value, self.storage_dtype)

    def cast(self, x: Array) -> Array:
        """x in the dtype to compute in, where one is set."""
        dtype = self.compute_dtype
        return x if dtype is None else x.astype(dtype)

    def promote(self, *arrays: Array | None) -> tuple[Any, ...]:
        """Cast every array to the dtype to compute in; a None stays None."""
        dtype = self.compute_dtype or jnp.result_type(*(a for a in arrays if a is not None))
        return tuple(None if a is None else jnp.asarray(a, dtype) for a in arrays)

    def check_channels(self, x: Array, expected: int, ndims: Sequence[int]) -> None:
        """Refuse an input whose rank is not in ``ndims`` or whose last axis is not ``expected`` long."""
        who = f"{type(self).__name__} at '{'.'.join(self.path)}'" if self.path else type(self).__name__
        if x.ndim not in ndims:
            ranks = " or ".join(map(str, ndims))
            raise ValueError(f"{who}: expected a channels-last input of rank {ranks}, got shape {x.shape}")
        if x.shape[-1] != expected:
            raise ValueError(f"{who}: expected {expected} channels on the last axis, got shape {x.shape}")


def einsum(subscripts: str, *operands: Array, wide: bool = False) -> Array:
    """``jnp.einsum`` that accumulates in float32 at least; ``wide`` keeps the sums so, for a softmax to come."""
    dtype = jnp.result_type(*operands)
    sums = jnp.einsum(subscripts, *operands, preferred_element_type=accumulator(dtype))
    return sums if wide else sums.astype(dtype)


def softmax(x: Array, axis: int | tuple[int, ...] = -1) -> Array:
    """Softmax over ``axis``, in float32 at least; a slice that is all -inf gives NaN, as in PyTorch."""
    return jax.nn.softmax(x.astype(accumulator(x.dtype)), axis=axis).astype(x.dtype)
