"""What every module here shares: precision, PyTorch-named parameters, one-sentence argument checks."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, dataclass_transform

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array

from flax_attn.layers.arguments import check_fields
from flax_attn.layers.calls import watched
from flax_attn.layers.children import check_adopted, check_assignment
from flax_attn.layers.structure import left_out

Initializer = Callable[..., Array]


class InitRule(NamedTuple):
    """How a network starts a leaf of its layers.

    Args:
        layer: the class of layer; subclasses count.
        leaf: the leaf's name: "kernel", "bias", "scale".
        init: the initialiser.
        under: how the layer's path in the network begins: "encoder" covers "encoder1_conv" and "encoder2.0.conv1".
    """

    layer: type
    leaf: str
    init: Initializer
    under: str = ""

    def within(self, name: str) -> "InitRule | None":
        """The same rule for the part of the network that is called ``name``; None where it does not hold there."""
        if f"{name}.".startswith(self.under):
            return self._replace(under="")
        return self._replace(under=self.under.removeprefix(f"{name}.")) if self.under.startswith(f"{name}.") else None

    def matches(self, layer: nn.Module, leaf: str) -> bool:
        """Whether the rule is for ``leaf`` of ``layer``."""
        return isinstance(layer, self.layer) and leaf == self.leaf and not self.under


class Context(NamedTuple):
    """What a module hands to the modules in it."""

    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    init_rules: tuple[InitRule, ...] = ()


class FromParent:
    """The descriptor of a field that is read from the parent module; without a parent it is what was given.

    It is a field because linen's transforms, such as ``nn.remat``, copy the fields of a module and drop its parent.
    """

    def __get__(self, module: Any, owner: type | None = None) -> Any:
        if module is None:
            return self
        if not isinstance(module.parent, Module) or module.name is None:
            return vars(module)["parent_context"]
        context = module.parent.context
        if not any(rule.under for rule in context.init_rules):
            return context
        rules = (rule.within(module.name) for rule in context.init_rules)
        return context._replace(init_rules=tuple(rule for rule in rules if rule))

    def __set__(self, module: Any, value: Any) -> None:
        vars(module)["parent_context"] = Context() if value is self else value


def require(condition: bool, message: str) -> None:
    """Raise ``ValueError(message)`` unless ``condition`` holds."""
    if not condition:
        raise ValueError(message)


def accumulator(dtype: DTypeLike) -> Any:
    """The dtype in which sums over ``dtype`` are kept: float32 for half precision, else ``dtype`` itself."""
    return jnp.promote_types(dtype, jnp.float32)


def require_floats(who: str, *arrays: ArrayLike) -> None:
    """Refuse integers and bools where floating point or complex numbers are needed, as PyTorch does."""
    for x in arrays:
        dtype = x.dtype if hasattr(x, "dtype") else jnp.result_type(jnp.asarray(x))
        fits = jnp.issubdtype(dtype, jnp.inexact)
        require(fits, f"{who}: expected an array of floating point numbers, got {dtype}; write x.astype(jnp.float32)")


def leave_helpers_plain(members: Mapping[str, Any]) -> None:
    """Mark the methods among ``members`` that linen is not to wrap: those without ``train`` that are not compact.

    Linen wraps every other method, and a wrapped method cannot be called before the module is in a parent, as
    ``__post_init__`` does, while ``module.tabulate`` counts the calls.
    """
    for name, member in members.items():
        helper = inspect.isfunction(member) and name not in ("setup", "__call__")
        if helper and not hasattr(member, "compact") and "train" not in inspect.signature(member).parameters:
            nn.nowrap(member)


def layout_hint(x: Array, channels: int) -> str:
    """What to do with x if its second axis, not its last, has the expected ``channels``; else an empty string."""
    if x.ndim < 3 or x.shape[1] != channels or x.shape[-1] == channels:
        return ""
    axes = ", ".join(map(str, [0, *range(2, x.ndim), 1]))
    return f"; the input looks channels-first; move the channels to the last axis: x.transpose({axes})"


@dataclass_transform(field_specifiers=(dataclasses.field,))
class _Dataclass(nn.Module):
    """Tells type checkers that the fields of the classes below are arguments."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        leave_helpers_plain(vars(cls))
        super().__init_subclass__(**kwargs)


