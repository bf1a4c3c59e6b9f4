"""An entry of the catalog: a class or a constructor, with example arguments and example inputs."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from flax_attn.constructor import Constructor
from flax_attn.layers import Module

IMAGE, PLAIN = "image", "plain"

Dim = int | str | Callable[[Any], int]


def padding(shape: Sequence[int]) -> np.ndarray:
    """The mask (n, *space) of a padded batch: True in the last i rows and the last i columns of sample i."""
    n, *space = shape
    ends = [np.reshape(np.subtract(space, i), (-1, *[1] * len(space))) for i in range(n)]
    return np.stack([(np.indices(space) >= end).any(0) for end in ends])


@dataclasses.dataclass(frozen=True)
class Input:
    """An example input of a module.

    Args:
        shape: the shape on the Flax side, or a function from the module to that shape. Each dimension is a number, a
            function from the module to a number, or a string: the name of an argument of the module.
        layout: ``IMAGE`` where PyTorch has the last axis second, ``PLAIN`` where both sides have the same axes.
        kind: the random numbers that tests draw: "normal", "uniform" (in [-1, 1]), "bool" (mostly False) or "padding"
            (True at the ends).
        name: the keyword of this input; empty for a positional input.
    """

    shape: tuple[Dim, ...] | Callable[[Any], tuple[int, ...]]
    layout: str = IMAGE
    kind: str = "normal"
    name: str = ""

    def struct(self, module: Module, dtype: DTypeLike = jnp.float32) -> jax.ShapeDtypeStruct:
        """Shape and dtype of the input for ``module``. A floating point input has ``dtype``."""
        given = self.shape(module) if callable(self.shape) else self.shape
        shape = [getattr(module, d) if isinstance(d, str) else d(module) if callable(d) else d for d in given]
        return jax.ShapeDtypeStruct(shape, jnp.bool_ if self.kind in ("bool", "padding") else dtype)

    def draw(self, module: Module, rng: np.random.Generator, dtype: DTypeLike = jnp.float32) -> np.ndarray:
        """A random input for ``module``. The numbers are the same for every ``dtype``."""
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
    """An example image (n, h, w, c)."""
    return Input((n, h, w, c))


def signal(c: Dim, l: int = 7, n: int = 2) -> Input:  # noqa: E741
    """An example signal (n, l, c)."""
    return Input((n, l, c))


def volume(c: Dim, d: int = 3, h: int = 7, w: int = 5, n: int = 2) -> Input:
    """An example volume (n, d, h, w, c)."""
    return Input((n, d, h, w, c))


def sized(size: str) -> Input:
    """An example image (2, h, w, in_channels). The argument of the module that is called ``size`` gives h and w."""
    return Input(lambda module: (2, *getattr(module, size), module.in_channels))


def plain(*shape: Dim, kind: str = "normal", name: str = "") -> Input:
    """An example array with the same axes on both sides: tokens, coordinates, a mask."""
    return Input(shape, PLAIN, kind=kind, name=name)


class Make:
    """A module as an argument: ``function(*args, **kwargs)``. On the PyTorch side the twin of ``function`` makes it.

    A class among the arguments, such as a ``norm_layer``, and another ``Make`` are replaced by their twins there too.
    """

    def __init__(self, function: Callable[..., Module], /, *args: Any, **kwargs: Any):
        self.function, self.args, self.kwargs = function, args, kwargs


def made(value: Any) -> Any:
    """The module that a ``Make`` describes; any other value as it is."""
    if not isinstance(value, Make):
        return value
    return value.function(*map(made, value.args), **{name: made(v) for name, v in value.kwargs.items()})


@dataclasses.dataclass(frozen=True)
class Entry:
    """A class, or the constructor of a published network, with one set of arguments.

    Args:
        kwargs: the arguments of ``cls``.
        tag: distinguishes the entries of one class.
        call: more keyword arguments of the module's call, the same on both sides.
        outputs: the layout of each output, in the order of the flattened result.
        slow: True for an entry that only the slow run of the tests covers.
    """

    cls: Callable[..., Module]
    inputs: tuple[Input, ...]
    kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    _: dataclasses.KW_ONLY
    tag: str = ""
    call: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    outputs: tuple[str, ...] = (IMAGE,)
    slow: bool = False

    @property
    def name(self) -> str:
        return f"{self.cls.__name__}-{self.tag}" if self.tag else self.cls.__name__

    @property
    def makes(self) -> type[Module]:
        """The class of the modules that ``cls`` makes; a constructor names it in its annotations."""
        return self.cls if isinstance(self.cls, type) else self.cls.__annotations__["return"]

    def module(self, **arguments: Any) -> Module:
        """The Flax module. ``arguments`` replace those of the entry."""
        return self.cls(**{name: made(value) for name, value in {**self.kwargs, **arguments}.items()})

    def arguments(self, arrays: Sequence[Any]) -> tuple[list[Any], dict[str, Any]]:
        """The positional and the keyword arguments of the call, from one array for each input."""
        pairs = list(zip(self.inputs, arrays, strict=True))
        return [a for i, a in pairs if not i.name], {**self.call, **{i.name: a for i, a in pairs if i.name}}

    def apply(self, module: Module, variables: Any, arrays: Sequence[Any], **kwargs: Any) -> Any:
        """The result of ``module.apply`` on one array for each input."""
        args, call = self.arguments(arrays)
        return module.apply(variables, *args, **call, **kwargs)

    def structs(self, module: Module, dtype: DTypeLike = jnp.float32) -> list[jax.ShapeDtypeStruct]:
        """Shape and dtype of each example input for ``module``."""
        return [i.struct(module, dtype) for i in self.inputs]

    def draw(self, module: Module, rng: np.random.Generator, dtype: DTypeLike = jnp.float32) -> list[np.ndarray]:
        """One random array for each example input of ``module``."""
        return [i.draw(module, rng, dtype) for i in self.inputs]


@dataclasses.dataclass(frozen=True)
class Published(Entry):
    """The constructor of a published network. All arguments of the constructor have defaults.

    Args:
        kwargs: the arguments that the pinned key list was made with, where they differ from the defaults.
        keys: the name of the pinned key list, tests/catalog/golden/NAME.json, where there is one.
        files: the names of published checkpoints.
        lengths: the arguments that the shapes in a checkpoint tell: {name: (key, n)} says that the first axis of the
            array ``key`` has n entries more than the argument ``name``.
        assumed: what no checkpoint tells about the network, and what is assumed; empty where nothing is.
    """

    cls: Constructor[Module]
    _: dataclasses.KW_ONLY
    keys: str = ""
    files: tuple[str, ...] = ()
    lengths: Mapping[str, tuple[str, int]] = dataclasses.field(default_factory=dict)
    assumed: str = ""

    @property
    def preprocess(self) -> Callable[..., Any]:
        """The published input pipeline, from images to what the network takes."""
        return self.cls.preprocess
