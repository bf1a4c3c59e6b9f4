"""What every module here shares: precision, PyTorch-named parameters, one-sentence argument checks."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, dataclass_transform

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array

Initializer = Callable[..., Array]

Rules = Sequence[tuple[type, str, Initializer]]
"""How a network starts the leaves of its layers: (class of layer, leaf, initialiser)."""


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
    """A linen module that hands its precision down.

    Args:
        dtype: the dtype to compute in. None: that of the parent module, or, at the top, whatever input and
            parameters promote to.
        param_dtype: the dtype parameters are created in. None: that of the parent module, or float32.

    Every ``__call__`` below takes ``train: bool = False``: whether BatchNorm uses and updates batch statistics and
    dropout drops.

    ``initializers`` of a network say how the leaves of layers anywhere inside start, whatever the layers say, as
    PyTorch's networks do in a loop over their modules: (class of layer, leaf, initialiser). The outermost one wins.
    ``aliases`` of a network are second names that its twin's state dict has for some children: (second, first).
    """

    initializers: ClassVar[Rules] = ()
    aliases: ClassVar[Sequence[tuple[str, str]]] = ()

    dtype: DTypeLike | None = dataclasses.field(default=None, kw_only=True)
    param_dtype: DTypeLike | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        self._inherit_precision()  # before linen attaches the children of an attached module
        super().__post_init__()
        self._inherit_precision()  # after linen has found the parent of a new one

    @nn.nowrap
    def _inherit_precision(self) -> None:
        if isinstance(self.parent, Module):
            for field in ("dtype", "param_dtype"):
                if getattr(self, field) is None:
                    object.__setattr__(self, field, getattr(self.parent, field))

    def parameter(self, name: str, init: Initializer, shape: Sequence[int]) -> Array:
        """A trainable array in ``param_dtype``; the counterpart of ``torch.nn.Parameter``."""
        network = self.parent
        while isinstance(network, Module):
            init = network.initializer(self, name) or init
            network = network.parent
        return jnp.asarray(self.param(name, init, tuple(shape), self.param_dtype or jnp.float32))

    @nn.nowrap
    def initializer(self, layer: nn.Module, name: str) -> Initializer | None:
        """What this network starts leaf ``name`` of ``layer`` with; None leaves it to the layer."""
        return next((rule for cls, leaf, rule in self.initializers if leaf == name and isinstance(layer, cls)), None)

    def buffer(self, name: str, value: float, shape: Sequence[int]) -> nn.Variable:
        """A running statistic in ``param_dtype``, filled with ``value``; the counterpart of ``register_buffer``."""
        return self.variable("batch_stats", name, jnp.full, tuple(shape), value, self.param_dtype or jnp.float32)

    def cast(self, x: Array) -> Array:
        """x in the dtype to compute in, where one is set."""
        return x if self.dtype is None else x.astype(self.dtype)

    def promote(self, *arrays: Array | None) -> tuple[Any, ...]:
        """Cast every array to the dtype to compute in; a None stays None."""
        dtype = self.dtype or jnp.result_type(*(a for a in arrays if a is not None))
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