class Module(_Dataclass):
    """A linen module that takes its precision and its initialisers from the modules that contain it.

    Args:
        dtype: the dtype to compute in. None: that of the parent module; at the top, the dtype that input and
            parameters promote to.
        param_dtype: the dtype in which parameters are created. None: that of the parent module; at the top, float32.
        parent_context: what the parent hands down; only linen's transforms give it.

    Every ``__call__`` takes ``train: bool = False``. With ``train=True`` BatchNorm uses and updates batch statistics,
    and dropout drops.

    ``init_rules`` of a network say how leaves of the layers inside start, as a PyTorch network does in a loop over its
    modules. The rules of the outermost network win. ``aliases`` of a network are second names of children that the
    published state dict has: (second, first).

    ``registered_last`` names the children that the PyTorch module registers after all others, in this order. Where it
    does not say otherwise, children that are arguments are registered first, then those that ``setup`` assigns.
    """

    init_rules: ClassVar[Sequence[InitRule]] = ()
    aliases: ClassVar[Sequence[tuple[str, str]]] = ()
    registered_last: ClassVar[Sequence[str]] = ()

    dtype: DTypeLike | None = dataclasses.field(default=None, kw_only=True)
    param_dtype: DTypeLike | None = dataclasses.field(default=None, kw_only=True)
    parent_context: Any = dataclasses.field(default=FromParent(), kw_only=True, repr=False, compare=False)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        if "__call__" in vars(cls):
            cls.__call__ = watched(vars(cls)["__call__"])  # type: ignore[method-assign]
        super().__init_subclass__(**kwargs)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fields(self)

    @nn.nowrap
    def __setattr__(self, name: str, value: Any) -> None:
        if self._state.in_setup:
            check_assignment(self, name, value)
        super().__setattr__(name, value)

    @nn.nowrap
    def check_call(self) -> None:
        """Refuse the call of a module that has no key of its own in PyTorch."""
        if self.scope is not None and self.is_initializing():
            check_adopted(self)

    @property
    def context(self) -> Context:
        """The precision and the rules that hold in this module: its own, or else those of the modules around it."""
        outer = self.parent_context
        if not (self.dtype or self.param_dtype or self.init_rules):
            return outer
        rules = (*outer.init_rules, *self.init_rules)
        return Context(self.dtype or outer.dtype, self.param_dtype or outer.param_dtype, rules)

    @property
    def follows_train(self) -> bool:
        """Whether ``train=True`` changes what the module itself does, as in BatchNorm and Dropout."""
        return False

    @property
    def compute_dtype(self) -> DTypeLike | None:
        """The dtype to compute in, where one is set."""
        return self.context.dtype

    def parameter(self, name: str, init: Initializer, shape: Sequence[int]) -> Array:
        """A trainable array; the counterpart of ``torch.nn.Parameter``."""
        context = self.context
        init = next((rule.init for rule in context.init_rules if rule.matches(self, name)), init)
        if left_out(init):
            return self.variable("params", name, jnp.zeros, tuple(shape), context.param_dtype).value
        return jnp.asarray(self.param(name, init, tuple(shape), context.param_dtype))

    def buffer(self, name: str, value: ArrayLike, shape: Sequence[int] | None = None) -> nn.Variable:
        """An array that is not trained, such as a running statistic; the counterpart of ``register_buffer``.

        Args:
            name: its name here and in PyTorch.
            value: with ``shape``, the number that fills the buffer at first. Without, an array of NumPy or JAX: the
                buffer starts as a copy of it, with its shape and its dtype.
            shape: the shape of the buffer, which then has the dtype of the parameters.

        Returns:
            the variable in the collection "batch_stats"; read and write its ``value``.
        """
        if shape is None:
            array = hasattr(value, "shape")
            require(array, f"buffer: expected an array, or a number and a shape, for {name!r}, got {value} alone")
            return self.variable("batch_stats", name, lambda: jnp.array(value))
        return self.variable("batch_stats", name, jnp.full, tuple(shape), value, self.context.param_dtype)

    def cast(self, x: Array) -> Array:
        """x in the dtype to compute in, where one is set."""
        dtype = self.compute_dtype
        return x if dtype is None else x.astype(dtype)

    def promote(self, *arrays: Array | None) -> tuple[Any, ...]:
        """Cast every array to the dtype to compute in, which is one of floating point; a None stays None."""
        dtype = self.compute_dtype or jnp.result_type(0.0, *(a for a in arrays if a is not None))
        return tuple(None if a is None else jnp.asarray(a, dtype) for a in arrays)

    def check_channels(self, x: Array, expected: int, ndims: Sequence[int]) -> None:
        """Refuse an input whose rank is not in ``ndims`` or whose last axis is not ``expected`` long."""
        who = f"{type(self).__name__} at '{'.'.join(self.path)}'" if self.path else type(self).__name__
        if x.ndim not in ndims:
            ranks = " or ".join(map(str, ndims))
            raise ValueError(f"{who}: expected a channels-last input of rank {ranks}, got shape {x.shape}")
        if x.shape[-1] != expected:
            hint = layout_hint(x, expected)
            raise ValueError(f"{who}: expected {expected} channels on the last axis, got shape {x.shape}{hint}")


