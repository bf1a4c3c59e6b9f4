"""What an entry of the catalog is: a class or constructor, its example inputs and arguments."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from flax_attn.layers import Module

IMAGE, PLAIN = "image", "plain"

Dim = int | str | Callable[[Any], int]


def padding(shape: Sequence[int]) -> np.ndarray:
    """A mask (n, *space) as of images of several sizes: True in the last i rows, columns, ... of sample i."""
    n, *space = shape
    ends = [np.reshape(np.subtract(space, i), (-1, *[1] * len(space))) for i in range(n)]
    return np.stack([(np.indices(space) >= end).any(0) for end in ends])


@dataclasses.dataclass(frozen=True)
class Input:
    """An example input: its Flax shape, and whether its last axis is the one that PyTorch has second.

    Args:
        shape: may be a function of the module, and so may a dimension; as a string it is the argument of that name.
        kind: what tests draw: "normal", "uniform" (in [-1, 1]), "bool" (mostly False) or "padding" (True at the ends).
        name: the keyword to pass it by; positional when empty.
    """

    shape: tuple[Dim, ...] | Callable[[Any], tuple[int, ...]]
    layout: str = IMAGE
    kind: str = "normal"
    name: str = ""

    def struct(self, module: Module, dtype: DTypeLike = jnp.float32) -> jax.ShapeDtypeStruct:
        """Shape and dtype for ``module``; ``dtype`` is that of floating point inputs."""
        given = self.shape(module) if callable(self.shape) else self.shape
        shape = [getattr(module, d) if isinstance(d, str) else d(module) if callable(d) else d for d in given]
        return jax.ShapeDtypeStruct(shape, jnp.bool_ if self.kind in ("bool", "padding") else dtype)

    def draw(self, module: Module, rng: np.random.Generator, dtype: DTypeLike = jnp.float32) -> np.ndarray:
        """Random numbers of that shape and dtype; the same numbers for every ``dtype``."""
        struct = self.struct(module, dtype)
        kinds: dict[str, Callable[..., Any]] = {
            "normal": lambda shape: rng.normal(size=shape),
            "uniform": lambda shape: rng.uniform(-1, 1, shape),
            "bool": lambda shape: rng.random(shape) < 0.2,
            "padding": padding,
        }
        return np.asarray(kinds[self.kind](struct.shape), struct.dtype)


def channels_first(x: np.ndarray, layout: str) -> np.ndarray:
    """From Flax's layout to PyTorch's."""
    return np.ascontiguousarray(np.moveaxis(x, -1, 1)) if layout == IMAGE else x


def channels_last(x: np.ndarray, layout: str) -> np.ndarray:
    """From PyTorch's layout to Flax's."""
    return np.moveaxis(x, 1, -1) if layout == IMAGE else x


def image(c: Dim, h: int = 7, w: int = 5, n: int = 2) -> Input:
    """(n, h, w, c)"""
    return Input((n, h, w, c))


def signal(c: Dim, l: int = 7, n: int = 2) -> Input:  # noqa: E741
    """(n, l, c)"""
    return Input((n, l, c))


def volume(c: Dim, d: int = 3, h: int = 7, w: int = 5, n: int = 2) -> Input:
    """(n, d, h, w, c)"""
    return Input((n, d, h, w, c))


def sized(size: str) -> Input:
    """(n, h, w, in_channels) of the height and width that the module is told as its argument ``size``."""
    return Input(lambda module: (2, *getattr(module, size), module.in_channels))


def plain(*shape: Dim, kind: str = "normal", name: str = "") -> Input:
    """An array of the same shape on both sides: tokens, coordinates, masks."""
    return Input(shape, PLAIN, kind, name)


@dataclasses.dataclass(frozen=True)
class Make:
    """A module argument that is a module itself: ``function(*args)``, on the PyTorch side its twin's.

    A class given as an argument, such as a ``norm_layer``, is its twin there too.
    """

    function: Callable[..., Module]
    args: tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Entry:
    """One class, or one constructor of a published network, with one set of arguments.

    Args:
        tag: tells apart the entries of one class.
        call: further keyword arguments of the call, the same on both sides.
        outputs: the layout of each output, in the order of the flattened result.
        slow: whether tests leave it out of the plain run.
    """

    cls: Callable[..., Module]
    inputs: tuple[Input, ...]
    kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    tag: str = ""
    call: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    outputs: tuple[str, ...] = (IMAGE,)
    slow: bool = False

    @property
    def name(self) -> str:
        return f"{self.cls.__name__}-{self.tag}" if self.tag else self.cls.__name__

    def module(self, **arguments: Any) -> Module:
        """The Flax module, with ``arguments`` over those of the entry."""
        kwargs = {k: v.function(*v.args) if isinstance(v, Make) else v for k, v in self.kwargs.items()}
        return self.cls(**{**kwargs, **arguments})

    def arguments(self, arrays: Sequence[Any]) -> tuple[list[Any], dict[str, Any]]:
        """Positional and keyword arguments of the call, with one array for each input."""
        pairs = list(zip(self.inputs, arrays, strict=True))
        return [a for i, a in pairs if not i.name], {**self.call, **{i.name: a for i, a in pairs if i.name}}

    def apply(self, module: Module, variables: Any, arrays: Sequence[Any], **kwargs: Any) -> Any:
        """``module.apply`` on one array for each input."""
        args, call = self.arguments(arrays)
        return module.apply(variables, *args, **call, **kwargs)

    def structs(self, module: Module, dtype: DTypeLike = jnp.float32) -> list[jax.ShapeDtypeStruct]:
        """Example inputs for ``module``, by shape and dtype."""
        return [i.struct(module, dtype) for i in self.inputs]

    def draw(self, module: Module, rng: np.random.Generator, dtype: DTypeLike = jnp.float32) -> list[np.ndarray]:
        """Random example inputs for ``module``."""
        return [i.draw(module, rng, dtype) for i in self.inputs]


@dataclasses.dataclass(frozen=True)
class Published(Entry):
    """The constructor of a published network, which has no argument without a default.

    Args:
        kwargs: what the pinned key list was made with, where that is not the default.
        keys: the name of the pinned key list, tests/catalog/golden/NAME.json, where there is one.
        files: names of published checkpoints.
        lengths: arguments that a checkpoint tells: {name: (key, n)}, the length of the first axis of that key, less n.
    """

    keys: str = ""
    files: tuple[str, ...] = ()
    lengths: Mapping[str, tuple[str, int]] = dataclasses.field(default_factory=dict)
