"""``torch.nn.Sequential``, ``ModuleList`` and ``ModuleDict``: children called "0", "1", ..., or as the dict calls them,
so that paths equal PyTorch's keys."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import flax.linen as nn
from jaxtyping import Array

from flax_attn.layers.calls import takes_train
from flax_attn.layers.module import Module

Layer = Callable[..., Any]


def _collecting(init: Callable[..., None], apart: bool) -> Callable[..., None]:
    """A constructor that may be given no layers or, with ``apart``, layers one by one."""

    @functools.wraps(init)
    def collecting(self: Any, *args: Any, **fields: Any) -> None:
        listed = apart and all(isinstance(arg, nn.Module) or callable(arg) for arg in args)
        if "layers" not in fields and (listed or not args):
            args = (args,)
        init(self, *args, **fields)

    return collecting


def _named(layers: Any, names: Sequence[str] | None) -> tuple[tuple[str, ...] | None, tuple[Layer, ...]]:
    """The names, None where positions are the names, and the layers."""
    if isinstance(layers, Mapping):
        return tuple(layers), tuple(layers.values())
    return names if names is None else tuple(names), tuple(layers)


def _check(who: str, names: Sequence[str], layers: Sequence[Any]) -> None:
    """Refuse what is neither a module nor a function, and names that cannot be part of a key."""
    for i, layer in enumerate(layers):
        where = f"{who}: expected a module or a function at {names[i] if names else i}"
        if isinstance(layer, type):
            raise TypeError(f"{where}, got the class {layer.__name__}; call it, as in {layer.__name__}(...)")
        if not (isinstance(layer, nn.Module) or callable(layer)):
            raise TypeError(f"{where}, got a {type(layer).__name__}")
    for name in names:
        if not isinstance(name, str) or not name or "." in name:
            raise ValueError(f"{who}: expected names that are not empty and have no dot, got {name!r}")


class _Container(Module):
    """Modules and plain functions under their positions or, where ``names`` are given, under these.

    Linen would call a child of a field ``layers_0``; ``preserve_adopted_names`` makes it keep the name given here.
    """

    layers: Sequence[Layer]
    names: Sequence[str] | None = dataclasses.field(default=None, kw_only=True)

    preserve_adopted_names = True
    apart: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.__init__ = _collecting(cls.__init__, cls.apart)  # type: ignore[method-assign]

    def __post_init__(self) -> None:
        names, layers = _named(self.layers, self.names)
        _check(type(self).__name__, names or (), layers)
        given = names or [str(i) for i in range(len(layers))]
        made = [
            layer.clone(parent=None, name=name) if isinstance(layer, nn.Module) else layer
            for name, layer in zip(given, layers, strict=True)
        ]
        object.__setattr__(self, "layers", tuple(made))
        object.__setattr__(self, "names", names)
        super().__post_init__()

    @nn.nowrap
    def __getattr__(self, name: str) -> Any:
        names = vars(self).get("names")
        return self.layers[names.index(name)] if names and name in names else super().__getattr__(name)

    def __len__(self) -> int:
        return len(self.layers)


class Part(tuple):
    """Some layers of a ``ModuleList`` or ``Sequential``; a call applies them one after another."""

    __slots__ = ()

    def __call__(self, x: Array, train: bool = False) -> Array:
        for layer in self:
            x = layer(x, train=train) if isinstance(layer, nn.Module) and takes_train(type(layer)) else layer(x)
        return x


class ModuleList(_Container):
    """Modules and plain functions under their positions: ``ModuleList([a, relu, b])`` names ``a`` "0" and ``b`` "2".

    It has a length, an iterator and indices, as a tuple has. A slice is a tuple whose call applies its layers.
    """

    def __getitem__(self, i: int | slice) -> Any:
        return Part(self.layers[i]) if isinstance(i, slice) else self.layers[i]

    def __iter__(self) -> Iterator[Layer]:
        return iter(self.layers)


class Sequential(ModuleList):
    """Apply layers one after another; modules are given ``train`` where they take it, functions only ``x``.

    ``Sequential(a, relu, b)`` and ``Sequential([a, relu, b])`` are the same. ``Sequential({"conv": a, "norm": b})``
    names its children; they are read as attributes, too.
    """

    apart = True

    if TYPE_CHECKING:

        def __init__(self, *layers: Any, **fields: Any) -> None: ...

    def __call__(self, x: Array, train: bool = False) -> Array:
        return Part(self.layers)(x, train)


class ModuleDict(_Container):
    """Modules and plain functions by name: the parameters of ``ModuleDict({"conv": a})`` are called "conv.weight".

    It is read as a dict: by key, with ``keys``, ``values``, ``items``, ``in`` and ``len``, in the order that was given.
    It takes pairs of a name and a module, too.
    """

    if TYPE_CHECKING:

        def __init__(self, layers: Mapping[str, Layer] | Iterable[tuple[str, Layer]] = (), **fields: Any) -> None: ...

    def __post_init__(self) -> None:
        if self.names is None:
            given: Any = self.layers
            object.__setattr__(self, "layers", dict(given))
        super().__post_init__()

    def __getitem__(self, name: str) -> Any:
        return dict(self.items())[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __contains__(self, name: object) -> bool:
        return name in self.keys()

    def keys(self) -> tuple[str, ...]:
        """The names."""
        return tuple(self.names or ())

    def values(self) -> tuple[Layer, ...]:
        """The modules."""
        return tuple(self.layers)

    def items(self) -> tuple[tuple[str, Layer], ...]:
        """Pairs of a name and a module."""
        return tuple(zip(self.keys(), self.values(), strict=True))