Product = Callable[..., Array]
"""A product of two arrays that takes ``preferred_element_type``, such as a convolution."""


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _half_product(product: Product, x: Array, y: Array) -> Array:
    return product(x, y, preferred_element_type=jnp.float32)


def _half_product_jvp(product: Product, primals: tuple[Array, Array], tangents: tuple[Any, Any]) -> tuple[Any, Any]:
    """product(dx, y) + product(x, dy), in half precision: so are the operands of its transpose, the gradient."""
    (x, y), (dx, dy) = primals, tangents
    terms = [] if isinstance(dx, SymbolicZero) else [product(dx, y)]
    terms += [] if isinstance(dy, SymbolicZero) else [product(x, dy)]
    out = _half_product(product, x, y)
    return out, sum(terms[1:], terms[0]).astype(out.dtype)


_half_product.defjvp(_half_product_jvp, symbolic_zeros=True)


def contract(product: Product, x: Array, y: Array) -> Array:
    """``product(x, y)``, with sums kept in float32 at least.

    The products in its gradient take operands of the dtype of x and y. Without this, ``preferred_element_type`` makes
    float32 operands of the gradient of a product in bfloat16, which move twice the bytes.
    """
    dtype = jnp.result_type(x, y)
    if dtype == accumulator(dtype):
        return product(x, y)
    x, y = (a if a.dtype == dtype else a.astype(dtype) for a in (x, y))
    return _half_product(product, x, y)


def einsum(subscripts: str, x: Array, y: Array, wide: bool = False) -> Array:
    """``jnp.einsum`` that accumulates in float32 at least; ``wide`` keeps the sums so, for a softmax to come."""
    sums = contract(functools.partial(jnp.einsum, subscripts), x, y)
    return sums if wide else sums.astype(jnp.result_type(x, y))


def softmax(x: Array, axis: int | tuple[int, ...] = -1) -> Array:
    """Softmax over ``axis``, in float32 at least; a slice that is all -inf gives NaN, as in PyTorch."""
    require_floats("softmax", x)
    x = jnp.asarray(x)
    return _softmax(x.astype(accumulator(x.dtype)), axis).astype(x.dtype)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _softmax(x: Array, axis: int | tuple[int, ...]) -> Array:
    return jax.nn.softmax(x, axis=axis)


@_softmax.defjvp
def _softmax_jvp(axis: int | tuple[int, ...], primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    """Needs the result alone. JAX keeps the powers and their sums, and its gradient takes twice as long."""
    y, (dx,) = _softmax(*primals, axis), tangents
    return y, y * (dx - (y * dx).sum(axis, keepdims=True))
